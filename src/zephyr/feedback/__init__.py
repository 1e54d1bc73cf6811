"""AI feedback: several answers to every prompt, their ratings by a judge, and training rows made of these."""
