"""Records: what rows of data are, and reading, telling apart, converting and writing them. Knows no torch."""
