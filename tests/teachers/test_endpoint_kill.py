"""Processes that ask a hostile server are killed at random; the server itself says what was asked again."""

import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.teachers.calls import KEY, digest, questions
from tests.teachers.hostile_server import HARMLESS, Event, running_server

ASKING = Path(__file__).with_name("asking_process.py")
CONCURRENCY = 8


def answered_in(path: Path) -> set[str]:
    """The questions that the ledger holds an answer to, under the names that the server gives them."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT response FROM calls WHERE finish_reason <> 'error'").fetchall()
    return {response.removeprefix("echo ") for (response,) in rows}


def answering_events(events: list[Event]) -> list[Event]:
    return [event for event in events if event.outcome in ("none", *HARMLESS)]


def kill_and_go_on(path: Path, *, num_questions: int, num_kills: int, share: float, most_events: int) -> None:
    dice = random.Random(7)
    killed: list[tuple[float, set[str]]] = []
    with running_server(share=share, delay=0.02) as server:
        words = [sys.executable, str(ASKING), server.base_url, str(path), str(num_questions), str(CONCURRENCY)]
        for _ in range(num_kills):
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout.readline() == "asking\n"
                # By what the server has seen, not by the clock: a busy machine would kill before the first answer.
                wanted = len(server.events()) + dice.randint(1, most_events)
                while len(server.events()) < wanted and process.poll() is None:
                    time.sleep(0.005)
                process.kill()
                process.wait()
                # From here on, whatever the ledger holds must never be asked again.
                killed.append((time.time(), answered_in(path)))
        last = subprocess.run(words, capture_output=True, text=True, check=True, timeout=500)
        events = server.events()
    asked = {digest(one) for one in questions(num_questions)}
    assert last.stdout == f"asking\n{num_questions}\n"
    assert answered_in(path) == asked
    assert {event.digest for event in events} == asked
    for moment, answered in killed:
        assert not [event for event in events if event.at > moment and event.digest in answered]
    # What was answered twice was in flight when a process died, or waited for the commit that it shares with others,
    # while the next call had taken its place already.
    twice = Counter(event.digest for event in answering_events(events))
    assert sum(twice.values()) - len(asked) <= num_kills * 2 * CONCURRENCY
    # Some kills met a process at work, or this showed nothing.
    sizes = [len(answered) for _, answered in killed]
    assert len(set(sizes)) > num_kills // 3
    assert sizes[-1] < num_questions
    for file in path.parent.iterdir():
        assert KEY.encode() not in file.read_bytes()


def test_killed_processes_repeat_no_finished_call(tmp_path):
    kill_and_go_on(tmp_path / "calls.sqlite", num_questions=300, num_kills=3, share=0.1, most_events=60)


@pytest.mark.slow
def test_2000_calls_survive_50_kills(tmp_path):
    kill_and_go_on(tmp_path / "calls.sqlite", num_questions=2000, num_kills=50, share=0.3, most_events=50)
