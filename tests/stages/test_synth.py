"""The synth stage by its generators: its files, its facts, and asking nothing twice."""

import json

import pytest
from pydantic import ValidationError

from tests.mini import mini_fields, mini_recipe
from tests.synth.form_teacher import FormTeacher
from zephyr.errors import DataError, ZephyrError
from zephyr.pipeline import stage_keys
from zephyr.recipe.schema import Recipe
from zephyr.recipe.synth_section import SelfInstructSynth, SynthSection
from zephyr.recipe.teacher_section import EndpointSection
from zephyr.records.writing import write_jsonl
from zephyr.stages.preview import Preview
from zephyr.stages.stage import Work
from zephyr.stages.synth import STAGE, estimate_calls, prompts_to_come, sample_rows
from zephyr.synth.tasks import InstructionTask as Task
from zephyr.synth.tasks import TaskInstance as Instance
from zephyr.synth.tasks import task_fields
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.opening import OpenedTeacher
from zephyr.teachers.protocol import ChatRequest
from zephyr.teachers.scripted import ScriptedTeacher

LOCAL = {"name": "local", "model": "somewhere"}
ENDPOINT = {"name": "endpoint", "model": "big", "base_url": "http://127.0.0.1:9/v1", "deadline_seconds": 1.0}
PRICED = ENDPOINT | {"prices": {"prompt": 2.0, "completion": 10.0}}


@pytest.fixture
def teacher(monkeypatch):
    """A teacher that answers in the forms asked for, in the place of the recipe's."""
    double = FormTeacher()
    answer_with(monkeypatch, lambda section: double)
    return double


def answer_with(monkeypatch, double_for):
    """Put a teacher in the place of every one that the stage opens."""

    def opened(section, role, context, *, where):
        return OpenedTeacher(double_for(section), where, section)

    monkeypatch.setattr("zephyr.stages.synth.open_teacher", opened)


def recipe_with(generator, tmp_path, **changes):
    fields = {name: value for name, value in mini_fields(tmp_path).items() if name not in ("pretrain", "deliver")}
    fields["model"] = {"kind": "pretrained", "name_or_path": "m"}
    synth = {"generator": generator, "teacher": LOCAL} | changes
    return Recipe.model_validate(fields | {"synth": synth, "data_dir": str(tmp_path)})


def made(recipe, tmp_path):
    folder = tmp_path / "synth"
    folder.mkdir(exist_ok=True)
    facts = STAGE.run(Work(recipe, "synth", folder, {}, tmp_path))
    rows = {path.name: [json.loads(line) for line in path.open()] for path in folder.glob("*.jsonl")}
    return facts, rows


def write_seeds(path, count=16):
    tasks = [Task("", f"Seed task about subject number {n}", n % 2 == 0, (Instance("", "x"),)) for n in range(count)]
    path.unlink(missing_ok=True)
    write_jsonl(path, map(task_fields, tasks))


def test_self_instruct_leaves_dialogues_prompts_tasks_and_instructions(teacher, tmp_path):
    write_seeds(tmp_path / "seeds.jsonl")
    generator = {"name": "self_instruct", "seeds": "seeds.jsonl", "num_instructions": 20, "feedback_share": 0.3}
    facts, rows = made(recipe_with(generator, tmp_path), tmp_path)
    assert facts["teacher"] == "form teacher"
    assert {name: len(rows[f"{name}.jsonl"]) for name in ("dialogues", "prompts", "tasks", "instructions")} == {
        "dialogues": facts["dialogues"],
        "prompts": facts["prompts"],
        "tasks": 20,
        "instructions": 20,
    }
    assert facts["dialogues"] > facts["prompts"] > 0
    assert len(rows["instructions.jsonl"][0]["most_similar"]) == 10
    learnt = {row["messages"][0]["content"] for row in rows["dialogues.jsonl"]}
    assert learnt.isdisjoint(row["prompt"][0]["content"] for row in rows["prompts.jsonl"])
    num_asked = len(teacher.asked)
    assert made(recipe_with(generator, tmp_path), tmp_path) == (facts, rows)
    assert len(teacher.asked) == num_asked


def test_seeds_can_be_learnt_too(teacher, tmp_path):
    write_seeds(tmp_path / "seeds.jsonl")
    generator = {"name": "self_instruct", "seeds": "seeds.jsonl", "num_instructions": 4, "feedback_share": 0.0}
    without, _ = made(recipe_with(generator, tmp_path), tmp_path)
    including, _ = made(recipe_with(generator | {"include_seeds": True}, tmp_path), tmp_path)
    assert including["dialogues"] == without["dialogues"] + 16


def test_ultrachat_leaves_talks_and_openings(teacher, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "A text of others."}\n')
    passages = [{"path": "texts.jsonl"}]
    generator = {"name": "ultrachat", "num_dialogues": 12, "num_feedback_prompts": 5, "passages": passages}
    facts, rows = made(recipe_with(generator, tmp_path, teacher=LOCAL), tmp_path)
    assert (
        (facts["dialogues"], facts["prompts"]) == (12, 5) == (len(rows["dialogues.jsonl"]), len(rows["prompts.jsonl"]))
    )
    assert {len(row["messages"]) for row in rows["dialogues.jsonl"]} <= {4, 6, 8}
    assert any("A text of others." in row["messages"][0]["content"] for row in rows["dialogues.jsonl"])
    assert {request.max_tokens for request in teacher.asked} == {256}


def test_another_plays_the_person(monkeypatch, tmp_path):
    doubles = {"somewhere": FormTeacher(), "elsewhere": FormTeacher()}
    answer_with(monkeypatch, lambda section: doubles[section.model])
    generator = {"name": "ultrachat", "num_dialogues": 6, "person": LOCAL | {"model": "elsewhere"}}
    made(recipe_with(generator, tmp_path), tmp_path)
    assert {request.key.split()[2] for request in doubles["somewhere"].asked} == {"answer"}
    assert {request.key.split()[2] for request in doubles["elsewhere"].asked} >= {"opening", "follow-up"}


def test_nothing_is_not_a_result(monkeypatch, tmp_path):
    dumb = FormTeacher(lambda request: "\n")
    answer_with(monkeypatch, lambda section: dumb)
    with pytest.raises(DataError, match=r"wrote nothing usable \(6 x talks: begun, \d x failed: "):
        made(recipe_with({"name": "ultrachat", "num_dialogues": 6}, tmp_path), tmp_path)


def test_the_stage_is_another_one_with_other_seeds(tmp_path):
    generator = {"name": "self_instruct", "seeds": "seeds.jsonl"}
    recipe = recipe_with(generator, tmp_path)
    digests = []
    for count in (16, 16, 17):
        write_seeds(tmp_path / "seeds.jsonl", count)
        digests.append(stage_keys(recipe)["synth"].digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("synth", "said"),
    [
        ({"generator": {"name": "ultrachat"}}, "synth.teacher: the scripted teacher knows only the closed world"),
        (
            {"generator": {"name": "ultrachat", "person": {"name": "scripted"}}, "teacher": LOCAL},
            "synth.generator.person: the scripted teacher knows only the closed world",
        ),
        (
            {"generator": {"name": "ultrachat", "person": LOCAL | {"model": "stage:sft"}}, "teacher": LOCAL},
            "synth.generator.person.model: no stage before synth",
        ),
        (
            {"generator": {"name": "ultrachat"}, "teacher": LOCAL},
            "pretrain.data.sources: is empty, and generator ultra",
        ),
        (
            {"generator": {"name": "ultrachat", "min_turns": 5}, "teacher": LOCAL},
            "min_turns 5 must be at most max_turns 4",
        ),
        ({"generator": {"name": "self_instruct", "seeds": 3}, "teacher": LOCAL}, "seeds"),
    ],
)
def test_what_does_not_go_together_is_refused(synth, said, tmp_path):
    with pytest.raises(ValidationError, match=said.replace(".", r"\.")):
        Recipe.model_validate(mini_fields(tmp_path) | {"synth": synth})


def recipe_of(tmp_path, **synth) -> Recipe:
    fields = mini_fields(tmp_path)
    return Recipe.model_validate(fields | {"synth": fields["synth"] | synth})


def estimated(recipe):
    return STAGE.estimate(Preview(recipe, recipe.output_dir / "preview"))


def test_the_world_is_asked_as_often_as_it_has_dialogues(tmp_path):
    (line,) = estimated(recipe_of(tmp_path, teacher=PRICED | {"sampling": {"max_new_tokens": 100}}))
    assert line.startswith("calls big about 240 times: ")
    assert "at most 24,000 of answers" in line
    tokens = int(line.split(": ")[1].split(" prompt")[0].replace(",", ""))
    assert 240 * 5 < tokens < 240 * 100
    assert float(line.rpartition(" ")[2]) == pytest.approx((tokens * 2 + 24_000 * 10) / 1e6, abs=0.01)


def test_by_files_it_costs_half(tmp_path):
    (whole,) = estimated(recipe_of(tmp_path, teacher=PRICED))
    (half,) = estimated(recipe_of(tmp_path, teacher=PRICED | {"batch": True}))
    prices = [float(line.rpartition(" ")[2]) for line in (whole, half)]
    assert prices[1] == pytest.approx(prices[0] / 2, abs=0.01)


def test_a_cap_that_can_be_reached_is_said(tmp_path):
    (_, line) = estimated(recipe_of(tmp_path, teacher=PRICED | {"max_total_tokens": 1000, "max_total_price": 5}))
    assert line.startswith("the cap of 1,000 tokens and price 5.00 may be reached")
    assert len(list(estimated(recipe_of(tmp_path, teacher=PRICED | {"max_total_tokens": 10**9})))) == 1


def test_what_the_ledger_holds_is_said(tmp_path):
    recipe = recipe_of(tmp_path, teacher=PRICED)
    with Ledger(tmp_path / "mini" / "calls.sqlite") as ledger:
        list(
            LedgeredTeacher(ScriptedTeacher(), ledger).answer(
                [ChatRequest("a", prompts_to_come(recipe)[0][0].messages)]
            )
        )
        (total,) = ledger.totals()
    (_, line) = estimated(recipe)
    assert line.startswith(f"the run's ledger holds {total.prompt_tokens + total.completion_tokens} tokens")


@pytest.mark.parametrize("name", ["ultrachat", "self_instruct"])
def test_a_run_makes_about_the_estimated_calls(name, tmp_path, monkeypatch):
    seeds = [Task("", f"Seed task about subject number {n}", n % 2 == 0, (Instance("", "x"),)) for n in range(16)]
    write_jsonl(tmp_path / "seeds.jsonl", map(task_fields, seeds))
    generators = {
        "ultrachat": {"name": name, "num_dialogues": 40, "max_turns": 2},
        "self_instruct": {"name": name, "seeds": "seeds.jsonl", "num_instructions": 40},
    }
    fields = {key: value for key, value in mini_fields(tmp_path).items() if key not in ("pretrain", "deliver")}
    fields |= {"model": {"kind": "pretrained", "name_or_path": "m"}, "data_dir": str(tmp_path)}
    recipe = Recipe.model_validate(fields | {"synth": {"generator": generators[name], "teacher": ENDPOINT}})
    lines = list(estimated(recipe))
    estimated_calls = sum(int(line.partition("about ")[2].partition(" ")[0].replace(",", "")) for line in lines)
    teacher = FormTeacher()
    answer_with(monkeypatch, lambda section: teacher)
    folder = tmp_path / "synth"
    folder.mkdir()
    STAGE.run(Work(recipe, "synth", folder, {}, tmp_path))
    assert 0.5 < len(teacher.asked) / estimated_calls < 2
    assert len(lines) == 2


def test_too_few_classification_seeds_are_said_before_the_run(tmp_path):
    seeds = [Task("", f"Seed task about subject number {n}", n < 3, (Instance("", "x"),)) for n in range(16)]
    write_jsonl(tmp_path / "seeds.jsonl", map(task_fields, seeds))
    generator = SelfInstructSynth(seeds="seeds.jsonl", classification_only=True)
    section = SynthSection(generator=generator, teacher=EndpointSection.model_validate(ENDPOINT))
    with pytest.raises(DataError, match="8 classification seed tasks, got 3 of 16"):
        estimate_calls(section, seed=0, data_dir=tmp_path)


def test_a_check_says_seeds_and_calls_and_gathers_mistakes(tmp_path, monkeypatch):
    write_seeds(tmp_path / "seeds.jsonl")
    generator = {"name": "self_instruct", "seeds": "seeds.jsonl"}
    preview = Preview(recipe_with(generator, tmp_path, teacher=ENDPOINT), tmp_path / "preview")
    seeds, lists, tasks = STAGE.check(preview)
    assert seeds == "seeds.jsonl: 16 seed tasks"
    assert lists.startswith("calls big (lists of instructions) about 250 times")
    assert tasks.startswith("calls big (tasks) about 2,000 times")
    preview.problems.raise_any()
    monkeypatch.delenv("SOME_KEY", raising=False)
    far = {"name": "endpoint", "model": "big", "api_key_env": "SOME_KEY"}
    write_seeds(tmp_path / "seeds.jsonl", 3)
    recipe = recipe_with(generator, tmp_path, teacher=far).model_copy(update={"offline": False})
    preview = Preview(recipe, tmp_path / "preview")
    assert list(STAGE.check(preview)) == []
    with pytest.raises(ZephyrError, match=r"(?s)synth\.teacher\.api_key_env: SOME_KEY is not set.*got 3 of 3"):
        preview.problems.raise_any()


def test_a_sample_of_the_scripted_rows_is_made_for_the_stages_that_read_them(tmp_path):
    recipe = mini_recipe(tmp_path)
    assert recipe.synth is not None
    preview = Preview(recipe, tmp_path / "preview")
    assert list(STAGE.check(preview)) == ["reads nothing from outside"]
    assert list(estimated(recipe)) == ["calls only the scripted teacher, which costs nothing"]
    (tmp_path / "run").mkdir()
    STAGE.run(Work(recipe, "synth", tmp_path / "run", {}, tmp_path))
    for stage, file in (("sft", "dialogues.jsonl"), ("pretrain", "texts.jsonl")):
        made = preview.made[stage]
        sample, rows = made.file.read_text().splitlines(), (tmp_path / "run" / file).read_text().splitlines()
        assert made.num_rows == len(rows)
        assert sample == rows[: len(sample)] != []
    sample, number = prompts_to_come(recipe)
    assert (len(sample), number) == (24, 24)


def test_rows_of_a_model_are_not_made_before_the_run(tmp_path):
    preview = Preview(recipe_of(tmp_path, teacher=ENDPOINT), tmp_path / "preview")
    sample_rows(preview)
    assert (preview.made, preview.folder.exists()) == ({}, False)
    assert prompts_to_come(preview.recipe)[1] == 24


@pytest.mark.parametrize(
    ("generator", "teacher", "names"),
    [
        ({"name": "world"}, {"name": "scripted"}, "dialogues prompts texts"),
        ({"name": "self_instruct", "seeds": "s"}, ENDPOINT, "dialogues prompts instructions tasks rounds"),
        ({"name": "ultrachat"}, LOCAL, "dialogues prompts calls"),
        ({"name": "ultrachat", "person": LOCAL}, ENDPOINT, "dialogues prompts calls"),
    ],
)
def test_outputs_are_the_files_of_the_generator(generator, teacher, names, tmp_path):
    outputs = STAGE.outputs(recipe_with(generator, tmp_path, teacher=teacher))
    assert [name.partition(".")[0] for name in outputs] == names.split()
