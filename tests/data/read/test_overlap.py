"""Held-out rows among the rows to train on: found by files and row numbers, found by prompts, counted and refused."""

import json

import pytest

from zephyr.data.filters.parts import prompt_key
from zephyr.data.read.overlap import PromptOverlap, refuse_shared_files
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource
from zephyr.records.messages import Message
from zephyr.records.rows import Chat, Preference, Prompt, Text

REMEDY = "take these rows out of one side, or hold out a share of the sources by eval_share instead of eval_sources"


def chat(*turns, name="d.jsonl row 1"):
    roles = ("user", "assistant")
    return Chat(name, tuple(Message(roles[place % 2], text) for place, text in enumerate(turns)))


def test_a_prompt_is_what_users_say_in_all_turns():
    asked = prompt_key(chat("Hi", "Hello!", "What is 2 + 2?", "4"))
    assert asked == prompt_key(chat(" hi\n", "Hey.", "What is  2 + 2?", "Four."))
    assert asked == prompt_key(Prompt("p", chat("Hi", "Hello!", "What is 2 + 2?").messages))
    system = (Message("system", "Be brief."), *chat("Hi", "Hello!", "What is 2 + 2?").messages)
    assert asked == prompt_key(Preference("q", system, ("4", "5"), (1.0, 0.0)))
    assert asked != prompt_key(chat("Hi", "Hello!"))
    assert asked != prompt_key(chat("Hi", "Hello!", "What is 2 + 3?", "5"))
    assert prompt_key(Text("t", "A  text.")) == prompt_key(Text("u", "a text."))


def passed(held, rows, allowed=0):
    overlap = PromptOverlap(held, [DataSource(path="held.jsonl"), DataSource(path="set", split="test")], allowed)
    return list(overlap.passed(rows)), overlap


def test_prompts_on_both_sides_are_counted_once_however_many_rows_they_have():
    held = [chat("a", "1"), chat("a", "2"), chat("b", "1"), chat("c", "1")]
    rows = [chat(text, "yes", name=f"d.jsonl row {number}") for number, text in enumerate("xabyaaaaa", 1)]
    with pytest.raises(DataError) as caught:
        passed(held, rows)
    assert str(caught.value) == (
        "held.jsonl, set (test): 2 of 3 held-out prompts are also trained on, by d.jsonl row 2, d.jsonl row 3, "
        f"d.jsonl row 5, d.jsonl row 6, d.jsonl row 7 and 2 more; {REMEDY}, or write allow_overlap: 2"
    )
    with pytest.raises(DataError, match=r"row 7 and 2 more, allowed are 1; "):
        passed(held, rows, allowed=1)
    kept, overlap = passed(held, rows, allowed=2)
    assert kept == rows
    assert (len(overlap.shared), len(overlap.trained)) == (2, 9)


def test_disjoint_rows_pass():
    rows = [chat(str(number), "yes") for number in range(5)]
    kept, overlap = passed([chat("5", "yes")], rows)
    assert (kept, overlap.shared) == (rows, set())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    for name, count in (("d", 10), ("set/train", 4), ("set/test", 6)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in range(count)))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "d.jsonl")
    return tmp_path


def compared(folder, source, held):
    refuse_shared_files([DataSource(**source)], [DataSource(**held)], folder)


@pytest.mark.parametrize(
    ("source", "held", "said"),
    [
        (
            {"path": "d.jsonl", "split": "train[:90%]"},
            {"path": "d.jsonl", "split": "train[80%:]"},
            ("d.jsonl (train[80%:]): 1 of its 2 rows are also trained on, by d.jsonl (train[:90%]): rows 9 of d.jsonl"),
        ),
        (
            {"path": "d.jsonl"},
            {"path": "link.jsonl", "split": "train[:3]"},
            "link.jsonl (train[:3]): 3 of its 3 rows are also trained on, by d.jsonl: rows 1 to 3 of link.jsonl",
        ),
        (
            {"path": "set/*.jsonl", "split": "train[:8]"},
            {"path": "set", "split": "test[3:]"},
            # The glob has the six rows of test.jsonl first.
            (
                "set (test[3:]): 3 of its 3 rows are also trained on, by set/*.jsonl (train[:8]): "
                "rows 4 to 6 of test.jsonl"
            ),
        ),
        (
            {"path": "set", "split": "all"},
            {"path": "./set/../set/*.jsonl"},
            (
                "./set/../set/*.jsonl: 10 of its 10 rows are also trained on, by set (all): "
                "rows 1 to 6 of test.jsonl and of 1 more files"
            ),
        ),
    ],
)
def test_rows_of_one_file_on_both_sides_are_refused(folder, source, held, said):
    with pytest.raises(DataError) as caught:
        compared(folder, source, held)
    count = said.split(": ")[1].split(" ")[0]
    assert str(caught.value) == f"{said}; {REMEDY}, or write allow_overlap: {count}"


@pytest.mark.parametrize(
    ("source", "held"),
    [
        ({"path": "d.jsonl", "split": "train[:90%]"}, {"path": "d.jsonl", "split": "train[90%:]"}),
        ({"path": "d.jsonl", "split": "train[:-2]"}, {"path": "link.jsonl", "split": "train[-2:]"}),
        ({"path": "set"}, {"path": "set", "split": "test"}),
        ({"path": "set/*.jsonl", "split": "train[6:]"}, {"path": "set/test.jsonl"}),
        # Their prompts will tell.
        ({"path": "d.jsonl", "where": {"side": "a"}}, {"path": "d.jsonl", "where": {"side": "b"}}),
        ({"path": "d.jsonl", "max_rows": 5}, {"path": "d.jsonl", "split": "train[5:]"}),
        ({"path": "owner/name"}, {"path": "d.jsonl"}),
    ],
)
def test_other_rows_of_a_file_are_no_overlap(folder, source, held):
    compared(folder, source, held)
