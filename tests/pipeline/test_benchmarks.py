"""lm-eval's tasks inside a run: every model's scores, and what `check` says of them beforehand."""

from pathlib import Path

import pytest

from tests.evaluate.harness.small_data import small_data
from tests.pipeline.mini import mini_recipe
from zephyr.errors import DataError
from zephyr.models.loading import save_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.pipeline.benchmarks import benchmark_lines, benchmark_scores
from zephyr.pipeline.stages import Work
from zephyr.recipe.schema import Recipe


def recipe_with(tmp_path: Path, *tasks: str) -> Recipe:
    task = {"name": "harness", "tasks": list(tasks), "data": "data", "shots": 1, "limit": 2}
    return mini_recipe(tmp_path / "runs", data_dir=str(tmp_path), evaluate={"tasks": [task]})


def test_every_model_of_a_run_is_measured(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    recipe = recipe_with(tmp_path, "arc_challenge", "winogrande")
    inputs = {}
    for seed, stage in enumerate(("sft", "align")):
        inputs[stage] = tmp_path / stage
        save_model(tiny_model("mistral", vocab_size=384, seed=seed), tiny_tokenizer(), inputs[stage] / "model")
    work = Work(recipe, "evaluate", tmp_path / "evaluate", inputs, tmp_path)
    (task,) = recipe.evaluate.tasks
    found = benchmark_scores(work, task, 0, {"sft": "dSFT", "align": "dDPO"})
    assert found.keys() == {f"{name}/{title}" for name in ("arc_challenge", "winogrande") for title in ("dSFT", "dDPO")}
    assert set(found.values()) <= {0.0, 50.0, 100.0}
    assert (tmp_path / "evaluate" / "0-harness-align" / "arc_challenge" / "result.json").is_file()


def test_check_counts_what_will_be_asked(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    lines = list(benchmark_lines(recipe_with(tmp_path, "arc_challenge", "winogrande")))
    assert lines == ["arc_challenge, winogrande: 2 tasks of 9 documents"]


def test_check_refuses_a_task_that_nobody_has(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    with pytest.raises(DataError, match=r"unknown task 'helaswag'; did you mean 'hellaswag'\?"):
        list(benchmark_lines(recipe_with(tmp_path, "helaswag")))
