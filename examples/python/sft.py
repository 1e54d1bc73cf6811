"""Supervised fine-tuning of a model on dialogues, with adapters."""

import zephyr

rows = [{"prompt": f"How much is {n} + 1?", "completion": f"It is {n + 1}."} for n in range(40)]
made = zephyr.sft("model", rows, learning_rate=1e-3, lora={"r": 8}, max_length=128, eval_share=0.1, precision="float32")
print(made.folder, made.adapter_folder, made.metrics["loss"])
