"""Records: rows of data as typed values, read from the known formats and written. Imports no torch."""
