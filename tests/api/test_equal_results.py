"""What the API gives is what a recipe gives, to the last digit: every function beside its recipe, on a tiny model."""

import json

import pytest
import yaml

import zephyr
from tests.command import chat, jsonl, pair, stage_fields, write_recipe
from tests.command import zephyr as command
from zephyr.runs.layout import TRAIN, TRAIN_LOG

TRAIN_KEYS = {"learning_rate": 1.0e-3, "precision": "float32", "train_batch_size": 4, "logging_steps": 1}
ROWS = {"sft": [chat(number) for number in range(8)], "reward": [pair(number) for number in range(8)]}
PROMPTS = [{"prompt": f"How much is {number} + 3?"} for number in range(6)]


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def rows_of(file):
    """The rows without the name of the file that their prompts come from."""
    return [{name: value for name, value in row.items() if name != "source"} for row in lines(file)]


def made_by_command(folder, capfd, model, **sections):
    """The folders of the stages of a recipe that the command has run."""
    said = command(capfd, "run", write_recipe(folder, model, **sections))
    assert said.code == 0, said.err
    return {path.parent.name.partition("-")[0]: path.parent for path in folder.glob("runs/tiny/*/stage.json")}


@pytest.mark.parametrize(("function", "stage"), [("sft", "sft"), ("reward_model", "reward")])
def test_training(function, stage, tiny_folder, tmp_path, capfd):
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*ROWS[stage]))
    section = {"data": {"sources": [{"path": "rows.jsonl"}], "max_length": 128}, "train": TRAIN_KEYS}
    folder = made_by_command(tmp_path, capfd, tiny_folder, **{stage: section})[stage]
    options = {"max_length": 128, "offline": True, "output_dir": tmp_path / "api", "quiet": True}
    made = getattr(zephyr, function)(tiny_folder, ROWS[stage], **TRAIN_KEYS, **options)
    assert lines(made.folder / TRAIN / TRAIN_LOG) == lines(folder / TRAIN / TRAIN_LOG)
    (weights,) = made.model_folder.glob("*.safetensors")
    assert weights.read_bytes() == (folder / "model" / weights.name).read_bytes()


def test_feedback(tiny_folder, tmp_path, capfd):
    (tmp_path / "prompts.jsonl").write_bytes(jsonl(*PROMPTS))
    sampling = {"max_new_tokens": 6, "temperature": 1.5}
    section = {
        "prompts": [{"path": "prompts.jsonl"}],
        "candidates": {"models": [str(tiny_folder)], "num_completions": 3, "sampling": sampling},
        "judge": {"name": "scripted"},
        "binarize": {"chosen": "mean", "rejected": "worst"},
    }
    folder = made_by_command(tmp_path, capfd, tiny_folder, feedback=section)["feedback"]
    options = {"offline": True, "output_dir": tmp_path / "api"}
    answers = zephyr.generate(tiny_folder, PROMPTS, num_completions=3, **sampling, **options)
    assert rows_of(answers.file) == rows_of(folder / "candidates.jsonl")
    ratings = zephyr.judge(answers, "scripted", **options)
    assert rows_of(ratings.file) == rows_of(folder / "ratings.jsonl")
    pairs = zephyr.binarize(ratings, chosen="mean", rejected="worst", **options)
    assert rows_of(pairs.file) == rows_of(folder / "pairs.jsonl")
    assert len(pairs.rows) > 1


def test_run(tiny_folder, tmp_path, capfd):
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(*ROWS["reward"]))
    align = stage_fields("align", {"path": "pairs.jsonl"}, eval_share=0.25)
    folder = made_by_command(tmp_path, capfd, tiny_folder, align=align)["align"]
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": str(tmp_path / "api")}))
    made = zephyr.run(tmp_path / "again.yaml", quiet=True)
    assert made.training.folder.name == folder.name
    assert lines(made.training.folder / TRAIN / TRAIN_LOG) == lines(folder / TRAIN / TRAIN_LOG)
    facts = json.loads((folder / "stage.json").read_bytes())["facts"]
    for name in ("loss", "eval_loss"):
        assert made.metrics[name] == facts[name]
