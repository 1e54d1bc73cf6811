"""What models can do, as numbers with their doubt."""
