"""A ledger whose process is killed fifty times is whole each time, and what it has kept is never asked again."""

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.teachers.calls import questions
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import ChatReply, ChatRequest

KILLS = 50
CALLS = 20_000
# Answers of one life, after which it waits to be killed, so that calls are left for the next one on any machine.
MOST = CALLS // KILLS


class WritingTeacher:
    """Answers with the seed; what it is asked is on disk before it answers."""

    name = "writing"

    def __init__(self, path: Path) -> None:
        self.asked = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        for number, request in enumerate(requests):
            if number == MOST:
                threading.Event().wait()
            os.write(self.asked, f"{request.seed}\n".encode())
            yield ChatReply(request.key, f"seed {request.seed}", "stop", "", 10, 5)


def ask_all(folder: Path) -> None:
    with Ledger(folder / "calls.sqlite") as ledger:
        for _ in LedgeredTeacher(WritingTeacher(folder / "asked"), ledger).answer(questions(CALLS)):
            pass


def kept_seeds(path: Path) -> list[int]:
    """The seeds of the calls that the file holds, each with its whole answer."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT request, response FROM calls").fetchall()
    seeds = [int(json.loads(request)["seed"]) for request, _ in rows]
    assert [response for _, response in rows] == [f"seed {seed}" for seed in seeds]
    return seeds


@pytest.mark.slow
def test_fifty_kills_lose_no_answer_that_was_kept_and_pay_none_twice(tmp_path):
    dice = random.Random(0)
    kept: set[int] = set()
    num_read = 0
    asked = tmp_path / "asked"
    asked.touch()
    for _ in range(KILLS):
        begun = asked.stat().st_size
        process = multiprocessing.get_context("spawn").Process(target=ask_all, args=(tmp_path,))
        process.start()
        while asked.stat().st_size == begun and process.is_alive():
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended by itself: there are too few calls"
        seeds_asked = [int(line) for line in asked.read_text().splitlines()]
        assert not kept & set(seeds_asked[num_read:])
        num_read = len(seeds_asked)
        seeds = kept_seeds(tmp_path / "calls.sqlite")
        assert len(seeds) == len(set(seeds))
        assert kept <= set(seeds) <= set(seeds_asked)
        kept = set(seeds)
    assert len(kept) > KILLS
