"""What a run will take, by arithmetic alone: memory, operations, time, disk. Knows no torch and no recipe."""
