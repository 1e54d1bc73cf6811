"""Direct preference optimization on a datasets.Dataset, of a model in memory."""

from datasets import Dataset
from transformers import AutoModelForCausalLM

import zephyr

rows = [{"prompt": f"How much is {n} + 1?", "chosen": f"It is {n + 1}.", "rejected": "Guess."} for n in range(16)]
model = AutoModelForCausalLM.from_pretrained("model")
made = zephyr.dpo(model, Dataset.from_list(rows), learning_rate=1e-3, beta=0.1, max_length=128, precision="float32")
print(made.metrics["rewards/accuracies"], made.model.num_parameters())
