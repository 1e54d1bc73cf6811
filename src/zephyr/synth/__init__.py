"""Dialogues that a teacher writes."""
