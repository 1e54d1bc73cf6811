"""A whole run in small: every stage makes its files, a rerun skips, a change redoes what depends on it."""

import json
from io import StringIO

import pytest
from rich.console import Console

from tests.mini import mini_fields, mini_recipe
from zephyr.errors import DataError, RecipeError, ResourceError
from zephyr.models import loading
from zephyr.models.loading import load_model
from zephyr.models.matmul_speed import MatmulSpeed
from zephyr.pipeline import run_recipe, stage_keys
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import DELIVER, EVALUATE, FEEDBACK, REWARD, STAGE_NAMES, SYNTH
from zephyr.runs.lock import hold_lock
from zephyr.runs.lock_file import measured_dtype, requested_run

STAGES = [name for name in STAGE_NAMES if name != REWARD]  # those of the small recipe


def run(recipe, *, until=None, only=None, pinned=None):
    console = Console(file=StringIO(), width=200)
    summary = run_recipe(recipe, until=until, only=only, pinned=pinned, console=console)
    return summary, console.file.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished run, its summary, and what it said."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, *run(mini_recipe(folder))


def test_every_stage_is_made_and_told(made):
    folder, summary, said = made
    assert list(summary["folders"]) == STAGES
    assert summary["skipped_stages"] == []
    assert list(summary["scores"]) == ["base", "dSFT", "dDPO"]
    for score in summary["scores"].values():
        assert 0 <= score["low"] <= score["score"] <= score["high"] <= 1
        assert score["n"] == 12
    assert {"perplexity/base", "perplexity/dSFT", "perplexity/dDPO"} <= summary["metrics"].keys()
    assert json.loads((folder / "mini/summary.json").read_text()) == summary
    assert "zephyr chat" in said
    for stage in STAGES:
        assert (folder / "mini" / summary["folders"][stage] / "stage.json").is_file()
    assert not list((folder / "mini").glob(".*.partial"))


def test_sft_lowers_the_perplexity_of_held_out_dialogues(made):
    _, summary, _ = made
    assert summary["metrics"]["perplexity/dSFT"] < summary["metrics"]["perplexity/base"]


def test_a_second_run_skips_everything(made):
    folder, first, _ = made
    summary, said = run(mini_recipe(folder))
    assert summary["skipped_stages"] == STAGES
    assert summary["scores"] == first["scores"]
    assert said.count("skipped, finished") == len(STAGES)


def test_a_changed_setting_redoes_what_depends_on_it_and_says_why(made):
    folder, first, _ = made
    fields = mini_fields(folder)
    fields["align"]["objective"] = {"name": "orpo"}
    summary, said = run(Recipe.model_validate(fields))
    assert summary["skipped_stages"] == ["synth", "pretrain", "sft", "feedback"]
    assert 'align.objective.name was "dpo", is "orpo"' in said
    assert list(summary["scores"]) == ["base", "dSFT", "ORPO"]
    assert summary["scores"]["dSFT"] == first["scores"]["dSFT"]
    # What was made before is still there.
    again, _ = run(mini_recipe(folder))
    assert again["skipped_stages"] == STAGES


def test_how_often_checkpoints_are_saved_redoes_nothing(made):
    folder, _, _ = made
    fields = mini_fields(folder)
    fields["sft"]["train"] = fields["sft"]["train"] | {"save_steps": 7}
    assert run(Recipe.model_validate(fields))[0]["skipped_stages"] == STAGES


def test_a_run_is_repeated_from_its_lock_file_alone(made, tmp_path):
    folder, first, _ = made
    lock = folder / "mini/run.lock.json"
    content = json.loads(lock.read_text())
    assert content["seed"] == 42
    assert content["packages"].keys() >= {"zephyr", "torch", "transformers"}
    content["recipe"]["output_dir"] = str(tmp_path)
    moved = tmp_path / "run.lock.json"
    moved.write_text(json.dumps(content))
    asked = requested_run(str(moved), [], offline=True)
    summary, _ = run(asked.recipe, pinned=asked.pinned)
    assert summary["scores"] == first["scores"]
    assert summary["metrics"] == first["metrics"]
    with pytest.raises(RecipeError, match="takes no overrides"):
        requested_run(str(moved), ["seed=1"], offline=True)


def test_the_faster_dtype_is_measured_once_and_kept_for_the_run(tmp_path, monkeypatch):
    dtypes = []

    def noted(source, *, dtype, **settings):
        dtypes.append(dtype)
        return load_model(source, dtype=dtype, **settings)

    def speeds(**flops):
        monkeypatch.setattr(loading, "matmul_speed", lambda: MatmulSpeed(**flops))

    monkeypatch.setattr(loading, "load_model", noted)
    speeds(float32=1e9, bfloat16=9e9)
    fields = mini_fields(tmp_path) | {"inference_dtype": "fastest"}
    fields["align"]["train"] |= {"precision": "fastest"}
    recipe = Recipe.model_validate(fields)
    _, said = run(recipe, until=EVALUATE)
    assert "computes in bfloat16, the faster dtype where this run began" in said
    # Training loads its models in another way.
    assert set(dtypes) == {"bfloat16"}
    speeds(float32=9e9, bfloat16=1e9)
    made = len(dtypes)
    assert run(recipe, until=EVALUATE)[0]["skipped_stages"] == [name for name in STAGES if name != DELIVER]
    assert len(dtypes) == made
    # Repeated from its lock file, which names the dtype; that must not make the recipe measure anew.
    locked = requested_run(str(tmp_path / "mini/run.lock.json"), [], offline=False).recipe
    assert (locked.inference_dtype, locked.align.train.precision) == ("bfloat16", "bf16")
    run(locked, until=EVALUATE)
    assert measured_dtype(tmp_path / "mini") == "bfloat16"
    # Training has a precision of its own.
    dependent = [name for name, key in stage_keys(recipe).items() if "inference_dtype" in key.settings]
    assert dependent == [SYNTH, FEEDBACK, EVALUATE, DELIVER]


def test_until_and_only(made, tmp_path):
    summary, _ = run(mini_recipe(tmp_path), until="synth")
    assert list(summary["folders"]) == ["synth"]
    with pytest.raises(Exception, match="needs the output of stage pretrain"):
        run(mini_recipe(tmp_path), only="sft")
    with pytest.raises(RecipeError, match="did you mean 'align'"):
        run(mini_recipe(tmp_path), until="algn")


def test_two_runs_in_one_folder_exclude_each_other(made):
    folder, _, _ = made
    with hold_lock(folder / "mini"), pytest.raises(ResourceError, match="is in use by process"):
        run(mini_recipe(folder))


def test_changed_data_is_found_by_a_locked_run(tmp_path):
    rows = tmp_path / "pairs.jsonl"
    rows.write_text(json.dumps({"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}) + "\n")
    fields = mini_fields(tmp_path)
    fields = {name: fields[name] for name in ("name", "output_dir", "offline", "model", "synth", "pretrain")}
    fields["align"] = {
        "data": {"sources": [{"path": str(rows)}], "max_length": 160},
        "objective": {"name": "dpo"},
        "train": {"learning_rate": 1.0e-3, "precision": "float32"},
    }
    run(Recipe.model_validate(fields), until="synth")
    asked = requested_run(str(tmp_path / "mini/run.lock.json"), [], offline=True)
    rows.write_text(json.dumps({"prompt": "Hi?", "chosen": "Yes!", "rejected": "No."}) + "\n")
    with pytest.raises(DataError, match=r"have changed since the locked run: align: .*pairs\.jsonl"):
        run(asked.recipe, pinned=asked.pinned, until="synth")
