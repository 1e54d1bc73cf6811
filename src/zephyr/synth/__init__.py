"""Dialogues that a teacher writes: answers to prompts, Self-Instruct tasks, talks of many turns."""
