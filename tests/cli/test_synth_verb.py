"""`zephyr synth`: its files, its accounts, going on after a stop, and a model that knows nothing."""

import json

import pytest
import torch

from tests.slowly import slow
from tests.synth.form_teacher import FormTeacher
from zephyr.cli.main import main
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.models.new_model import new_model
from zephyr.models.tokenizers import learn_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.writing import write_jsonl
from zephyr.synth.tasks import InstructionTask as Task
from zephyr.synth.tasks import TaskInstance as Instance
from zephyr.synth.tasks import read_tasks, task_fields
from zephyr.teachers.opening import OpenedTeacher


def zephyr(*words):
    """The exit code of the command."""
    try:
        main([*map(str, words)])
    except SystemExit as end:
        return end.code or 0
    return 0


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


OPENED_BY = "zephyr.teachers.opening.open_teacher"


@pytest.fixture
def seeds(tmp_path):
    path = tmp_path / "seeds.jsonl"
    tasks = [Task("", f"Seed task about subject number {n}", n % 2 == 0, (Instance("", "x"),)) for n in range(16)]
    write_jsonl(path, map(task_fields, tasks))
    return path


@pytest.fixture
def teacher(monkeypatch):
    """A teacher that answers in the forms asked for, in the place of every endpoint."""
    double = FormTeacher()
    monkeypatch.setattr(OPENED_BY, lambda section, *_, where: OpenedTeacher(double, where, section))
    return double


ENDPOINT = ("--teacher", "endpoint:m@http://127.0.0.1:9/v1")


def test_seeds_grow_into_dialogues_and_tasks(teacher, seeds, tmp_path, capsys):
    out = tmp_path / "chats.jsonl"
    words = ("synth", "--generator", "self_instruct", "--seeds", seeds, *ENDPOINT, "-o", out, "--count", 12, "--json")
    assert zephyr(*words) == 0
    accounts = json.loads(capsys.readouterr().out)
    assert accounts["dialogues"] == len(lines(out)) > 12
    assert accounts["counts"]["instructions: kept"] == 12
    assert {message["role"] for row in lines(out) for message in row["messages"]} == {"user", "assistant"}
    assert len(read_tasks(tmp_path / "chats.tasks.jsonl")) == 12
    # The file is there: nothing is asked, and nothing written over.
    before, num_asked = out.read_text(), len(teacher.asked)
    assert zephyr(*words) == 2
    assert "already exists" in capsys.readouterr().err
    assert zephyr(*words, "--force") == 0
    assert (out.read_text(), len(teacher.asked)) == (before, num_asked)


def test_talks_are_written(teacher, tmp_path, capsys):
    out = tmp_path / "talks.jsonl"
    words = (
        "synth",
        "--generator",
        "ultrachat",
        *ENDPOINT,
        "-o",
        out,
        "--count",
        10,
        "--turns",
        3,
        "--sectors",
        "world",
    )
    assert zephyr(*words) == 0
    shown = capsys.readouterr().out
    assert "talks: whole" in shown
    assert [len(row["messages"]) for row in lines(out)] == [6] * 10


def test_one_teacher_in_both_parts_is_opened_once(tmp_path, monkeypatch):
    opened = []

    def open_double(section, *_, where):
        opened.append(section.model)
        return OpenedTeacher(FormTeacher(), where, section)

    monkeypatch.setattr(OPENED_BY, open_double)
    words = ("synth", "--generator", "ultrachat", "--teacher", "local:x", "--sectors", "world", "--count", 2)
    assert zephyr(*words, "--person", "local:x", "-o", tmp_path / "same.jsonl") == 0
    assert opened == ["x"]
    assert zephyr(*words, "--person", "local:y", "-o", tmp_path / "two.jsonl") == 0
    assert opened[1:] == ["x", "y"]


def test_the_closed_world_needs_no_model(tmp_path, capsys):
    out = tmp_path / "world.jsonl"
    assert zephyr("synth", "--generator", "world", "--teacher", "scripted", "-o", out, "--count", 20, "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"asked": 20, "answered": 20}
    assert len(lines(out)) == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--generator", "self_instruct", *ENDPOINT, "--seeds", "x.jsonl"), "x.jsonl: no such file or folder"),
        (
            ("--generator", "ultrachat", *ENDPOINT, "--seeds", "x.jsonl"),
            "the generator 'ultrachat' takes no seeds",
        ),
        (
            ("--generator", "world", *ENDPOINT, "--person", "scripted"),
            "'world' has no simulated user; drop --person",
        ),
        (("--generator", "ultrachat", "--teacher", "scripted"), "the scripted teacher knows only the closed world"),
        (("--generator", "ultrachat", *ENDPOINT, "--turns", "4-2"), "--turns: must be MIN-MAX"),
        (("--generator", "ultrachat", *ENDPOINT, "--sectors", "wrld"), "did you mean 'world'"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(words, said, tmp_path, capsys):
    assert zephyr("synth", *words, "-o", tmp_path / "out.jsonl") == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def local_model(tmp_path_factory):
    """A folder with a tiny model of random weights, which answers nonsense."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = learn_tokenizer([], vocab_size=260, max_length=8192)
    tokenizer.chat_template = DialogueEncoder(tokenizer, ChatTemplateSection()).chat_template
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 8192}
    new_model("mistral", sizes, tokenizer, seed=0, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("generator", ["ultrachat", slow("self_instruct")])
def test_nonsense_of_a_real_model_is_counted_and_never_crashes(generator, local_model, seeds, tmp_path, capsys):
    words = ("--teacher", f"local:{local_model}", "-o", tmp_path / "out.jsonl", "--count", 3, "--offline")
    own = ("--seeds", seeds, "--requests-per-round", 2) if generator == "self_instruct" else ("--max-new-tokens", 8)
    assert zephyr("synth", "--generator", generator, *own, *words) == 2
    said = capsys.readouterr().err
    assert "wrote nothing usable" in said
    assert " x failed: " in said
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("generator", "calls"),
    [
        # An answer a dialogue; the person and the answer of a turn; lists of instructions, then class and examples.
        (("world", "--count", 400), [400]),
        (("ultrachat", "--count", 400, "--turns", "3", "--sectors", "world"), [1200, 1200]),
        (("self_instruct", "--count", 400, "--seeds", "seeds.jsonl"), [100, 800]),
    ],
)
def test_a_dry_run_counts_calls_and_makes_none(generator, calls, seeds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("synth", "--generator", *generator, *ENDPOINT, "-o", "chats.jsonl", "--max-new-tokens", 100)
    assert zephyr(*words, "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["output"] == "nothing (dry run)"
    asked = [value for value in said.values() if isinstance(value, dict)]
    assert [one["calls"] for one in asked] == calls
    assert asked[0]["most_answer_tokens"] % 100 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [seeds.name]
