"""The `zephyr` command: one file a command, which turns options into sections of a recipe and runs a stage."""
