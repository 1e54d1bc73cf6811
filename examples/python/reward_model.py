"""A reward model from pairs, which then rates answers."""

import zephyr

rows = [{"prompt": f"How much is {n} + 1?", "chosen": f"It is {n + 1}.", "rejected": "Guess."} for n in range(16)]
made = zephyr.reward_model("model", rows, learning_rate=1e-3, max_length=128, precision="float32")
for row in zephyr.judge(rows, made):
    print([answer["score"] for answer in row["answers"]])
