"""Small recipes for the tests of this folder."""

from pathlib import Path

SMALL = """\
name: small
model: {kind: pretrained, name_or_path: some/model}
sft:
  data:
    sources: [{path: chats.jsonl}]
  train:
    learning_rate: 1.0e-4
align:
  data:
    sources: [{path: pairs.jsonl}]
  objective: {name: dpo, beta: 0.1, loss_type: ipo}
  train: {learning_rate: 5e-7}
evaluate:
  tasks: [{name: world}, {name: world, num_prompts: 7}]
"""


def write(folder: Path, text: str = SMALL, name: str = "small.yaml") -> str:
    """The path of a new file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)
