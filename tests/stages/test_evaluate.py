"""The evaluate stage: every model's scores, rows and budgets that its tasks name, and what is known beforehand."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.cli.judged_benches import write_mt_bench
from tests.evaluation.harness.small_data import small_data
from tests.mini import mini_fields, mini_recipe
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.errors import DataError, ZephyrError
from zephyr.evaluation.held_out import Pair, answer_logps, perplexity
from zephyr.models.loading import load_model, save_model
from zephyr.models.source import Source
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.evaluate_section import WorldTask
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.objective_section import SftObjective
from zephyr.recipe.schema import Recipe
from zephyr.records.messages import Message
from zephyr.records.writing import write_jsonl
from zephyr.stages import evaluate
from zephyr.stages.preview import Preview
from zephyr.stages.stage import Work
from zephyr.teachers import local
from zephyr.trees.forest import ScoredSequence


def recipe_with(tmp_path: Path, *tasks: str, **more: object) -> Recipe:
    task = {"name": "harness", "tasks": list(tasks), "data": "data", "shots": 1, "limit": 2, **more}
    return mini_recipe(tmp_path / "runs", data_dir=str(tmp_path), evaluate={"tasks": [task]})


def work_with(recipe: Recipe, tmp_path: Path, *stages: str) -> Work:
    """Work of random models, in a folder of its own, so that nothing is kept from an earlier measurement."""
    inputs = {stage: tmp_path / stage for stage in stages}
    for seed, folder in enumerate(inputs.values()):
        if not folder.exists():
            save_model(tiny_model("mistral", vocab_size=384, seed=seed), tiny_tokenizer(), folder / "model")
    folder = tmp_path / f"evaluate-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return Work(recipe, "evaluate", folder, inputs, tmp_path)


def test_every_model_of_a_run_is_measured(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    recipe = recipe_with(tmp_path, "arc_challenge", "winogrande")
    work = work_with(recipe, tmp_path, "sft", "align")
    found = evaluate.STAGE.run(work)["benchmarks"]
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
    found = evaluate.STAGE.run(work)["benchmarks"]["dSFT"]
    assert found.keys() == {"winogrande", "mt_bench"}
    assert found["mt_bench"]["metric"] == "as_published"
    # Two questions of two turns, whose answers by a model of chance are rated low.
    assert (found["mt_bench"]["n"], found["mt_bench"]["label"]) == (4, "complete")
    assert 1 <= found["mt_bench"]["score"] < 4
    told = json.loads((work.folder / "0-harness-sft" / "evaluation.json").read_text())
    assert told["tasks"].keys() == {"winogrande", "mt_bench"}


def check_lines(recipe: Recipe, tmp_path: Path) -> list[str]:
    """The lines of the check. Raises what is wrong."""
    preview = Preview(recipe, tmp_path)
    lines = list(evaluate.STAGE.check(preview))
    preview.problems.raise_any()
    return lines


def test_check_counts_tasks_and_documents(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    plain = recipe_with(tmp_path, "arc_challenge", "winogrande", limit=None)
    reads, line = check_lines(plain, tmp_path)
    assert reads == "reads pretrain, sft, align"
    assert line == "arc_challenge, winogrande: 2 tasks of 9 documents"
    assert evaluate.STAGE.preflight(work_with(plain, tmp_path)) == {"benchmarks": line}
    few = recipe_with(tmp_path, "arc_challenge", "winogrande", limit=2)
    assert check_lines(few, tmp_path)[1:] == ["arc_challenge, winogrande: 2 tasks of 4 documents"]
    write_mt_bench(tmp_path / "data" / "mt_bench")
    judged = recipe_with(tmp_path, "mt_bench", "winogrande", judge={"name": "scripted"})
    assert check_lines(judged, tmp_path)[1:] == ["mt_bench, winogrande: 1 tasks of 2 documents, 1 judged benchmarks"]


def test_check_refuses_what_cannot_be_done(tmp_path: Path) -> None:
    small_data(tmp_path / "data")
    for tasks, more, problem in (
        (["helaswag"], {}, r"unknown task 'helaswag'; did you mean 'hellaswag'\?"),
        (["mt_bench"], {}, "task mt_bench: needs a judge, and none is given; name one"),
        (["mt_bench"], {"judge": {"name": "scripted"}}, r"there is no question\.jsonl of MT-Bench; get it from"),
    ):
        recipe = recipe_with(tmp_path, *tasks, **more)
        with pytest.raises(ZephyrError, match=problem):
            check_lines(recipe, tmp_path)
        with pytest.raises(DataError, match=problem):
            evaluate.STAGE.preflight(work_with(recipe, tmp_path))


def test_the_estimate_counts_answers_and_models(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path, "winogrande")
    world = {"name": "world", "num_prompts": 10, "num_samples": 2, "sampling": {"max_new_tokens": 12}}
    section = recipe.evaluate.model_copy(update={"tasks": [WorldTask.model_validate(world), *recipe.evaluate.tasks]})
    preview = Preview(recipe.model_copy(update={"evaluate": section}), tmp_path)
    assert list(evaluate.STAGE.estimate(preview)) == [
        "world: 60 answers by 3 models, 12 tokens at most",
        "winogrande: 3 models",
    ]


# ---- held-out rows that a task names ----


def write_pairs(path: Path, *words: str) -> None:
    write_jsonl(
        path, [{"prompt": f"Say {word}.", "chosen": f"{word}, gladly", "rejected": "No idea at all."} for word in words]
    )


def write_dialogues(path: Path, *words: str) -> None:
    rows = [[{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": word}] for word in words]
    write_jsonl(path, [{"messages": messages} for messages in rows])


def measured(tmp_path: Path, task: dict, **changes: object) -> dict:
    """The metrics of one task on the models of sft and align, which are random ones."""
    recipe = mini_recipe(tmp_path / "runs", data_dir=str(tmp_path), evaluate={"tasks": [task]}, **changes)
    metrics = evaluate.STAGE.run(work_with(recipe, tmp_path, "sft", "align"))["metrics"]
    assert isinstance(metrics, dict)
    return metrics


def test_named_pairs_are_measured_by_the_window_of_align(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", "hen", "owl", "fox")
    write_pairs(tmp_path / "one.jsonl", "owl")
    three = measured(tmp_path, {"name": "preference", "sources": [{"path": "pairs.jsonl"}]})
    assert (three["preference/pairs"], three["preference/prompts"]) == (3, 3)
    one = measured(tmp_path, {"name": "preference", "sources": [{"path": "one.jsonl"}]})
    assert one["preference/pairs"] == 1
    assert one["preference/margin"] != three["preference/margin"]
    # The reward of the pair by hand: log-probs of the policy minus those of the model that align starts from.
    encoder = DialogueEncoder(tiny_tokenizer(), ChatTemplateSection())
    prompt = encoder.prompt((Message("user", "Say owl."),))
    pair = Pair(prompt, encoder.completion("owl, gladly"), encoder.completion("No idea at all."))
    policy, reference = (
        answer_logps(load_model(Source(str(tmp_path / stage / "model")), dtype="float32"), [pair], max_tokens=512)
        for stage in ("align", "sft")
    )
    chosen, rejected = (0.1 * (policy - reference)[0]).tolist()
    assert one["preference/rewards_chosen"] == pytest.approx(chosen, abs=1e-5)
    assert one["preference/margin"] == pytest.approx(chosen - rejected, abs=1e-5)
    # Longer pairs than the window of align lose as much as in training, or stop the stage.
    short = {"data": {"max_length": 24, "truncation": {"rule": "drop"}}}
    align = mini_fields(tmp_path)["align"] | short
    with pytest.raises(DataError, match=r"max_length of 24 tokens, rule drop: 100\.0% of the rows"):
        measured(tmp_path, {"name": "preference", "sources": [{"path": "pairs.jsonl"}]}, align=align)


def test_named_dialogues_are_measured_as_sft_tokenises_them(tmp_path: Path) -> None:
    write_dialogues(tmp_path / "held.jsonl", "hen", "owl")
    task = {"name": "perplexity", "sources": [{"path": "held.jsonl"}]}
    found = measured(tmp_path, task)
    assert found.keys() == {"perplexity/dSFT", "perplexity/dDPO"}
    encoder = DialogueEncoder(tiny_tokenizer(), ChatTemplateSection())
    loss_on = SftObjective().loss_on
    rows = [
        encoder.dialogue((Message("user", f"Say {word}."), Message("assistant", word)), loss_on=loss_on)
        for word in ("hen", "owl")
    ]
    model = load_model(Source(str(tmp_path / "sft" / "model")), dtype="float32")
    by_hand = perplexity(model, [ScoredSequence(one.ids, one.scored) for one in rows], max_tokens=512)
    assert found["perplexity/dSFT"] == pytest.approx(by_hand.perplexity, rel=1e-4)
    everything = mini_fields(tmp_path)["sft"] | {"objective": {"name": "sft", "loss_on": "everything"}}
    assert measured(tmp_path, task, sft=everything)["perplexity/dSFT"] != found["perplexity/dSFT"]


def test_rows_that_are_named_are_part_of_what_the_stage_reads(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", "hen")
    task = {"name": "preference", "sources": [{"path": "pairs.jsonl"}]}
    recipe = mini_recipe(tmp_path / "runs", data_dir=str(tmp_path), evaluate={"tasks": [task]})
    assert [one.path for one in evaluate.STAGE.sources(recipe)] == ["pairs.jsonl"]
    assert check_lines(recipe, tmp_path) == ["pairs.jsonl: 1 rows"]
    assert evaluate.STAGE.preflight(work_with(recipe, tmp_path)) == {"rows": 1}
    with pytest.raises(ValidationError, match=r"evaluate\.tasks\.0: preference measures the aligned model"):
        Recipe.model_validate({**mini_fields(tmp_path), "align": None, "feedback": None, "evaluate": {"tasks": [task]}})


def test_the_cache_budget_decides_what_is_batched_and_not_what_is_answered(tmp_path: Path, monkeypatch) -> None:
    budgets: list[int] = []
    generated = local.generated

    def watched(*arguments: object, max_cache_tokens: int, **options: object):
        budgets.append(max_cache_tokens)
        return generated(*arguments, max_cache_tokens=max_cache_tokens, **options)

    monkeypatch.setattr(local, "generated", watched)
    tasks = [{"name": "world", "num_prompts": 6, "sampling": {"max_new_tokens": 8}}]
    found = {}
    for budget in (65_536, 512):
        recipe = mini_recipe(tmp_path / "runs", evaluate={"tasks": tasks, "batch_tokens": budget})
        found[budget] = evaluate.STAGE.run(work_with(recipe, tmp_path, "sft"))
    assert found[512] == found[65_536]
    assert budgets == [65_536, 512]
    # It reaches lm-eval's generation tasks too.
    small_data(tmp_path / "data")
    harness = {"tasks": ["gsm8k"], "name": "harness", "data": "data", "limit": 1, "shots": 0, "max_new_tokens": 8}
    recipe = mini_recipe(tmp_path / "runs", data_dir=str(tmp_path), evaluate={"tasks": [harness], "batch_tokens": 4321})
    asked: list[int] = []

    def began(*_: object, max_cache_tokens: int, **_options: object) -> list[object]:
        asked.append(max_cache_tokens)
        raise InterruptedError

    monkeypatch.setattr("zephyr.evaluation.harness.generated.generated", began)
    with pytest.raises(InterruptedError):
        evaluate.STAGE.run(work_with(recipe, tmp_path, "sft"))
    assert asked == [4321]
