"""A sweep makes common stages once, keeps what every combination was made from, and outlives one that fails."""

import json
import re

import pytest

from tests.command import chat, jsonl, pair, stage_fields, write_recipe, zephyr
from zephyr.recipe.loading import read_recipe
from zephyr.runs.lock_file import requested_run


def recipe_in(folder, model):
    (folder / "chats.jsonl").write_bytes(jsonl(*map(chat, range(12))))
    (folder / "pairs.jsonl").write_bytes(jsonl(*map(pair, range(24))))
    sections = {
        "sft": stage_fields("sft", {"path": "chats.jsonl"}),
        "align": stage_fields("align", {"path": "pairs.jsonl"}, eval_share=0.2),
    }
    return write_recipe(folder, model, **sections)


def stages_in(run_folder, stage):
    return sorted(path.name for path in run_folder.glob(f"{stage}-*"))


@pytest.mark.slow
def test_a_sweep(tmp_path, tiny_folder, capfd):
    recipe, run_folder = recipe_in(tmp_path, tiny_folder), tmp_path / "runs/tiny"
    values = "align.train.learning_rate=1e-3,1e38,2e-3"
    said = zephyr(capfd, "sweep", recipe, values)

    # The second diverges and says so; the third is made all the same.
    assert said.code == 1
    assert "3 combinations: 4 different stages of 6, 0 of them finished" in said.out
    assert re.search(r"failed  learning_rate=1e38: .*finite", said.out)
    assert len(stages_in(run_folder, "sft")) == 1
    assert len(stages_in(run_folder, "align")) == 2

    # The reference is scored once for all: no log-prob was added after the first combination.
    (reference,) = (run_folder / "reference").iterdir()
    made = min(path.stat().st_mtime for path in (run_folder / "reference").rglob("*.safetensors"))
    first = min(path.stat().st_mtime for path in run_folder.glob("align-*/stage.json"))
    assert len(list(reference.glob("*.safetensors"))) == 1
    assert made < first

    # Every combination can be repeated from its own lock file, the failed one too.
    for value in (1.0e-3, 1.0e38, 2.0e-3):
        (lock,) = [
            path
            for path in run_folder.glob("sweep/*/run.lock.json")
            if requested_run(str(path), [], offline=True).recipe.align.train.learning_rate == value
        ]
        assert requested_run(str(lock), [], offline=True).recipe.sft == read_recipe(str(recipe)).recipe.sft
        assert (lock.parent / "summary.json").exists() == (value < 1)

    table = json.loads((run_folder / "sweep/learning_rate.json").read_text())
    assert [one["status"] for one in table["combinations"]] == ["finished", "failed", "finished"]
    log = json.loads((run_folder / stages_in(run_folder, "align")[0] / "stage.json").read_text())["facts"]
    losses = [
        score["value"] for one in table["combinations"] for score in one["scores"] if score["of"].endswith("eval_loss")
    ]
    assert log["eval_loss"] in losses
    assert len(losses) == 2
    page = (run_folder / "sweep/learning_rate.html").read_text()
    assert "<svg" in page
    assert str(tmp_path) not in page.replace(table["combinations"][1]["error"], "")

    # Again: what is finished is not made again, what failed is tried again.
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*.safetensors")}
    said = zephyr(capfd, "sweep", recipe, "align.train.learning_rate=1e-3,2e-3")
    assert said.code == 0
    assert "2 combinations: 3 different stages of 4, 3 of them finished" in said.out
    assert {path: path.stat().st_mtime_ns for path in before if path.exists()} == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["align.objective.beta=0.1,-1,-2"], "override, align.objective.beta: must be greater than 0, got -2"),
        (["align.data.sources.0.path=pairs.jsonl,none.jsonl"], "none.jsonl"),
        (["align.train.report_to=[],[jsonl]"], "no stage of this recipe depends on the difference to report_to=[]"),
        (["rounds.count=2,3"], "rounds"),
    ],
)
def test_no_combination_begins_when_one_cannot(tmp_path, tiny_folder, capfd, settings, said):
    ended = zephyr(capfd, "sweep", recipe_in(tmp_path, tiny_folder), *settings)
    assert ended.code == 2
    assert said in ended.err
    assert not list(tmp_path.glob("runs/tiny/*/stage.json"))


def test_a_dry_run_checks_and_stops(tmp_path, tiny_folder, capfd):
    said = zephyr(capfd, "sweep", recipe_in(tmp_path, tiny_folder), "align.objective.beta=0.1,0.2", "--dry-run")
    assert said.code == 0
    assert "2 combinations: 3 different stages of 4" in said.out
    assert not list(tmp_path.glob("runs/tiny/*/stage.json"))


def test_an_agent_of_weights_and_biases_passes_settings_without_hyphens(tmp_path):
    """`${args_no_hyphens}` is key=value with Python's words for values; `${args}` puts two hyphens before."""
    settings = {"align.objective.beta": 0.05, "align.train.learning_rate": 5e-07, "align.train.max_steps": None}
    passed = [f"{name}={value}" for name, value in settings.items() if value is not None]
    recipe = read_recipe("quickstart", passed).recipe
    assert recipe.align.objective.beta == 0.05
    assert recipe.align.train.learning_rate == 5e-07


def test_settings_with_hyphens_are_answered_with_the_right_form(capfd):
    said = zephyr(capfd, "run", "quickstart", "--align.objective.beta=0.05")
    assert said.code == 2
    assert "write align.objective.beta=0.05" in said.err
