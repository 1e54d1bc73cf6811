"""The stages of a run, one file each: what it reads and writes, its checks, its estimate, and how it is made."""
