"""The synth stage by its generators: its files, its facts, and asking nothing twice."""

import json

import pytest
from pydantic import ValidationError

from tests.pipeline.mini import mini_fields
from tests.synth.form_teacher import FormTeacher
from zephyr.data.read.stage_rows import hash_of_source
from zephyr.errors import DataError
from zephyr.pipeline.make_synth import make_synth
from zephyr.pipeline.stages import plan_stages
from zephyr.recipe.schema import Recipe
from zephyr.records.writing import write_jsonl
from zephyr.stages.stage import Work
from zephyr.synth.tasks import Instance, Task, task_fields

LOCAL = {"name": "local", "model": "somewhere"}


@pytest.fixture
def teacher(monkeypatch):
    """A teacher that answers in the forms asked for, in the place of the recipe's."""
    double = FormTeacher()
    monkeypatch.setattr("zephyr.pipeline.make_synth.writer", lambda section, work: double)
    return double


def recipe_with(generator, tmp_path, **changes):
    fields = {name: value for name, value in mini_fields(tmp_path).items() if name not in ("pretrain", "deliver")}
    fields["model"] = {"kind": "pretrained", "name_or_path": "m"}
    synth = {"generator": generator, "teacher": LOCAL} | changes
    return Recipe.model_validate(fields | {"synth": synth, "data_dir": str(tmp_path)})


def made(recipe, tmp_path):
    folder = tmp_path / "synth"
    folder.mkdir(exist_ok=True)
    facts = make_synth(Work(recipe, "synth", folder, {}, tmp_path))
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
    monkeypatch.setattr("zephyr.pipeline.make_synth.writer", lambda section, work: doubles[section.model])
    generator = {"name": "ultrachat", "num_dialogues": 6, "person": LOCAL | {"model": "elsewhere"}}
    made(recipe_with(generator, tmp_path), tmp_path)
    assert {request.key.split()[2] for request in doubles["somewhere"].asked} == {"answer"}
    assert {request.key.split()[2] for request in doubles["elsewhere"].asked} >= {"opening", "follow-up"}


def test_nothing_is_not_a_result(monkeypatch, tmp_path):
    dumb = FormTeacher(lambda request: "\n")
    monkeypatch.setattr("zephyr.pipeline.make_synth.writer", lambda section, work: dumb)
    with pytest.raises(DataError, match=r"wrote nothing that can be used \(6 x talks: begun, \d x failed: "):
        made(recipe_with({"name": "ultrachat", "num_dialogues": 6}, tmp_path), tmp_path)


def test_the_stage_is_another_one_with_other_seeds(tmp_path):
    generator = {"name": "self_instruct", "seeds": "seeds.jsonl"}
    recipe = recipe_with(generator, tmp_path)
    digests = []
    for count in (16, 16, 17):
        write_seeds(tmp_path / "seeds.jsonl", count)
        digests.append(plan_stages(recipe, lambda source: hash_of_source(recipe, source))[0].key.digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("synth", "said"),
    [
        ({"generator": {"name": "ultrachat"}}, "synth.teacher: scripted knows the closed world alone"),
        (
            {"generator": {"name": "ultrachat", "person": {"name": "scripted"}}, "teacher": LOCAL},
            "synth.generator.person: scripted knows the closed world alone",
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
        ({"generator": {"name": "self_instruct"}, "teacher": LOCAL}, "seeds"),
    ],
)
def test_what_does_not_go_together_is_refused(synth, said, tmp_path):
    with pytest.raises(ValidationError, match=said.replace(".", r"\.")):
        Recipe.model_validate(mini_fields(tmp_path) | {"synth": synth})
