"""What `zephyr check` imports, measured in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

RECIPE = """\
name: tiny
output_dir: runs
offline: true
model: {kind: new, vocab_size: 320, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
        num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 256}
synth: {generator: {name: world, num_dialogues: 24, num_pretrain_texts: 12, num_feedback_prompts: 8}}
pretrain: {data: {max_length: 160}, train: {learning_rate: 1.0e-3, max_steps: 2}}
sft: {data: {max_length: 160, eval_share: 0.2}, train: {learning_rate: 1.0e-3}}
feedback: {candidates: {num_completions: 3}}
align: {data: {max_length: 160}, objective: {name: dpo}, train: {learning_rate: 1.0e-3}}
evaluate: {tasks: [{name: world, num_prompts: 4}, {name: perplexity}]}
deliver: {}
"""
PROGRAM = """\
import json, sys
from zephyr import __name__ as _
try:
    from zephyr.cli.main import main
except ImportError:  # where the house stood before
    from zephyr.cli import main
try:
    main(["check", "recipe.yaml"])
except SystemExit as stop:
    if stop.code:
        raise
print("\\nMODULES", json.dumps(sorted(sys.modules)))
"""
HEAVY = ("zephyr.train", "peft", "openai")


class Imported(NamedTuple):
    """The package's own modules, and those of training code, peft and openai among them and the others."""

    ours: list[str]
    heavy: list[str]


def imported_by_check(root: Path) -> Imported:
    """What checking a small recipe imports. Raises RuntimeError if the check fails."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "recipe.yaml").write_text(RECIPE)
        environment = os.environ | {"PYTHONPATH": str(root / "src"), "HF_HUB_OFFLINE": "1"}
        words = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    said, _, listed = done.stdout.rpartition("\nMODULES ")
    if not listed:
        raise RuntimeError(f"zephyr check failed: {said or done.stdout}{done.stderr}")
    modules: list[str] = json.loads(listed)
    ours = [name for name in modules if name == "zephyr" or name.startswith("zephyr.")]
    heavy = [name for name in modules if name in HEAVY or name.startswith("zephyr.train.")]
    return Imported(ours, heavy)
