"""Odds-ratio preference optimization: from a base model in one step, watched while it trains."""

import zephyr

rows = [{"prompt": f"How much is {n} + 1?", "chosen": f"It is {n + 1}.", "rejected": "Guess."} for n in range(16)]
settings = {"learning_rate": 1e-3, "max_length": 128, "precision": "float32", "logging_steps": 1}
zephyr.orpo("model", rows, on_step=lambda step, metrics: print(step, metrics["loss"]), **settings)
