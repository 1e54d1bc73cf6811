"""What a check says of calls to come: the numbers that a run then asks for, without asking anything."""

import json

import pytest

from tests.pipeline.mini import mini_fields, mini_recipe
from tests.synth.form_teacher import FormTeacher
from zephyr.errors import DataError
from zephyr.pipeline.calls_ahead import asked_by_synth, calls_of_synth
from zephyr.pipeline.check import check_lines
from zephyr.pipeline.make_synth import make_synth
from zephyr.pipeline.stages import plan_stages
from zephyr.recipe.schema import Recipe
from zephyr.recipe.synth_section import SelfInstructSynth, SynthSection
from zephyr.recipe.teacher_section import EndpointSection
from zephyr.records.writing import write_jsonl
from zephyr.stages.stage import Work
from zephyr.synth.tasks import Instance, Task, task_fields
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.scripted import ScriptedTeacher
from zephyr.world import prompts

ENDPOINT = {"name": "endpoint", "model": "big", "base_url": "http://127.0.0.1:9/v1", "deadline_seconds": 1.0}
PRICED = ENDPOINT | {"prices": {"prompt": 2.0, "completion": 10.0}}


def recipe_of(tmp_path, **synth) -> Recipe:
    fields = mini_fields(tmp_path)
    return Recipe.model_validate(fields | {"synth": fields["synth"] | synth})


def test_the_world_is_asked_as_often_as_it_has_dialogues(tmp_path):
    (line,) = calls_of_synth(recipe_of(tmp_path, teacher=PRICED | {"sampling": {"max_new_tokens": 100}}))
    assert line.startswith("asks big for about 240 answers: ")
    assert "at most 24,000 of answers" in line
    tokens = int(line.split(": ")[1].split(" prompt")[0].replace(",", ""))
    assert 240 * 5 < tokens < 240 * 100
    assert float(line.rpartition(" ")[2]) == pytest.approx((tokens * 2 + 24_000 * 10) / 1e6, abs=0.01)


def test_by_files_it_costs_half(tmp_path):
    (whole,) = calls_of_synth(recipe_of(tmp_path, teacher=PRICED))
    (half,) = calls_of_synth(recipe_of(tmp_path, teacher=PRICED | {"batch": True}))
    prices = [float(line.rpartition(" ")[2]) for line in (whole, half)]
    assert prices[1] == pytest.approx(prices[0] / 2, abs=0.01)


def test_the_scripted_teacher_costs_nothing(tmp_path):
    recipe = mini_recipe(tmp_path)
    assert list(calls_of_synth(recipe)) == []


def test_a_cap_that_can_be_met_is_said(tmp_path):
    (_, line) = calls_of_synth(recipe_of(tmp_path, teacher=PRICED | {"max_total_tokens": 1000, "max_total_price": 5}))
    assert line.startswith("the cap of 1,000 tokens and price 5.00 can be reached")
    assert len(list(calls_of_synth(recipe_of(tmp_path, teacher=PRICED | {"max_total_tokens": 10**9})))) == 1


def test_what_the_ledger_holds_is_said(tmp_path):
    recipe = recipe_of(tmp_path, teacher=PRICED)
    with Ledger(tmp_path / "mini" / "calls.sqlite") as ledger:
        list(LedgeredTeacher(ScriptedTeacher(), ledger).answer([_request()]))
        (total,) = ledger.totals()
    (_, line) = calls_of_synth(recipe)
    assert line.startswith(f"the run's ledger holds {total.prompt_tokens + total.completion_tokens} tokens")


def _request():
    from zephyr.teachers.protocol import ChatRequest

    return ChatRequest("a", next(iter(prompts("feedback", 0, 1))).messages)


@pytest.mark.parametrize("name", ["ultrachat", "self_instruct"])
def test_a_run_asks_for_about_what_was_foretold(name, tmp_path, monkeypatch):
    seeds = [Task("", f"Seed task about subject number {n}", n % 2 == 0, (Instance("", "x"),)) for n in range(16)]
    write_jsonl(tmp_path / "seeds.jsonl", map(task_fields, seeds))
    generators = {
        "ultrachat": {"name": name, "num_dialogues": 40, "max_turns": 2},
        "self_instruct": {"name": name, "seeds": "seeds.jsonl", "num_instructions": 40},
    }
    fields = {key: value for key, value in mini_fields(tmp_path).items() if key not in ("pretrain", "deliver")}
    fields |= {"model": {"kind": "pretrained", "name_or_path": "m"}, "data_dir": str(tmp_path)}
    recipe = Recipe.model_validate(fields | {"synth": {"generator": generators[name], "teacher": ENDPOINT}})
    lines = list(calls_of_synth(recipe))
    foretold = sum(int(line.partition("about ")[2].partition(" ")[0].replace(",", "")) for line in lines)
    teacher = FormTeacher()
    monkeypatch.setattr("zephyr.pipeline.make_synth.writer", lambda section, work: teacher)
    folder = tmp_path / "synth"
    folder.mkdir()
    make_synth(Work(recipe, "synth", folder, {}, tmp_path))
    assert 0.5 < len(teacher.asked) / foretold < 2
    assert len(lines) == 2


def test_too_few_classification_seeds_are_said_before_the_run(tmp_path):
    seeds = [Task("", f"Seed task about subject number {n}", n < 3, (Instance("", "x"),)) for n in range(16)]
    write_jsonl(tmp_path / "seeds.jsonl", map(task_fields, seeds))
    generator = SelfInstructSynth(seeds="seeds.jsonl", classification_only=True)
    section = SynthSection(generator=generator, teacher=EndpointSection.model_validate(ENDPOINT))
    with pytest.raises(DataError, match="8 classification seed tasks, got 3 of 16"):
        asked_by_synth(section, seed=0, data_dir=tmp_path)


def test_a_check_says_it(tmp_path):
    recipe = mini_recipe(tmp_path, feedback={"judge": PRICED})
    said = [line for line in check_lines(recipe) if " asks big, the judge, for about " in line]
    # Four answers to each of 24 prompts by one model, rated by aspect and overall.
    assert [json.loads(line.split("about ")[1].split(" ")[0]) for line in said] == [24 * 8]


def test_prices_caps_and_paces_make_no_other_stage(tmp_path):
    def digest(**changes: object) -> str:
        recipe = mini_recipe(tmp_path, feedback={"judge": PRICED | changes})
        return next(one.key.digest for one in plan_stages(recipe, lambda _: "") if one.stage == "feedback")

    assert digest() == digest(
        concurrency=3, max_total_price=9.0, prices={"prompt": 1.0}, api_key_env="OTHER", batch=True
    )
    assert digest() != digest(model="other")
    assert digest() != digest(structured=True)
