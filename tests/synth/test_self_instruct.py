"""Self-Instruct from the published seeds to dialogues, with a teacher that can and with one that cannot."""

import json
from collections import Counter

import pytest

from tests.synth.form_teacher import FormTeacher
from zephyr.errors import DataError
from zephyr.recipe.synth_section import SelfInstructSynth
from zephyr.records.messages import Message
from zephyr.records.reading import read_rows
from zephyr.records.rows import Chat
from zephyr.records.writing import write_jsonl
from zephyr.synth.instances import instance_fault
from zephyr.synth.instructions import NoveltyIndex, instruction_fault
from zephyr.synth.self_instruct import divide, read_seeds, self_instruct
from zephyr.synth.tasks import (
    WITH_INPUT,
    WITHOUT_INPUT,
    encode_tasks,
    read_tasks,
    task_fields,
)
from zephyr.synth.tasks import (
    InstructionTask as Task,
)
from zephyr.synth.tasks import (
    TaskInstance as Instance,
)
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import ChatReply

SEEDS = [Task(f"s{n}", f"Seed task about subject number {n}", n % 3 == 0, (Instance("", "x"),)) for n in range(24)]


def section(num_instructions=30, **fields):
    return SelfInstructSynth(**{"seeds": "seeds.jsonl", "num_instructions": num_instructions, **fields})


class StoppedError(Exception):
    pass


def instructed(teacher, tmp_path, num_instructions=30, **patience):
    rounds = tmp_path / "rounds.jsonl"
    return self_instruct(SEEDS, teacher, section(num_instructions), seed=2, rounds=rounds, **patience)


def test_seeds_become_new_tasks_with_instances(tmp_path):
    made = instructed(FormTeacher(), tmp_path)
    assert len(made.instructions) == len(made.tasks) == 30
    assert made.counts["tasks: classification"] + made.counts["tasks: other"] == 30
    assert {len(task.instances) for task in made.tasks if not task.is_classification} == {5}
    assert {len(task.instances) for task in made.tasks if task.is_classification} <= {2}
    assert made == instructed(FormTeacher(), tmp_path)  # the second time from the file of rounds


def test_a_stopped_run_asks_nothing_twice(tmp_path):
    def stops_after(number):
        def fault(request):
            if len(teacher.asked) > number:
                raise StoppedError
            # A failure is an outcome: what comes after it must not be asked anew.
            return ChatReply("", "", "error", "down") if request.key == "instructions 0 1" else None

        teacher = FormTeacher(fault)
        return teacher

    counted = Counter()
    results = []
    for number in (3, 9, 12, 20, 10_000):
        teacher = stops_after(number)
        try:
            with Ledger(tmp_path / "calls.sqlite") as ledger:
                results.append(instructed(LedgeredTeacher(teacher, ledger), tmp_path))
        except StoppedError:
            teacher.asked.pop()
        counted.update(request._replace(key="") for request in teacher.asked if request.key != "instructions 0 1")
    assert set(counted.values()) == {1}
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    whole = instructed(stops_after(10_000), fresh)
    assert results == [whole]


def test_gibberish_is_counted_and_nothing_comes_of_it(tmp_path):
    made = instructed(FormTeacher(lambda request: "zq xv"), tmp_path, 5, patience_rounds=2)
    assert (made.instructions, made.tasks) == ([], [])
    assert made.counts == {"instructions: lists asked for": 10, "instructions: too short": 10}


def test_our_own_seeds_are_varied_and_usable(tmp_path):
    tasks = read_seeds(SelfInstructSynth(), tmp_path)
    assert len(tasks) == 180
    assert sum(task.is_classification for task in tasks) == 24
    assert [instruction_fault(task.instruction) for task in tasks] == [None] * 180
    assert {instance_fault(instance) for task in tasks for instance in task.instances} == {None}
    index = NoveltyIndex([tasks[0].instruction])
    for task in tasks[1:]:
        assert index.similarities(task.instruction).max() <= 0.7
        index.add(task.instruction)


def test_published_seeds(shared_data, tmp_path):
    path = shared_data / "sft" / "self_instruct" / "seed_tasks.jsonl"
    tasks = read_tasks(path)
    assert len(tasks) == 175
    assert sum(task.is_classification for task in tasks) == 26
    assert {len(task.instances) for task in tasks} == {1}
    assert len(read_seeds(section(1, seeds=str(path), classification_only=True), tmp_path)) == 26
    chats = list(encode_tasks(tasks))
    assert len(chats) == 175


def test_published_seeds_grow(shared_data, tmp_path):
    place = shared_data / "sft" / "self_instruct"
    seeds = read_seeds(section(seeds="seed_tasks.jsonl"), place)
    rounds = tmp_path / "rounds.jsonl"
    made = self_instruct(seeds, FormTeacher(), section(), seed=2, rounds=rounds)
    assert len(made.tasks) == 30
    assert all(new.most_similar[0].score <= 0.7 for new in made.instructions)


def test_tasks_are_read_back_and_faulty_rows_named(tmp_path):
    path = tmp_path / "tasks.jsonl"
    write_jsonl(path, [task_fields(task) for task in SEEDS])
    assert [task._replace(name="") for task in read_tasks(path)] == [task._replace(name="") for task in SEEDS]
    rows = [{"instruction": ""}, {"instruction": "x", "is_classification": "no"}, {"prompt": "x"}]
    rows += [{"instruction": "x", "instances": [{"input": 1, "output": "y"}]}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    with pytest.raises(DataError) as caught:
        read_tasks(path)
    message = str(caught.value)
    assert all(f"row {number}" in message for number in (1, 2, 3, 4, 5))
    assert "seed tasks are rows like" in message


def test_too_few_seeds_are_a_users_mistake(tmp_path):
    path = tmp_path / "tasks.jsonl"
    write_jsonl(path, [task_fields(task) for task in SEEDS[:12]])
    with pytest.raises(DataError, match="8 classification seed tasks, got 4 of 12"):
        read_seeds(section(1, seeds="tasks.jsonl", classification_only=True), tmp_path)


def test_layouts_are_seven_and_six_and_drawn_by_seed(tmp_path):
    assert (len(set(WITH_INPUT)), len(set(WITHOUT_INPUT))) == (7, 6)
    tasks = [Task(f"t{n}", f"Do {{it}} {n}", False, (Instance("this {0}", "a"), Instance("", "b"))) for n in range(200)]
    chats = list(encode_tasks(tasks, layouts="varied", seed=1))
    shapes = {chat.messages[0].content.replace(str(n // 2), "N") for n, chat in enumerate(chats)}
    assert len(shapes) >= 13
    assert all("Do {it}" in chat.messages[0].content for chat in chats)
    assert all(chat.messages[0].content == chat.messages[0].content.strip() for chat in chats)
    assert chats == list(encode_tasks(tasks, layouts="varied", seed=1)) != list(encode_tasks(tasks, seed=2))
    plain = list(encode_tasks(tasks[:1], layouts="plain"))
    assert [chat.messages[0].content for chat in plain] == ["Do {it} 0\n\nthis {0}", "Do {it} 0"]
    write_jsonl(tmp_path / "chats.jsonl", chats)
    assert len(list(read_rows(tmp_path / "chats.jsonl"))) == 400


def test_no_prompt_is_both_learnt_and_kept_for_feedback():
    chats = [Chat(f"c{n}", (Message("user", f"q{n % 400}"), Message("assistant", f"a{n}"))) for n in range(800)]
    divided = divide(chats, feedback_share=0.25, seed=0)
    learnt = {chat.messages[:-1] for chat in divided.dialogues}
    kept = {prompt.messages for prompt in divided.prompts}
    assert learnt.isdisjoint(kept)
    assert len(learnt) + len(kept) == 400
    assert len(kept) == len(divided.prompts)
    assert 70 < len(kept) < 130
