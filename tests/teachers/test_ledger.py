"""The call ledger: what is kept, what is never asked again, what a cap allows, and who may write at once."""

import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.teachers.calls import questions
from zephyr.errors import DataError, ResourceError, TeacherError
from zephyr.recipe.teacher_section import PricesSection
from zephyr.teachers.ledger import writer as ledger_writer
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.file import is_alive, new_owner, open_file
from zephyr.teachers.ledger.ledger import Ledger, request_hash
from zephyr.teachers.ledger.prices import Cap, most_prompt_tokens
from zephyr.teachers.ledger.report import failed_tries, find_calls, summarize
from zephyr.teachers.protocol import Attempt, ChatReply, ChatRequest, Spend
from zephyr.teachers.scripted import ScriptedTeacher


class CountingTeacher:
    """Answers with the seed and counts what it is asked; every third request fails for as long as `fails` is true."""

    name = "counting"

    def __init__(self, *, fails: bool = False) -> None:
        self.asked: list[str] = []
        self.fails = fails

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        for request in requests:
            self.asked.append(request.key)
            if self.fails and request.seed % 3 == 0:
                yield ChatReply(request.key, "", "error", "no luck")
            else:
                reason = "length" if request.seed % 2 else "stop"
                yield ChatReply(request.key, f"seed {request.seed}", reason, "", 10, 5)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "calls.sqlite"


def test_what_was_answered_is_not_asked_again(path):
    teacher = CountingTeacher()
    for _ in range(2):
        with Ledger(path) as ledger:
            replies = list(LedgeredTeacher(teacher, ledger).answer(questions(700)))
            assert [reply.text for reply in replies] == [f"seed {n}" for n in range(700)]
            assert [reply.key for reply in replies] == [str(n) for n in range(700)]
            assert replies[1] == ChatReply("1", "seed 1", "length", "", 10, 5)
    assert len(teacher.asked) == 700


def test_known_and_new_requests_may_be_mixed(path):
    teacher = CountingTeacher()
    with Ledger(path) as ledger:
        kept = LedgeredTeacher(teacher, ledger)
        list(kept.answer(questions(10, start=5)))
        replies = list(kept.answer(questions(20)))
    assert [reply.text for reply in replies] == [f"seed {n}" for n in range(20)]
    assert sorted(map(int, teacher.asked)) == list(range(20))


def test_equal_requests_are_asked_once_and_keep_their_keys(path):
    teacher = CountingTeacher()
    asked = [request._replace(key=f"{request.key} {n}") for n in range(3) for request in questions(4)]
    with Ledger(path) as ledger:
        replies = list(LedgeredTeacher(teacher, ledger).answer(asked))
    assert [reply.key for reply in replies] == [request.key for request in asked]
    assert [reply.text for reply in replies] == [f"seed {request.seed}" for request in asked]
    assert len(teacher.asked) == 4


def test_failures_never_count_as_answers(path):
    teacher = CountingTeacher(fails=True)
    with Ledger(path) as ledger:
        kept = LedgeredTeacher(teacher, ledger)
        first = list(kept.answer(questions(6)))
        assert [reply.error for reply in first] == ["no luck", "", "", "no luck", "", ""]
        teacher.fails, teacher.asked = False, []
        assert all(reply.text for reply in kept.answer(questions(6)))
    assert teacher.asked == ["0", "3"]
    assert failed_tries(open_file(path, read_only=True), 10) == [(2, 2, 2, "no luck")]


@pytest.mark.parametrize("change", [{"seed": 7}, {"temperature": 0.1}, {"top_p": 0.1}, {"top_k": 1}, {"max_tokens": 1}])
def test_whatever_an_answer_depends_on_makes_another_request(change):
    (one,) = questions(1)
    assert request_hash("a", one._replace(**change)) != request_hash("a", one)
    assert request_hash("b", one) != request_hash("a", one)
    assert request_hash("a", one._replace(key="other")) == request_hash("a", one)


def test_texts_of_all_kinds_are_kept(path):
    odd = "\x00 \ud800 \U0001f409 \x1b[31m ' \" \n"
    (one,) = questions(1)
    with Ledger(path) as ledger:
        ledger.books("a").record(one, Attempt(ChatReply("0", odd, "stop")))
        ledger.flush()
        assert ledger.books("a").answered(one).text == odd.replace("\ud800", "?")


def test_the_table_of_calls_takes_rows_and_gives_none_back(path):
    with Ledger(path) as ledger:
        list(LedgeredTeacher(CountingTeacher(), ledger).answer(questions(1)))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        for statement in ("UPDATE calls SET response = ''", "DELETE FROM calls"):
            with pytest.raises(sqlite3.IntegrityError, match="calls are never"):
                connection.execute(statement)


def test_a_forecast_asks_nothing(path):
    teacher, asked = CountingTeacher(), questions(10)
    with Ledger(path) as ledger:
        kept = LedgeredTeacher(teacher, ledger, prices=PricesSection(prompt=1e6, completion=2e6))
        list(kept.answer(asked[:3]))
        forecast = kept.estimate([*asked, *asked])
    assert teacher.asked == ["0", "1", "2"]
    assert forecast[:4] == (20, 3, 10, 7)
    assert forecast.most.completion_tokens == 7 * 20
    assert forecast.most.prompt_tokens == sum(map(most_prompt_tokens, asked[3:]))
    assert forecast.most.price == forecast.most.prompt_tokens + 2 * forecast.most.completion_tokens
    assert 0 < forecast.likely_prompt_tokens < forecast.most.prompt_tokens


def test_a_cap_stops_any_teacher_before_it_is_passed(path):
    teacher, asked = CountingTeacher(), questions(100)
    with Ledger(path, Cap(max_tokens=300)) as ledger, pytest.raises(TeacherError, match="of 300 tokens are spent"):
        list(LedgeredTeacher(teacher, ledger).answer(asked))
    with Ledger(path) as ledger:
        (total,) = ledger.totals()
    assert total.prompt_tokens + total.completion_tokens == 15 * len(teacher.asked) <= 300
    # One more would not have fitted if it had been as long as it may be.
    assert 15 * len(teacher.asked) + most_prompt_tokens(asked[0]) + 20 > 300


def test_a_cap_of_nothing_lets_nothing_be_asked(path):
    teacher = CountingTeacher()
    with Ledger(path, Cap(max_tokens=1)) as ledger, pytest.raises(TeacherError, match=r"^counting: the spend cap"):
        list(LedgeredTeacher(teacher, ledger).answer(questions(1)))
    assert teacher.asked == []


def hold_and_wait(path: Path, ready) -> None:
    ledger = Ledger(path, Cap(max_tokens=1000))
    assert ledger.hold(Spend(600, 0, 0.0)).result() == ""
    ready.set()
    time.sleep(600)


def test_what_a_killed_process_had_in_flight_is_counted_as_spent(path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold_and_wait, args=(path, ready))
    process.start()
    assert ready.wait(300)
    with Ledger(path, Cap(max_tokens=1000)) as ledger:
        waiting = ledger.hold(Spend(500, 0, 0.0))
        # As long as the other may still come back with less, nobody is refused.
        time.sleep(0.5)
        assert not waiting.done()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert waiting.result(timeout=120) == "600 of 1000 tokens are spent, and the next call may take 500"
        assert ledger.hold(Spend(400, 0, 0.0)).result(timeout=120) == ""
    assert [row.teacher for row in find_calls(open_file(path, read_only=True), "", 9)] == ["(lost)", "(lost)"]


def write_many(path: Path, first: int) -> None:
    with Ledger(path) as ledger:
        list(LedgeredTeacher(CountingTeacher(), ledger).answer(questions(200, start=first)))


def test_processes_may_make_and_write_one_ledger_together(path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_many, args=(path, 200 * n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    (line,) = summarize(open_file(path, read_only=True))
    assert line[:6] == ("counting", 600, 600, 0, 600, 0)


def test_a_summary_and_single_calls(path):
    with Ledger(path) as ledger:
        list(LedgeredTeacher(CountingTeacher(fails=True), ledger).answer(questions(6)))
        list(LedgeredTeacher(ScriptedTeacher(), ledger).answer(questions(2)))
    reading = open_file(path, read_only=True)
    counting, scripted = summarize(reading)
    assert counting[:8] == ("counting", 6, 4, 2, 6, 2, 40, 20)
    assert scripted.teacher == "scripted teacher"
    newest = find_calls(reading, "", 3)
    assert [row.teacher for row in newest] == ["scripted teacher", "scripted teacher", "counting"]
    assert find_calls(reading, newest[2].request_hash[:10], 5) == [newest[2]]


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to look", None])
def test_another_file_is_no_ledger(path, content):
    if content is None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (a)")
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match="is not a call ledger of this version"):
        Ledger(path)
    with pytest.raises(DataError, match="there is no such ledger"):
        open_file(path.with_name("absent"), read_only=True)


def test_a_full_disk_is_said_and_nothing_hangs(path, monkeypatch):
    monkeypatch.setattr(ledger_writer, "_INSERT", "INSERT INTO calls VALUES (too few)")
    ledger = Ledger(path)
    with pytest.raises(ResourceError, match="cannot be written"):
        list(LedgeredTeacher(CountingTeacher(), ledger).answer(questions(3)))
    with pytest.raises(ResourceError, match="cannot be written"):
        ledger.close()


def test_an_owner_is_alive_for_as_long_as_its_process():
    owner = new_owner()
    host, pid, started, token = owner.rsplit(" ", 3)
    assert is_alive(owner)
    assert not is_alive(f"{host} {pid} {float(started) - 5:.2f} {token}")
    assert not is_alive(f"{host} 999999999 {started} {token}")
    assert is_alive(f"elsewhere {pid} 1.00 {token}")


def test_a_place_that_cannot_hold_a_ledger_is_said(tmp_path):
    (tmp_path / "calls.sqlite").mkdir()
    with pytest.raises(
        ResourceError, match=r"calls\.sqlite: cannot be opened \(unable to open database file\); check that"
    ):
        open_file(tmp_path / "calls.sqlite")
