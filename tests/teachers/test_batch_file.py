"""A teacher by files of calls: written, waited for, collected; found again after a stop, paid for once."""

import json
from pathlib import Path

import pytest

from tests.teachers.batch_server import BatchServer, batch_server, echo
from tests.teachers.calls import KEY, SHORT_PAUSES, address_at, questions
from zephyr.errors import TeacherError
from zephyr.judging import RatingQuestion, ask, parse_reply
from zephyr.records.messages import Message
from zephyr.teachers.endpoint import batch_file
from zephyr.teachers.endpoint.batch_file import BatchTeacher
from zephyr.teachers.endpoint.teacher import EndpointTeacher
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.protocol import ChatRequest

PRICES = {"prompt": 1e6, "completion": 2e6}


def teacher_of(server: BatchServer, **changes: object) -> BatchTeacher:
    return BatchTeacher(address_at(server.base_url, batch=True, **changes), SHORT_PAUSES, poll_seconds=0.01)


def answers(teacher: BatchTeacher, path: Path, requests: list, cap: Cap | None = None) -> list[str]:
    with Ledger(path, cap) as ledger:
        return [reply.text or reply.error for reply in LedgeredTeacher(teacher, ledger).answer(requests)]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "calls.sqlite"


def test_a_file_is_written_waited_for_and_collected(path, monkeypatch):
    monkeypatch.setattr(batch_file, "CALLS_A_FILE", 4)
    asked = questions(10)
    with batch_server() as server:
        teacher = teacher_of(server, prices=PRICES)
        assert answers(teacher, path, asked) == [f"echo Question {n}?" for n in range(10)]
        lines = [json.loads(line) for line in server.files["file-0"].splitlines()]
        assert len(server.batches) == 3
        assert answers(teacher, path, asked) == [f"echo Question {n}?" for n in range(10)]
        assert len(server.batches) == 3
    assert {line["url"] for line in lines} == {"/v1/chat/completions"}
    assert lines[1]["body"]["max_tokens"] == 20
    with Ledger(path) as ledger:
        (total,) = ledger.totals()
    assert (total.answers, total.prompt_tokens, total.completion_tokens) == (10, 100, 50)
    assert total.price == (100 + 2 * 50) / 2  # by files everything costs half
    assert KEY.encode() not in path.read_bytes()


def test_its_answers_and_an_endpoints_are_the_same_models():
    address = address_at("http://127.0.0.1:9/v1")
    assert BatchTeacher(address).identity == EndpointTeacher(address).identity


def test_a_server_that_stumbles_is_asked_again_and_makes_one_batch(path):
    with batch_server(looks=6) as server:
        server.stumbles = [500, 429, 503]
        server.is_lost = True
        assert answers(teacher_of(server), path, questions(3)) == [f"echo Question {n}?" for n in range(3)]
        assert len(server.batches) == 1
        assert server.asked["POST /batches"] == 1


class StoppedError(Exception):
    """The user stops the command."""


def test_a_stopped_run_finds_its_batch_again_and_holds_nothing_for_it(path, monkeypatch):
    async def stop(_: float) -> None:
        raise StoppedError

    asked = questions(5)
    with batch_server() as server:
        with monkeypatch.context() as patch:
            patch.setattr(batch_file.asyncio, "sleep", stop)
            with pytest.raises(StoppedError):
                answers(teacher_of(server), path, asked, Cap(max_tokens=1000))
        assert len(server.batches) == 1
        # All that it can cost counts as spent, so there is no room for another one of its size; but it is paid.
        assert answers(teacher_of(server), path, asked, Cap(max_tokens=1000)) == [
            f"echo {request.messages[0].content}" for request in asked
        ]
        assert len(server.batches) == 1


def test_a_cap_without_room_sends_no_file(path):
    with batch_server() as server:
        with pytest.raises(TeacherError, match="the spend cap would be exceeded: 0 of 100 tokens are spent"):
            answers(teacher_of(server), path, questions(5), Cap(max_tokens=100))
        assert not server.files


def test_what_a_batch_leaves_out_failed_and_is_asked_again(path):
    def some(line: dict) -> dict:
        if line["custom_id"] == "call-1":
            return {}
        if line["custom_id"] == "call-2":
            error = {"code": "server_error", "message": f"you sent {KEY}"}
            return {"custom_id": "call-2", "response": {"status_code": 500, "body": {}}, "error": error}
        return echo(line)

    asked = questions(4)
    with batch_server(some, ends="expired") as server:
        first = answers(teacher_of(server), path, asked)
        assert first[0] == "echo Question 0?"
        assert first[1] == "batch batch-0 is expired without it"
        assert first[2].startswith("in the batch: ")
        again = answers(teacher_of(server), path, asked)
        assert len(server.batches) == 2
        assert [json.loads(line)["custom_id"] for line in server.files["file-2"].splitlines()] == ["call-0", "call-1"]
    assert again == ["echo Question 0?", "echo Question 1?", "batch batch-1 is expired without it", "echo Question 3?"]
    assert KEY.encode() not in path.read_bytes()


def test_a_batch_that_was_refused_says_why(path):
    with batch_server(lambda _: {}, ends="failed") as server, pytest.raises(TeacherError, match="a line is too long"):
        answers(teacher_of(server), path, questions(2))


def test_judges_are_asked_by_schema_in_files_too(path):
    def rated(line: dict) -> dict:
        assert line["body"]["response_format"]["json_schema"]["name"] == "ratings"
        result = echo(line)
        verdict = json.dumps({"rationale": "Good.", "score": 8})
        result["response"]["body"]["choices"][0]["message"]["content"] = verdict
        return result

    conversation = (Message("user", "Red or blue?"),)
    messages = ask(RatingQuestion("overall", conversation, ("Red.",)), nonce="0123456789abcdef")
    with batch_server(rated) as server:
        (reply,) = answers(teacher_of(server, structured=True), path, [ChatRequest("a", messages)])
    assert parse_reply("overall", reply, 1)[0].score == 8


def test_a_wrong_key_is_said_at_once(path):
    with batch_server() as server:
        server.stumbles = [401]
        with pytest.raises(TeacherError, match="the batch could not be made or read") as caught:
            answers(teacher_of(server), path, questions(2))
        assert sum(server.asked.values()) == 1
    assert KEY not in str(caught.value)
