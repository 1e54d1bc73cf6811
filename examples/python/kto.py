"""Kahneman-Tversky optimization on single answers with a label, of a model with adapters of peft."""

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import zephyr

rows = [{"prompt": f"Is {n} even?", "completion": "Yes.", "label": n % 2 == 0} for n in range(16)]
model = get_peft_model(AutoModelForCausalLM.from_pretrained("model"), LoraConfig(r=4, target_modules=["q_proj"]))
made = zephyr.kto(model, rows, learning_rate=1e-3, max_length=128, precision="float32")
print(made.adapter_folder, made.metrics["loss"])
