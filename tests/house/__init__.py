"""Measures of the house rules; `python -m tests.house [PATH]` prints them for this tree or another one."""
