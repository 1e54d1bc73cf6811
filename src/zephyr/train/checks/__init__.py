"""What training proves of itself before and while it runs, and the health of a run in words."""
