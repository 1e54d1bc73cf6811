"""The Python API: each function of it writes a recipe and hands it to the stages' own code, as the command does.

`zephyr.sft` and the others are found here when they are first used; `import zephyr` alone loads none of this.
"""
