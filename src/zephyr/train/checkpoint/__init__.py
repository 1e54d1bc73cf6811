"""Checkpoints: atomic, checksummed, free of pickles; and going on from the newest whole one."""
