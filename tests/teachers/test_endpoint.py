"""A teacher behind an address, against a server that does what servers do at their worst."""

import asyncio
import base64
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.teachers.calls import KEY, SHORT_PAUSES, address_at, endpoint, expected, questions
from tests.teachers.hostile_server import FAULTS, HARMLESS, running_server
from zephyr.errors import TeacherError
from zephyr.teachers.endpoint.address import HIDDEN
from zephyr.teachers.endpoint.teacher import EndpointTeacher
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.protocol import ChatReply


def rows_of(path: Path, columns: str) -> list[tuple]:
    with sqlite3.connect(path) as connection:
        return connection.execute(f"SELECT {columns} FROM calls ORDER BY id").fetchall()


def test_replies_come_in_order_and_answer_their_own_questions():
    with running_server() as server:
        asked = questions(60)
        replies = list(endpoint(server).answer(asked))
        assert len(server.events()) == 60
    assert [reply.key for reply in replies] == [request.key for request in asked]
    assert [reply.text for reply in replies] == [expected(request) for request in asked]
    assert replies[0][2:] == ("stop", "", 2, 2, "")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in HARMLESS])
def test_every_fault_is_tried_again_and_written_down(fault, tmp_path):
    path, asked = tmp_path / "calls.sqlite", questions(12)
    with running_server(faults=(fault,), share=0.4) as server, Ledger(path) as ledger:
        replies = list(LedgeredTeacher(endpoint(server), ledger).answer(asked))
        events = server.events()
    assert [reply.text for reply in replies] == [expected(request) for request in asked]
    failed = [error for (error,) in rows_of(path, "error") if error]
    assert len(failed) == sum(event.outcome == fault for event in events) > 0
    assert len(rows_of(path, "id")) == len(events)


@pytest.mark.parametrize("fault", HARMLESS)
def test_more_than_was_asked_for_confuses_nothing(fault):
    with running_server(faults=(fault,), share=0.5) as server:
        asked = questions(80)
        replies = list(endpoint(server).answer(asked))
    assert [reply.text for reply in replies] == [expected(request) for request in asked]


def account_for_everything(path: Path, num_calls: int, share: float) -> None:
    """All calls are answered or failed with a reason, by the teacher's, the ledger's and the server's count alike."""
    asked = questions(num_calls)
    with running_server(share=share) as server, Ledger(path) as ledger:
        replies = list(LedgeredTeacher(endpoint(server, max_tries=3), ledger).answer(asked))
        events = server.events()
    answered = {reply.key for reply in replies if reply.finish_reason == "stop"}
    failed = {reply.key for reply in replies if reply.finish_reason == "error" and reply.error}
    assert len(answered) + len(failed) == num_calls
    assert answered
    assert failed
    for request, reply in zip(asked, replies, strict=True):
        assert reply.text == (expected(request) if request.key in answered else "")
    rows = rows_of(path, "request_hash, finish_reason, error")
    assert len(rows) == len(events)
    assert len({row[0] for row in rows if row[1] == "stop"}) == len(answered)
    assert Counter(bool(row[2]) for row in rows)[True] == len(rows) - len(answered)
    good = ("none", *HARMLESS)
    assert max(Counter(event.digest for event in events if event.outcome in good).values()) == 1


def test_every_call_is_accounted_for(tmp_path):
    account_for_everything(tmp_path / "calls.sqlite", 60, 0.6)


@pytest.mark.slow
def test_every_call_of_2000_is_accounted_for(tmp_path):
    account_for_everything(tmp_path / "calls.sqlite", 2000, 0.6)


def test_a_failure_is_asked_again_and_an_answer_is_not(tmp_path):
    path, asked = tmp_path / "calls.sqlite", questions(20)
    with running_server(faults=("500",), share=0.5) as server, Ledger(path) as ledger:
        teacher = LedgeredTeacher(endpoint(server, max_tries=1), ledger)
        first = list(teacher.answer(asked))
        failed = [reply.key for reply in first if reply.finish_reason == "error"]
        before = len(server.events())
        second = list(teacher.answer(asked))
        assert 0 < len(failed) < 20
        assert len(server.events()) - before == len(failed)
    for old, new in zip(first, second, strict=True):
        assert new == old or old.key in failed


@pytest.mark.parametrize("who", ["", "me:hunter22@"])
def test_no_key_is_written_even_if_the_server_repeats_it(who, tmp_path):
    path = tmp_path / "calls.sqlite"
    with running_server(faults=("500", "429"), share=0.5) as server, Ledger(path) as ledger:
        place = address_at(server.base_url.replace("//", f"//{who}"))
        teacher = EndpointTeacher(place, SHORT_PAUSES)
        replies = list(LedgeredTeacher(teacher, ledger).answer(questions(20)))
        ledger.flush()
        contents = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert HIDDEN.encode() in contents
    for secret in (KEY, "hunter22", base64.b64encode(b"me:hunter22").decode()):
        assert secret.encode() not in contents
        assert secret not in repr((teacher.identity, teacher.name, replies))
    assert KEY not in repr(place)


def test_a_wrong_key_ends_the_run_at_once_and_names_no_key(tmp_path):
    with running_server(faults=("401",), share=1.0) as server, Ledger(tmp_path / "calls.sqlite") as ledger:
        teacher = LedgeredTeacher(endpoint(server), ledger)
        with pytest.raises(TeacherError, match="HTTP 401") as caught:
            list(teacher.answer(questions(500)))
        assert len(server.events()) == 1
    assert KEY not in str(caught.value)


def test_nobody_at_the_address_is_said_once():
    teacher = EndpointTeacher(address_at("http://127.0.0.1:9/v1", max_tries=2), SHORT_PAUSES)
    with pytest.raises(TeacherError, match=r"^echo at http://127\.0\.0\.1:9/v1: no call can succeed \(ConnectError"):
        list(teacher.answer(questions(50)))


@pytest.mark.parametrize("cap", [Cap(max_tokens=2000), Cap(max_price=0.2)])
def test_a_cap_stops_before_it_is_passed(cap, tmp_path):
    path, asked = tmp_path / "calls.sqlite", questions(200)
    prices = {"prompt": 100.0, "completion": 100.0}
    with running_server(share=0.2) as server:
        with Ledger(path, cap) as ledger, pytest.raises(TeacherError, match="the spend cap would be exceeded: "):
            list(LedgeredTeacher(endpoint(server, prices=prices), ledger).answer(asked))
        spent = rows_of(path, "prompt_tokens + completion_tokens, price")
        assert 0 < len(spent) < 200
        assert sum(tokens for tokens, _ in spent) <= (cap.max_tokens or 10**9)
        assert sum(price for _, price in spent) <= (cap.max_price or 10**9)
        with Ledger(path) as ledger:
            replies = list(LedgeredTeacher(endpoint(server, prices=prices), ledger).answer(asked))
    assert [reply.text for reply in replies] == [expected(request) for request in asked]


def test_closing_the_replies_early_ends_the_calls():
    with running_server(delay=0.05) as server:
        replies = endpoint(server).answer(questions(5000))
        assert next(replies).text.startswith("echo ")
        replies.close()
        # The server still counts those that were in flight; then it hears of no more.
        before = -1
        while len(server.events()) != before:
            before = len(server.events())
            time.sleep(1)
        assert before < 5000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("endpoint")]


def test_it_works_inside_another_event_loop():
    async def inside(teacher: EndpointTeacher) -> list[ChatReply]:
        return list(teacher.answer(questions(3)))

    with running_server() as server:
        assert len(asyncio.run(inside(endpoint(server)))) == 3


def test_a_pace_is_kept():
    with running_server() as server:
        began = time.monotonic()
        list(endpoint(server, requests_per_minute=600).answer(questions(25)))
    # Ten at once, and then ten a second.
    assert time.monotonic() - began >= 1.3
