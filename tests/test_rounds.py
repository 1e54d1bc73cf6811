"""On-policy rounds in small: what each is made from, what is skipped, where they stop, and what is kept."""

import json
import math
import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.mini import mini_fields
from zephyr import rounds
from zephyr.check import check_lines
from zephyr.deliver.card import card_of
from zephyr.errors import NothingToPreferError, RecipeError
from zephyr.evaluation.drift import answer_statistics
from zephyr.evaluation.held_out import Pair, answer_logps
from zephyr.models.loading import load_to_score
from zephyr.models.source import Source
from zephyr.pipeline import run_recipe
from zephyr.recipe.rounds import RoundInputs, later_round
from zephyr.recipe.schema import Recipe
from zephyr.records.rows import Answer, Rated
from zephyr.rounds import FinishedRound, best_round, run_rounds
from zephyr.runs.reader import read_run
from zephyr.stages.training import stored_comparisons


def recipe_in(folder, **changes):
    fields = mini_fields(folder)
    fields["rounds"] = {"count": 2, **changes}
    fields["feedback"]["candidates"]["models"] = ["stage:policy", "stage:pretrain"]
    fields["evaluate"]["tasks"] = [{"name": "world", "num_prompts": 12, "sampling": {"max_new_tokens": 12}}]
    return fields


def run(fields, **options):
    console = Console(file=StringIO(), width=250)
    summary = run_rounds(Recipe.model_validate(fields), console=console, **options)
    return summary, console.file.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of two finished rounds with the first model as reference, their summary, and what was said."""
    folder = tmp_path_factory.mktemp("rounds")
    return folder, *run(recipe_in(folder, reference="first"))


def stage_file(folder, number, stage):
    (path,) = (folder / f"mini/round-{number}").glob(f"{stage}-*/stage.json")
    return json.loads(path.read_text())


def prompts_of(folder, number):
    (path,) = (folder / f"mini/round-{number}").glob("feedback-*/ratings.jsonl")
    return {json.dumps(json.loads(line)["prompt"]) for line in path.read_text().splitlines()}


def test_a_round_begins_with_the_model_of_the_round_before(made):
    folder, summary, _ = made
    first, second = (read_run(folder / f"mini/round-{number}") for number in (1, 2))
    assert list(first.stages) == ["synth", "pretrain", "sft", "feedback", "align", "evaluate", "deliver"]
    assert list(second.stages) == ["feedback", "align", "evaluate", "deliver"]
    assert second.recipe["model"]["name_or_path"] == str(first.stages["align"].folder / "model")
    # The reference of both rounds is what the first one began with; the other model that answers stays the same.
    assert second.recipe["align"]["reference"] == str(first.stages["sft"].folder / "model")
    assert second.recipe["feedback"]["candidates"]["models"] == [
        "stage:policy",
        str(first.stages["pretrain"].folder / "model"),
    ]
    assert summary["model"] == str(second.stages["align"].folder / "model")
    assert [one["folder"] for one in summary["rounds"]] == ["round-1", "round-2"]


def test_the_card_of_a_later_round_says_what_all_rounds_came_from(made, tmp_path):
    folder, _, _ = made
    shutil.copytree(folder / "mini", tmp_path / "mini")
    locks = [tmp_path / f"mini/round-{number}/run.lock.json" for number in (1, 2)]
    first, second = (json.loads(path.read_text()) for path in locks)
    (model,) = (tmp_path / "mini/round-1").glob("align-*/model")
    first["recipe"]["model"] = {"name_or_path": "someone/start"}
    first["recipe"]["sft"]["data"]["sources"] = [{"path": "talks.jsonl", "license": "MIT"}]
    first["model_revision"] = "abc"
    second["recipe"]["model"]["name_or_path"] = str(model)
    second["recipe"]["feedback"]["prompts"] = [{"path": str(model.parents[1] / "synth-0/prompts.jsonl")}]
    for path, lock in zip(locks, (first, second), strict=True):
        path.write_text(json.dumps(lock))
    record = read_run(tmp_path / "mini/round-2")
    assert [one.folder.name for one in record.lineage] == ["round-2", "round-1"]
    card = card_of(record)
    assert "base_model: someone/start" in card
    assert "**Finetuned from model:** someone/start at revision abc" in card
    assert "**Data:** talks.jsonl, licence: MIT" in card
    assert "prompts.jsonl" not in card


def test_no_prompt_is_answered_in_two_rounds(made):
    folder, _, _ = made
    first, second = prompts_of(folder, 1), prompts_of(folder, 2)
    assert first
    assert second
    assert not first & second


@pytest.mark.parametrize(
    ("feedback", "read"),
    [
        ({}, ["made.jsonl"]),
        ({"prompts": [{"path": "own.jsonl"}]}, ["own.jsonl"]),
        ({"prompts": [{"path": "own.jsonl"}], "with_made_prompts": True}, ["own.jsonl", "made.jsonl"]),
    ],
)
def test_a_later_round_reads_the_prompts_that_the_first_one_read(feedback, read, tmp_path):
    fields = recipe_in(tmp_path)
    fields["feedback"] |= feedback
    models = {"pretrain": tmp_path / "pretrain", "sft": tmp_path / "sft"}
    inputs = RoundInputs(tmp_path, tmp_path, models, tmp_path / "made.jsonl")
    second = later_round(Recipe.model_validate(fields), 2, inputs)
    assert [Path(source.path).name for source in second.feedback.prompts] == read
    assert not second.feedback.with_made_prompts  # there is no synth stage any more


def test_the_reference_is_another_model_than_the_policy(made):
    folder, _, _ = made
    metrics = {}
    for number in (1, 2):
        (path,) = (folder / f"mini/round-{number}").glob("align-*/train/train_log.jsonl")
        metrics[number] = json.loads(path.read_text().splitlines()[0])
    # At its first step the policy of round 1 is its reference, so nothing is preferred; that of round 2 is not.
    assert metrics[1]["rewards/margins"] != metrics[2]["rewards/margins"]


def learning_from_lists(folder, model, objective):
    """A recipe whose rounds begin with this model and learn from all answers of a prompt, a whole round a step."""
    fields = recipe_in(folder)
    fields["model"] = {"kind": "pretrained", "name_or_path": model}
    del fields["pretrain"], fields["sft"], fields["evaluate"], fields["deliver"]
    fields["feedback"]["candidates"]["models"] = ["stage:policy"]
    fields["feedback"]["binarize"] = {"output": "listwise"}
    fields["align"]["objective"] = {"name": objective}
    fields["align"]["train"] = fields["align"]["train"] | {"train_batch_size": 64, "logging_steps": 1, "max_steps": 2}
    return fields


def test_lists_of_answers_are_learnt_in_every_round(made, tmp_path):
    """Where policy and reference agree, an answer with k worse ones costs ln(k + 1): arXiv 2305.18290, appendix A.3."""
    _, before, _ = made
    summary, _ = run(learning_from_lists(tmp_path, before["model"], "listwise"))
    assert summary["best"] == "round-2"
    assert not prompts_of(tmp_path, 1) & prompts_of(tmp_path, 2)
    for number in (1, 2):
        (path,) = (tmp_path / f"mini/round-{number}").glob("feedback-*/pairs.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lists = [row.get("ratings") or [row["score_chosen"], row["score_rejected"]] for row in rows]
        (path,) = (tmp_path / f"mini/round-{number}").glob("align-*/train/train_log.jsonl")
        first = json.loads(path.read_text().splitlines()[0])
        assert max(map(len, lists)) > 2
        # The reference is the model that the round starts from, in the second one too.
        costs = [math.log(1 + sum(one > other for other in of)) for of in lists for one in of]
        assert first["loss"] == pytest.approx(sum(costs) / len(lists), abs=1e-5)


@pytest.mark.slow
def test_the_best_answers_are_imitated_in_every_round(made, tmp_path):
    """Rejection sampling: the first loss is the NLL a token of the best answers by the model the round begins with."""
    _, before, _ = made
    summary, _ = run(learning_from_lists(tmp_path, before["model"], "best_of_n"))
    starts = [before["model"], summary["rounds"][0]["model"]]
    for number, start in enumerate(starts, 1):
        record = read_run(tmp_path / f"mini/round-{number}")
        examples = list(stored_comparisons(record.stages["align"].folder, "train"))
        pairs = [Pair(one.prompt, one.completions[0], one.completions[-1]) for one in examples]
        logps = answer_logps(load_to_score(Source(start, offline=True)), pairs, max_tokens=4096)
        num_tokens = sum(len(one.completions[0]) for one in examples)
        first, last = map(
            json.loads, (record.stages["align"].folder / "train/train_log.jsonl").read_text().splitlines()
        )
        assert first["loss"] == pytest.approx(-float(logps[:, 0].sum()) / num_tokens, abs=1e-5)
        assert last["loss"] < first["loss"]


def test_drift_begins_at_nothing(made):
    _, summary, said = made
    first, second = (one["drift"] for one in summary["rounds"])
    assert first["kl"] == 0
    assert second["kl"] != 0
    assert first["answers"] > 0
    assert 0 < first["distinct"] <= 1
    assert "KL to the first" in said


def test_finished_rounds_are_skipped(made):
    folder, summary, _ = made
    again, said = run(recipe_in(folder, reference="first"))
    assert again == summary
    assert "begins" not in said
    assert said.count("skipped, finished") == 7 + 4


def test_a_check_shows_the_first_round(made, tmp_path):
    lines = list(check_lines(Recipe.model_validate(recipe_in(tmp_path))))
    assert any(line.startswith("rounds") and "2 at most" in line for line in lines)
    assert any("mini/round-1/align-" in line for line in lines)


def test_a_model_from_outside_is_measured_before_the_first_round(made, tmp_path):
    folder, summary, _ = made
    fields = recipe_in(tmp_path)
    fields["model"] = {"kind": "pretrained", "name_or_path": summary["model"]}
    del fields["pretrain"], fields["sft"]
    fields["feedback"]["candidates"]["models"] = ["stage:policy"]
    found, _ = run(fields)
    outside = summary["rounds"][1]["scores"]["world"]
    assert found["start"]["scores"]["world"] == outside
    assert read_run(tmp_path / "mini/round-1").recipe["evaluate"]["base_model"] is True
    assert read_run(tmp_path / "mini/round-2").recipe["evaluate"]["base_model"] is False
    assert folder != tmp_path


def test_only_a_stage_of_the_first_round_can_be_asked_for(tmp_path):
    summary, _ = run(recipe_in(tmp_path), until="synth")
    assert list(summary["folders"]) == ["synth"]
    assert not (tmp_path / "mini/round-2").exists()
    with pytest.raises(RecipeError, match=r"--only: a stage of which round is not known"):
        run(recipe_in(tmp_path), only="align")


def test_it_stops_where_the_watched_score_has_not_risen(made, tmp_path):
    _, before, _ = made
    fields = recipe_in(tmp_path, count=3, watch="world")
    fields["model"] = {"kind": "pretrained", "name_or_path": before["model"]}
    del fields["pretrain"], fields["sft"]
    fields["feedback"]["candidates"]["models"] = ["stage:policy"]
    summary, said = run(fields)
    scores = [one["scores"]["world"] for one in summary["rounds"]]
    best = scores.index(max(scores))
    is_better = scores[best] > summary["start"]["scores"]["world"]
    assert ("no round is better at world than the start" in said) is not is_better
    assert summary["best"] == f"round-{best + 1}"
    assert len(scores) == 3 or len(scores) - 1 - best == 1
    assert summary["model"] == summary["rounds"][best]["model"]


def test_a_round_that_teaches_nothing_is_the_end(made, monkeypatch):
    folder, before, _ = made
    equal = NothingToPreferError("feedback", "no pairs can be made of 12 prompts", "give other prompts")

    def run_until_then(recipe, **options):
        if recipe.name == "round-2":
            raise equal
        return run_recipe(recipe, **options)

    monkeypatch.setattr(rounds, "run_recipe", run_until_then)
    summary, said = run(recipe_in(folder, reference="first"))
    assert summary["rounds"] == before["rounds"][:1]
    assert summary["best"] == "round-1"
    assert f"round 2 teaches nothing: {equal}; the rounds end before it" in said
    # Under torchrun the others wait for the round.
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NothingToPreferError):
        run(recipe_in(folder, reference="first"))
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(rounds, "run_recipe", lambda _recipe, **_options: (_ for _ in ()).throw(equal))
    with pytest.raises(NothingToPreferError):
        run(recipe_in(folder, reference="first"))


@pytest.mark.parametrize(
    ("scores", "best"), [([0.5, 0.7, 0.6], 1), ([0.5, 0.4, 0.3], 0), ([0.5, 0.5, 0.5], 0), ([None, 0.1], 1)]
)
def test_the_best_round_is_kept(scores, best):
    finished = [FinishedRound(None, Path(), {} if one is None else {"world": one}) for one in scores]
    assert best_round(finished, "world") == best
    assert best_round(finished, None) == len(scores) - 1


def test_answers_by_hand():
    rows = [Rated("a", (), (Answer("it is so", "m"), Answer("it is not", "m"), Answer("other words here now", "n")))]
    # Of the four pairs of words (it is, is so, it is, is not) three are distinct.
    assert answer_statistics(rows, "m") == (2, 3.0, 0.75)
    assert answer_statistics(rows, "nobody") == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fields: fields["feedback"]["candidates"].update(models=["stage:sft"]), "does not have stage:policy"),
        (lambda fields: fields["align"].update(start="somewhere"), "align.start: differs from round to round"),
        (lambda fields: fields["rounds"].update(watch="ifeval"), "no task of evaluate gives 'ifeval'; known are world"),
        (lambda fields: fields.pop("feedback"), "there is no feedback stage"),
        (lambda fields: fields["align"].update(objective={"name": "orpo"}), "objective orpo has no reference"),
        (lambda fields: fields["evaluate"]["tasks"].append({"name": "perplexity"}), "later rounds have no sft stage"),
    ],
)
def test_rounds_that_cannot_be_are_refused(tmp_path, change, said):
    fields = recipe_in(tmp_path, reference="first")
    change(fields)
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate(fields)
