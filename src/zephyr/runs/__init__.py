"""The run folder: every file name in it, its records, its lock; the only place that reads or writes its layout."""
