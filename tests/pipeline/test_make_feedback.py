"""The feedback stage by its teachers: who answers and rates, what a stop or a cap leaves, and workers of Ray."""

import json
from collections import Counter
from contextlib import nullcontext

import pytest
from pydantic import ValidationError

from tests.feedback.ray_teachers import OneByOne
from tests.pipeline.mini import mini_fields
from zephyr.errors import DataError, TeacherError
from zephyr.feedback import ray_stage
from zephyr.pipeline.make_feedback import make_feedback
from zephyr.pipeline.stages import plan_stages
from zephyr.recipe.schema import Recipe
from zephyr.records.writing import write_jsonl
from zephyr.stages.stage import Work
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher
from zephyr.world import prompts

NUM_PROMPTS = 20


class Named(ScriptedTeacher):
    """The scripted teacher under a name of its own, and with faults of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(fault_rate={"weak": 0.9, "strong": 0.0}[name])
        self.name = name


class Judge(ScriptedJudge):
    """The scripted judge; counts what it is asked, and can be stopped or dumb."""

    def __init__(self):
        super().__init__()
        self.num_asked, self.most, self.is_dumb = 0, 10**9, False

    def answer(self, requests):
        for reply in super().answer(requests):
            if self.num_asked == self.most:
                raise KeyboardInterrupt
            self.num_asked += 1
            yield reply._replace(text="Hm.") if self.is_dumb else reply


@pytest.fixture
def judge(monkeypatch):
    """The judge in the place of the recipe's; teachers that answer are there by their models' names."""
    double = Judge()
    for module in ("make_feedback", "feedback_over_ray"):
        monkeypatch.setattr(f"zephyr.pipeline.{module}.rater", lambda section, work: double)
        monkeypatch.setattr(
            f"zephyr.pipeline.{module}.writer", lambda section, work, where="teacher": Named(section.model)
        )
    return double


def local(model: str) -> dict:
    return {"name": "local", "model": model}


def endpoint(model: str, **changes) -> dict:
    return {"name": "endpoint", "model": model, "base_url": "http://127.0.0.1:9/v1", **changes}


def feedback(*teachers: dict, **changes) -> dict:
    asked = teachers or (local("weak"), local("strong"))
    candidates = {"models": [], "teachers": list(asked), "num_completions": 2}
    return {"candidates": candidates, "judge": local("judge"), **changes}


def recipe_with(section: dict, tmp_path) -> Recipe:
    return Recipe.model_validate(mini_fields(tmp_path) | {"feedback": section})


def made(section: dict, tmp_path, name: str = "run"):
    """The facts and the rows of every file."""
    run_folder = tmp_path / name
    folder, synth = run_folder / "feedback", tmp_path / "synth"
    for one in (folder, synth):
        one.mkdir(parents=True, exist_ok=True)
    write_jsonl(synth / "prompts.jsonl", prompts("feedback", 0, NUM_PROMPTS), replace=True)
    facts = make_feedback(Work(recipe_with(section, tmp_path), "feedback", folder, {"synth": synth}, run_folder))
    return facts, {path.name: [json.loads(line) for line in path.open()] for path in folder.glob("*.jsonl")}


def test_a_pool_of_teachers_answers_and_the_strong_one_is_chosen(judge, tmp_path):
    facts, rows = made(feedback(), tmp_path)
    models = [answer["model"] for row in rows["ratings.jsonl"] for answer in row["answers"]]
    assert set(models) == {"weak", "strong"}
    assert facts["prompts"] == NUM_PROMPTS
    # Both give the same answer where the weak one makes no fault; that is kept once.
    assert facts["answers"]["answered"] + facts["answers"]["repeated"] == 2 * NUM_PROMPTS
    assert facts["pairs"] == len(rows["pairs.jsonl"]) > NUM_PROMPTS / 2
    chosen = Counter(row["model_chosen"] for row in rows["pairs.jsonl"])
    assert chosen["strong"] > 2 * chosen["weak"]


def test_a_stopped_stage_asks_nothing_twice(judge, tmp_path):
    _, whole = made(feedback(), tmp_path, "whole")
    num_whole, judge.num_asked = judge.num_asked, 0
    judge.most = 50
    with pytest.raises(KeyboardInterrupt):
        made(feedback(), tmp_path)
    judge.most = 10**9
    _, rows = made(feedback(), tmp_path)
    assert judge.num_asked == num_whole
    assert rows == whole


def test_endpoints_of_a_run_share_a_ledger_and_the_lowest_cap_holds(judge, tmp_path):
    asked = (endpoint("weak", max_total_tokens=100_000), endpoint("strong", max_total_tokens=400))
    with pytest.raises(TeacherError, match="the spend cap would be passed"):
        made(feedback(*asked), tmp_path)
    with Ledger(tmp_path / "run" / "calls.sqlite") as ledger:
        totals = ledger.totals()
    assert sum(total.prompt_tokens + total.completion_tokens for total in totals) <= 400
    # A higher cap is the same stage, which goes on.
    free = (endpoint("weak"), endpoint("strong"))
    keys = [_key(feedback(*some), tmp_path) for some in (asked, free, (endpoint("weak"), endpoint("other")))]
    assert keys[0] == keys[1] != keys[2]
    facts, _ = made(feedback(*free), tmp_path)
    assert facts["answers"]["asked"] == 2 * NUM_PROMPTS
    with Ledger(tmp_path / "run" / "calls.sqlite") as ledger:
        assert {total.teacher: total.tries for total in ledger.totals()} == {"weak": 20, "strong": 20}


def _key(section: dict, tmp_path) -> str:
    planned = plan_stages(recipe_with(section, tmp_path), lambda source: "")
    return next(one.key.digest for one in planned if one.stage == "feedback")


def test_where_nothing_comes_of_it_the_next_try_asks_again(judge, tmp_path):
    judge.is_dumb = True
    with pytest.raises(DataError, match=r"no pairs can be made of 20 prompts .*there were [\d,]+ x failed"):
        made(feedback(), tmp_path)
    assert not (tmp_path / "run/feedback/ratings.jsonl").exists()
    with pytest.raises(DataError, match="prompt with fewer than two rated answers"):
        made(feedback(), tmp_path)


def test_workers_come_to_the_same(judge, monkeypatch, tmp_path):
    _, alone = made(feedback(), tmp_path, "alone")
    monkeypatch.setattr(ray_stage, "_running", lambda: nullcontext(OneByOne()))
    facts, shared = made(feedback(ray={"num_partitions": 3}), tmp_path, "shared")
    assert facts["answers"]["asked"] == 2 * NUM_PROMPTS
    assert facts["ratings"]["rated"] == facts["ratings"]["questions"]
    for name in ("ratings.jsonl", "calls.jsonl", "pairs.jsonl"):
        for rows in (shared[name], alone[name]):
            for row in rows:
                row.pop("row", None)  # of the prompts' file there, of the candidates' here
        assert sorted(map(str, shared[name])) == sorted(map(str, alone[name]))
    left = {path.name for path in (tmp_path / "shared/feedback").iterdir()}
    assert left == {"ratings.jsonl", "calls.jsonl", "calls.sqlite", "counts.json", "pairs.jsonl"}
    ways = [{"num_workers": 2}, {"num_workers": 8, "gpus_per_worker": 1}, {"num_partitions": 4}]
    keys = [_key(feedback(ray=ray), tmp_path) for ray in ways]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (feedback() | {"judge": local("j") | {"sampling": {"top_k": 3}}}, "feedback.judge.sampling: is not used here"),
        (feedback(local("a") | {"sampling": {"temperature": 1}}), "write feedback.candidates.sampling, which is for"),
        (feedback(local("a"), endpoint("a")), "two that answer have one name, got 'a' twice"),
        (feedback(local("stage:align")), "feedback.candidates.teachers.0.model: no stage before feedback"),
        ({"candidates": {"models": []}}, "models and teachers are both empty, so nobody answers"),
    ],
)
def test_what_does_not_go_together_is_refused(section, said, tmp_path):
    with pytest.raises(ValidationError, match=said.replace(".", r"\.")):
        recipe_with(section, tmp_path)
