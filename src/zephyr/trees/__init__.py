"""Sequences that share prefixes: their layout, their attention, and their scores. Knows torch alone."""
