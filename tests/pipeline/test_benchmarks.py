"""Benchmarks inside a run: every model's scores, lm-eval's and a judge's, and what is said of them beforehand."""

import json
from pathlib import Path

import pytest

from tests.cli.judged_benches import write_mt_bench
from tests.evaluate.harness.small_data import small_data
from tests.pipeline.mini import mini_recipe
from zephyr.errors import DataError
from zephyr.models.loading import save_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.pipeline.benchmarks import benchmark_lines, benchmark_scores
from zephyr.recipe.schema import Recipe
from zephyr.stages.stage import Work


def recipe_with(tmp_path: Path, *tasks: str, **more: object) -> Recipe:
    task = {"name": "harness", "tasks": list(tasks), "data": "data", "shots": 1, "limit": 2, **more}
    return mini_recipe(tmp_path / "runs", data_dir=str(tmp_path), evaluate={"tasks": [task]})


def work_with(recipe: Recipe, tmp_path: Path, *stages: str) -> Work:
    inputs = {stage: tmp_path / stage for stage in stages}
    for seed, folder in enumerate(inputs.values()):
        save_model(tiny_model("mistral", vocab_size=384, seed=seed), tiny_tokenizer(), folder / "model")
    return Work(recipe, "evaluate", tmp_path / "evaluate", inputs, tmp_path)


def test_every_model_of_a_run_is_measured(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    recipe = recipe_with(tmp_path, "arc_challenge", "winogrande")
    work = work_with(recipe, tmp_path, "sft", "align")
    (task,) = recipe.evaluate.tasks
    found = benchmark_scores(work, task, 0, {"sft": "dSFT", "align": "dDPO"})
    assert {title: set(scores) for title, scores in found.items()} == {
        "dSFT": {"arc_challenge", "winogrande"},
        "dDPO": {"arc_challenge", "winogrande"},
    }
    arc = found["dDPO"]["arc_challenge"]
    assert arc["score"] in (0.0, 50.0, 100.0)
    assert arc["low"] <= arc["score"] <= arc["high"]
    assert (arc["n"], arc["metric"]) == (2, "acc_norm")
    told = json.loads((work.folder / arc["file"]).read_text())
    assert told["scores"]["score"]["score"] == arc["score"]


def test_judged_benchmarks_stand_beside_the_others(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    write_mt_bench(tmp_path / "data" / "mt_bench")
    recipe = recipe_with(tmp_path, "winogrande", "mt_bench", judge={"name": "scripted"})
    work = work_with(recipe, tmp_path, "sft")
    (task,) = recipe.evaluate.tasks
    found = benchmark_scores(work, task, 1, {"sft": "dSFT"})["dSFT"]
    assert found.keys() == {"winogrande", "mt_bench"}
    assert found["mt_bench"]["metric"] == "as_published"
    # Two questions of two turns, whose answers by a model of chance are rated low.
    assert (found["mt_bench"]["n"], found["mt_bench"]["label"]) == (4, "complete")
    assert 1 <= found["mt_bench"]["score"] < 4
    told = json.loads((work.folder / "1-harness-sft" / "evaluation.json").read_text())
    assert told["tasks"].keys() == {"winogrande", "mt_bench"}


def test_check_counts_what_will_be_asked(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    lines = list(benchmark_lines(recipe_with(tmp_path, "arc_challenge", "winogrande")))
    assert lines == ["arc_challenge, winogrande: 2 tasks of 9 documents"]
    write_mt_bench(tmp_path / "data" / "mt_bench")
    judged = recipe_with(tmp_path, "mt_bench", "winogrande", judge={"name": "scripted"})
    assert list(benchmark_lines(judged)) == ["mt_bench, winogrande: 1 tasks of 3 documents, 1 judged benchmarks"]


def test_check_refuses_what_cannot_be_done(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    with pytest.raises(DataError, match=r"unknown task 'helaswag'; did you mean 'hellaswag'\?"):
        list(benchmark_lines(recipe_with(tmp_path, "helaswag")))
    with pytest.raises(DataError, match="task mt_bench: is rated by a judge, and none is named; name one"):
        list(benchmark_lines(recipe_with(tmp_path, "mt_bench")))
    with pytest.raises(DataError, match=r"there is no question\.jsonl of MT-Bench; get it from"):
        list(benchmark_lines(recipe_with(tmp_path, "mt_bench", judge={"name": "scripted"})))
