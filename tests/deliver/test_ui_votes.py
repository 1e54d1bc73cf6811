"""Votes: pairs that training reads, ties kept apart, and nothing lost or written over."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from zephyr.data.read.sources import open_source
from zephyr.deliver.ui.votes import VoteFile
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, prompt_id

PROMPT = (
    Message("system", "Be brief."),
    Message("user", "Hi?"),
    Message("assistant", "Hello."),
    Message("user", "Which is the largest planet?"),
)
LEFT, RIGHT = Answer("Jupiter.", "one"), Answer("Mars\n<b>!</b> \x1b[31m", "two")


def read(path, kind):
    return list(open_source(DataSource(path=str(path)), kind, data_dir=path.parent, offline=True))


def test_a_vote_is_a_preference_that_training_reads(tmp_path):
    votes = VoteFile(tmp_path / "votes.jsonl")
    assert votes.add(PROMPT, (LEFT, RIGHT), "left") == votes.path
    votes.add(PROMPT, (LEFT, RIGHT), "right")
    first, second = read(votes.path, "preference")
    assert (first.prompt, first.completions, first.ratings) == (PROMPT, (LEFT.text, RIGHT.text), (1.0, 0.0))
    assert (first.models, first.source) == (("one", "two"), "zephyr ui")
    assert (second.completions, second.models) == ((RIGHT.text, LEFT.text), ("two", "one"))


def test_the_columns_are_those_of_pairs(tmp_path):
    votes = VoteFile(tmp_path / "votes.jsonl")
    votes.add(PROMPT[-1:], (LEFT, RIGHT), "right")
    row = json.loads(votes.path.read_text())
    question = {"role": "user", "content": "Which is the largest planet?"}
    chosen = {"role": "assistant", "content": RIGHT.text}
    assert row == {
        "prompt": [question],
        "prompt_id": prompt_id(PROMPT[-1:]),
        "chosen": [chosen],
        "rejected": [{"role": "assistant", "content": LEFT.text}],
        "messages": [question, chosen],
        "score_chosen": 1.0,
        "score_rejected": 0.0,
        "model_chosen": "two",
        "model_rejected": "one",
        "source": "zephyr ui",
        "chosen_side": "right",
    }


def test_a_tie_is_no_preference(tmp_path):
    votes = VoteFile(tmp_path / "votes.jsonl")
    assert votes.add(PROMPT, (LEFT, RIGHT), "tie") == tmp_path / "votes.ties.jsonl"
    assert not votes.path.exists()
    (tie,) = read(votes.ties_path, "rated")
    assert [(answer.model, answer.score) for answer in tie.answers] == [("one", 1.0), ("two", 1.0)]
    with pytest.raises(DataError, match="no preference records"):
        read(votes.ties_path, "preference")


def test_later_starts_add_to_what_is_there(tmp_path):
    path = tmp_path / "votes.jsonl"
    for number in range(3):
        VoteFile(path).add(PROMPT, (LEFT, RIGHT._replace(text=str(number))), "left")
        # An editor may have taken the last line's end.
        path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [pair.completions[1] for pair in read(path, "preference")] == ["0", "1", "2"]


def test_many_at_once_lose_none(tmp_path):
    path = tmp_path / "votes.jsonl"
    pages = [VoteFile(path), VoteFile(path)]

    def vote(number):
        pages[number % 2].add(PROMPT, (LEFT, RIGHT._replace(text=f"{number} " * 2000)), "left")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(vote, range(200)))
    assert sorted(int(pair.completions[1].split()[0]) for pair in read(path, "preference")) == list(range(200))


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_vote_that_cannot_be_saved_leaves_the_file_as_it_was(tmp_path, monkeypatch, failing):
    votes = VoteFile(tmp_path / "votes.jsonl")
    votes.add(PROMPT, (LEFT, RIGHT), "left")
    before, whole = votes.path.read_bytes(), getattr(os, failing)

    def fill_the_disk(handle, *data):
        if data:
            whole(handle, data[0][:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        votes.add(PROMPT, (LEFT, RIGHT), "right")
    monkeypatch.undo()
    assert votes.path.read_bytes() == before
    votes.add(PROMPT, (LEFT, RIGHT), "right")
    assert len(read(votes.path, "preference")) == 2


def test_a_first_vote_whose_folder_cannot_be_saved_is_not_there(tmp_path, monkeypatch):
    votes = VoteFile(tmp_path / "votes.jsonl")

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("zephyr.atomic.sync", fail)
        with pytest.raises(OSError, match="Input/output"):
            votes.add(PROMPT, (LEFT, RIGHT), "left")
    votes.add(PROMPT, (LEFT, RIGHT), "left")
    assert len(read(votes.path, "preference")) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"chosen": 1, "rej', "its last line is incomplete"),
        ('{"text": "a diary"}\n', "they are not votes"),
        ("5\n\n", "not votes"),
    ],
)
def test_a_file_that_holds_something_else_is_left_alone(tmp_path, text, reason):
    path = tmp_path / "votes.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=reason):
        VoteFile(path)
    assert path.read_text() == text


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path):
    with pytest.raises(DataError, match="make the folder"):
        VoteFile(tmp_path / "none" / "votes.jsonl")
    with pytest.raises(DataError, match=r"use the extension \.jsonl"):
        VoteFile(tmp_path / "votes.txt")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        VoteFile(tmp_path / "folder.jsonl")
