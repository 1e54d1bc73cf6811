"""The verbs of the command, a file for each group. Heavy libraries are imported when a verb runs."""
