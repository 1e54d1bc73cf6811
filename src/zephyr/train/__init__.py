"""The training stage: losses, objectives, the loop, and the proofs it runs on itself."""
