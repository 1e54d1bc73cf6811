"""Filters on rows, what they dropped, and the texts of evaluation sets that rows are compared with."""
