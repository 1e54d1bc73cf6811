"""What is made of a run for those who read about it."""
