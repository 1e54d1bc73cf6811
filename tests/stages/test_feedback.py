"""The feedback stage by its teachers: who answers and rates, what a stop or a cap leaves, and workers of Ray."""

import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from tempfile import mkdtemp

import pytest
from pydantic import ValidationError

from tests.feedback.ray_teachers import OneByOne
from tests.mini import mini_fields, mini_recipe
from zephyr.errors import RecipeError, TeacherError
from zephyr.feedback import rate, ray_workers
from zephyr.pipeline import stage_keys
from zephyr.recipe.schema import Recipe
from zephyr.recipe.teacher_section import ScriptedSection
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, Prompt, Rated
from zephyr.records.writing import write_jsonl
from zephyr.stages import feedback as stage
from zephyr.stages.call_estimate import call_lines, estimate_feedback
from zephyr.stages.preview import Preview
from zephyr.stages.stage import Work
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.opening import OpenedTeacher
from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher
from zephyr.teachers.vllm_engine import is_installed
from zephyr.world import prompts

NUM_PROMPTS = 20


class Named(ScriptedTeacher):
    """The scripted teacher under a name of its own, and with faults of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(ScriptedSection(fault_rate={"weak": 0.9, "strong": 0.0}[name]))
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

    def opened(section, role, context, *, where):
        teacher = double if role == "rates" else Named(section.model)
        return OpenedTeacher(teacher, teacher.name, section)

    monkeypatch.setattr(stage, "open_teacher", opened)
    monkeypatch.setattr(rate, "open_teacher", opened)
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
    facts = stage.STAGE.run(Work(recipe_with(section, tmp_path), "feedback", folder, {"synth": synth}, run_folder))
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
    with pytest.raises(TeacherError, match="the spend cap would be exceeded"):
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
    return stage_keys(recipe_with(section, tmp_path))["feedback"].digest


def test_a_judge_without_a_single_rating_ends_the_stage(judge, tmp_path):
    judge.is_dumb = True
    with pytest.raises(TeacherError, match=r"gave no rating in its first 24 questions, the last time as 0 lines begin"):
        made(feedback(), tmp_path)
    assert not (tmp_path / "run/feedback/ratings.jsonl").exists()
    with pytest.raises(TeacherError, match="gave no rating"):
        made(feedback(), tmp_path)


def test_workers_come_to_the_same(judge, monkeypatch, tmp_path):
    _, alone = made(feedback(), tmp_path, "alone")
    monkeypatch.setattr(ray_workers, "_running", lambda: nullcontext(OneByOne()))
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
        (feedback(local("a") | {"sampling": {"temperature": 1}}), "set feedback.candidates.sampling, which applies"),
        (feedback(local("a"), endpoint("a")), "two models have the same name, got 'a' twice"),
        (feedback(local("stage:align")), "feedback.candidates.teachers.0.model: no stage before feedback"),
        ({"candidates": {"models": []}}, "models and teachers are both empty, so no model answers"),
    ],
)
def test_what_does_not_go_together_is_refused(section, said, tmp_path):
    with pytest.raises(ValidationError, match=said.replace(".", r"\.")):
        recipe_with(section, tmp_path)


# ---- before the run ----


def estimated(recipe: Recipe, sample, num_prompts: int) -> list[str]:
    return list(call_lines(recipe, estimate_feedback(recipe, sample, num_prompts)))


def test_the_scripted_judge_costs_nothing(tmp_path):
    lines = list(stage.STAGE.estimate(Preview(mini_recipe(tmp_path), tmp_path)))
    assert [line.partition(" about ")[0] for line in lines[:-1]] == ["calls stage:sft"]
    assert lines[-1] == "about 22 pairs, if 90% of the prompts give one"


def test_the_pool_is_asked_in_turns_and_the_judge_about_all(tmp_path):
    candidates = {
        "num_completions": 4,
        "models": ["one", "two"],
        "teachers": [endpoint("big")],
        "sampling": {"max_new_tokens": 10},
    }
    judge_ = endpoint("judge", prices={"prompt": 2.0, "completion": 10.0})
    section = {"candidates": candidates, "judge": judge_, "judging": {"max_new_tokens": 50}}
    sample = [Prompt(f"row {n}", (Message("user", f"Question {n}?"),)) for n in range(30)]
    lines = estimated(recipe_with(section, tmp_path), sample, 3000)
    counts = [int(line.partition("about ")[2].partition(" ")[0].replace(",", "")) for line in lines]
    assert sum(counts[:3]) == 4 * 3000
    assert all(3000 <= count <= 6000 for count in counts[:3])
    # Four aspects about all answers, and the overall score of each.
    assert counts[3] == 8 * 3000
    assert "at most 1,200,000 of answers, price at most" in lines[3]
    assert len(lines) == 4


def checked(recipe: Recipe, tmp_path) -> list[str]:
    preview = Preview(recipe, Path(mkdtemp(dir=tmp_path)))
    lines = list(stage.STAGE.check(preview))
    preview.problems.raise_any()
    return lines


def test_what_is_missing_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    far = {"name": "endpoint", "model": "big", "api_key_env": "SOME_KEY"}
    recipe = mini_recipe(tmp_path, offline=False, feedback={"judge": far})
    with pytest.raises(RecipeError, match=r"^feedback\.judge\.api_key_env: SOME_KEY is not set"):
        checked(recipe, tmp_path)
    for folder in ("far", "engine", "ready"):
        (tmp_path / folder).mkdir()
    with pytest.raises(RecipeError, match="is on another machine"):
        checked(mini_recipe(tmp_path, feedback={"judge": far}), tmp_path / "far")
    if not is_installed():
        engine = mini_recipe(
            tmp_path, feedback={"candidates": {"models": [], "teachers": [{"name": "vllm", "model": "m"}]}}
        )
        with pytest.raises(TeacherError, match="vllm: is not installed"):
            checked(engine, tmp_path / "engine")
    monkeypatch.setenv("SOME_KEY", "sk-x")
    lines = checked(recipe, tmp_path / "ready")
    # Four answers to each of 24 prompts by one model, rated by aspect and overall.
    assert lines[0] == "reads sft, synth"
    assert f"calls big, the judge, about {24 * 8} times" in lines[2]


def test_prompts_and_ratings_from_outside_are_checked_and_read_before_the_run(tmp_path):
    write_jsonl(tmp_path / "asked.jsonl", [{"prompt": f"Question {n}?"} for n in range(30)])
    fields = {"data_dir": str(tmp_path)}
    recipe = mini_recipe(tmp_path, **fields, feedback={"prompts": [{"path": "asked.jsonl"}]})
    lines = checked(recipe, tmp_path)
    assert lines[0] == "asked.jsonl: 30 rows"
    assert lines[1].startswith("calls stage:sft about 120 times")
    work = Work(recipe, "feedback", tmp_path / "f", {}, tmp_path)
    assert stage.STAGE.preflight(work)["rows"] == 30
    assert list(stage.STAGE.estimate(Preview(recipe, tmp_path))) == [
        "prompts come from files: zephyr check estimates the calls"
    ]
    answers = [[("yes", 9.0), ("no", 2.0)], [("yes", 5.0), ("no", 5.0)]]
    rated = [
        Rated(f"{n}", (Message("user", f"Question {n}?"),), tuple(Answer(text, score=score) for text, score in some))
        for n, some in enumerate(answers)
    ]
    write_jsonl(tmp_path / "rated.jsonl", rated)
    recipe = mini_recipe(tmp_path, **fields, feedback={"recorded": [{"path": "rated.jsonl"}]})
    preview = Preview(recipe, Path(mkdtemp(dir=tmp_path)))
    lines = list(stage.STAGE.check(preview))
    assert "1 pairs of 2 prompts" in lines
    assert "prompts without a row: 1 x prompt with all ratings equal" in lines
    assert preview.made["align"].num_rows == 1
    assert stage.STAGE.preflight(Work(recipe, "feedback", tmp_path / "f", {}, tmp_path))["rows"] == 2
    assert (stage.STAGE.reads(recipe), stage.STAGE.outputs(recipe)) == ((), ["pairs.jsonl"])
