"""A whole recipe with settings of its own; stages that are finished are not made again."""

import zephyr

small = {"synth.generator.num_dialogues": 60, "synth.generator.num_pretrain_texts": 20}
made = zephyr.run("quickstart", until="synth", synth__generator__num_feedback_prompts=20, offline=True, **small)
print(made.folder, made.stages["synth"])
