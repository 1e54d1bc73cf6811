"""What servers do in the world: refuse fields, tell waits in words, send thinking, bombs and halves of characters."""

import contextlib
import gzip
import json
import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.teachers.calls import KEY, SHORT_PAUSES, address_at, questions
from tests.teachers.said_server import Asked, Said, answer, refusal, said_server
from tests.teachers.test_endpoint import rows_of
from zephyr.errors import RecipeError, ResourceError, TeacherError
from zephyr.recipe.teacher_section import EndpointSection
from zephyr.records.messages import Message
from zephyr.teachers.endpoint import retrying_call
from zephyr.teachers.endpoint.address import HIDDEN, resolve_address
from zephyr.teachers.endpoint.chat_format import read_response
from zephyr.teachers.endpoint.teacher import EndpointTeacher
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.protocol import Attempt, ChatReply, Spend


def teacher_at(base_url: str, **changes: object) -> EndpointTeacher:
    return EndpointTeacher(address_at(f"{base_url}/v1", **changes), SHORT_PAUSES)


def replies_of(say, count: int = 12, **changes: object) -> tuple[list[ChatReply], list[Asked]]:
    with said_server(say) as (base_url, asked):
        return list(teacher_at(base_url, **changes).answer(questions(count))), asked


def ended_by(say, count: int = 12, **changes: object) -> tuple[str, int]:
    """The error that ends the run, and how many calls there were."""
    with said_server(say) as (base_url, asked):
        with pytest.raises(TeacherError) as caught:
            list(teacher_at(base_url, **changes).answer(questions(count)))
        return str(caught.value), len(asked)


def test_known_dialects_adapt_and_say_so_once(caplog):
    def say(asked: Asked) -> Said:
        if "max_tokens" in asked.body:
            text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return refusal(400, {"message": text, "param": "max_tokens"})
        if "temperature" in asked.body:
            return refusal(400, {"message": "Unsupported value: 'temperature' does not support 0.7 with this model."})
        if "seed" in asked.body:
            detail = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
            return Said(422, json.dumps({"detail": detail}).encode())
        return answer()

    with caplog.at_level(logging.WARNING):
        replies, asked = replies_of(say)
    assert [reply.text for reply in replies] == ["Yes."] * 12
    assert len(asked) == 12 + 3
    assert asked[-1].body.keys() == {"model", "messages", "max_completion_tokens", "top_p"}
    said = [record.getMessage() for record in caplog.records]
    assert [line.rpartition("section: ")[2] for line in said] == [
        "max_tokens_field: max_completion_tokens",
        "left_out: [top_k, temperature]",
        "left_out: [top_k, temperature, seed]",
    ]


@pytest.mark.parametrize(
    ("said", "words", "remedy"),
    [
        (refusal(400, {"message": "max_tokens is too large: 20 > 8"}), "max_tokens is too large", "left_out"),
        (refusal(400, {"message": "messages must be English"}), "messages must be English", "teacher's section"),
        (refusal(405, "Method Not Allowed"), "Method Not Allowed", "ends in /v1"),
        (refusal(404, {"message": "no model echo"}), "no model echo", "and model"),
        (refusal(429, {"message": "You exceeded your current quota"}), "exceeded your current quota", "top up"),
        (refusal(429, {"message": "day is over"}, retry_after="80000"), "day is over", "80,000 s"),
        (Said(200, b'{"error": "Unexpected endpoint. (POST /chat)"}'), "Unexpected endpoint. (POST /chat)", "base_url"),
    ],
)
def test_what_fails_for_all_calls_ends_the_run_at_the_first(said, words, remedy):
    error, num_calls = ended_by(lambda asked: said)
    assert num_calls == 1
    assert words in error
    assert remedy in error


def test_a_server_that_never_answers_ends_the_run_after_some_tries():
    error, num_calls = ended_by(lambda asked: refusal(500, {"message": "out of order"}), max_tries=4)
    assert 8 <= num_calls <= 12
    assert "out of order" in error


def test_a_refusal_of_one_request_leaves_the_others():
    def say(asked: Asked) -> Said:
        if "Question 0?" in asked.body["messages"][0]["content"]:
            return refusal(400, {"message": "This model's maximum context length is 4096 tokens."})
        return answer()

    replies, asked = replies_of(say)
    assert [reply.finish_reason for reply in replies] == ["error", *["stop"] * 11]
    assert len(asked) == 12


@pytest.mark.parametrize("finish", ["length", "stop"])
def test_nothing_but_thinking_is_asked_for_once_and_costs_what_it_cost(finish, tmp_path):
    path, said = tmp_path / "calls.sqlite", answer(None, finish, reasoning_content="Hm.")
    with said_server(lambda asked: said) as (base_url, asked), Ledger(path) as ledger:
        list(LedgeredTeacher(teacher_at(base_url), ledger).answer(questions(3)))
        assert len(asked) == 3
    assert rows_of(path, "prompt_tokens, completion_tokens, is_estimated") == [(10, 5, 0)] * 3


def test_thinking_is_kept_beside_the_answer_also_in_the_ledger(tmp_path):
    said = answer("<think>\nHm.\n</think>\n\nYes.")
    with said_server(lambda asked: said) as (base_url, asked), Ledger(tmp_path / "calls.sqlite") as ledger:
        for _ in range(2):
            (reply,) = LedgeredTeacher(teacher_at(base_url), ledger).answer(questions(1))
            assert (reply.text, reply.reasoning) == ("Yes.", "Hm.")
        assert len(asked) == 1


def test_a_window_told_in_words_is_waited_for_beyond_the_tries():
    began = time.monotonic()

    def say(asked: Asked) -> Said:
        left = 0.6 - (time.monotonic() - began)
        text = f"Rate limit reached on tokens per min (TPM): Limit 30000. Please try again in {min(left, 0.1):.3f}s."
        return refusal(429, {"message": text}) if left > 0 else answer()

    replies, _ = replies_of(say, max_tries=2)
    assert [reply.text for reply in replies] == ["Yes."] * 12


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "System role not supported"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (422, "Template error: invalid operation: After the optional system message, roles must alternate user"),
        (500, "Value is not callable: system role is unsupported at row 3"),
        (400, "This model does not support the system role."),
    ],
)
def test_where_no_system_role_is_known_the_user_says_its_text(status, words, caplog):
    def say(asked: Asked) -> Said:
        roles = [message["role"] for message in asked.body["messages"]]
        return refusal(status, {"message": words}) if "system" in roles else answer()

    messages = (
        Message("system", "Be brief."),
        Message("user", "Why?"),
        Message("assistant", "So."),
        Message("user", "?"),
    )
    asking = [request._replace(messages=messages) for request in questions(3)]
    with said_server(say) as (base_url, asked), caplog.at_level(logging.WARNING):
        replies = list(teacher_at(base_url).answer(asking))
    assert [reply.text for reply in replies] == ["Yes."] * 3
    assert len(asked) == 3 + 1
    assert [message["content"] for message in asked[-1].body["messages"]] == ["Be brief.\n\nWhy?", "So.", "?"]
    assert [record.getMessage().rpartition("section: ")[2] for record in caplog.records] == ["system_role: user"]


def test_a_refused_role_of_a_dialogue_without_system_message_stays_a_refusal():
    said, calls = ended_by(lambda asked: refusal(400, {"message": "roles must alternate user/assistant"}))
    assert ("roles must alternate" in said, calls) == (True, 8)


def test_a_long_pause_is_told_once_and_why(monkeypatch, caplog):
    monkeypatch.setattr(retrying_call, "_LONG_PAUSE_SECONDS", 0.2)
    limited = refusal(429, {"message": "Requests per day: 9. Please try again in 0.3s."})
    said_first = iter([limited])
    with caplog.at_level(logging.WARNING):
        replies, asked = replies_of(lambda asked: next(said_first, answer()))
    assert (len(replies), len(asked)) == (12, 13)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith("no call for 0 s (HTTP 429: Requests per day: 9. Please try again in 0.3s.)")


def test_the_query_of_an_address_stays_behind_the_path():
    with said_server(lambda asked: answer()) as (base_url, asked):
        place = address_at(f"{base_url}/deployments/x?api-version=2024-06-01")
        list(EndpointTeacher(place, SHORT_PAUSES).answer(questions(1)))
    assert [one.path for one in asked] == ["/deployments/x/chat/completions?api-version=2024-06-01"]


def test_this_machine_is_never_reached_through_a_proxy(monkeypatch):
    with said_server(lambda asked: answer("from the proxy")) as (proxy, seen):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        replies, asked = replies_of(lambda asked: answer())
    assert not seen
    assert len(asked) == len(replies) == 12
    assert asked[0].headers["accept-encoding"] == "identity"


def test_keys_are_stripped_and_one_that_no_header_can_hold_is_named(monkeypatch):
    section = EndpointSection(model="m", api_key_env="MY_KEY", headers={"x": "${MY_KEY}"})
    monkeypatch.setenv("MY_KEY", " sk-abcdefgh\n")
    address = resolve_address(section, where="judge", offline=False)
    assert (address.api_key, dict(address.headers)) == ("sk-abcdefgh", {"x": "sk-abcdefgh"})
    for key in ("sk-abc\u200bdefgh", "sk-\u00e4bc", "sk-a\nb"):
        monkeypatch.setenv("MY_KEY", key)
        with pytest.raises(RecipeError, match=r"^judge\.api_key_env: MY_KEY has a character that no header can hold"):
            resolve_address(section, where="judge", offline=False)


@pytest.mark.parametrize(
    "said",
    [
        Said(200, gzip.compress(bytes(2**26)), {"content-encoding": "gzip"}),
        Said(200, b"\x1f\x8bnot", {"content-encoding": "gzip"}),
        Said(200, b"{}", {"content-encoding": "br"}),
        Said(400, b"x\\ud800y", {"content-type": "text/plain; charset=unicode_escape"}),
        Said(400, b"hello", {"content-type": "text/plain; charset=rot13"}),
        Said(200, b'{"choices":' + b"[" * 100_000),
        Said(200, b'{"choices":[{"message":{"content":null,"refusal":"half \\ud83d"}}]}'),
        Said(429, b"slow", {"retry-after": "1e400"}),
        answer("Yes.", usage={"prompt_tokens": 10**400, "completion_tokens": 5}),
        answer("half \ud83d"),
    ],
)
def test_nothing_a_server_sends_ends_in_a_traceback(said, tmp_path):
    path = tmp_path / "calls.sqlite"
    with (
        said_server(lambda asked: said) as (base_url, _),
        Ledger(path) as ledger,
        contextlib.suppress(TeacherError),
    ):
        replies = list(LedgeredTeacher(teacher_at(base_url, max_tries=1), ledger).answer(questions(2)))
        assert len(replies) == 2
    assert rows_of(path, "id")


@pytest.mark.parametrize("written", [KEY, "".join(f"\\u{ord(one):04x}" for one in KEY)])
def test_no_part_of_a_key_is_left_where_a_text_is_cut(written, tmp_path):
    path = tmp_path / "calls.sqlite"
    for before in range(280, 302, 3):
        said = Said(400, b"x" * before + written.encode())
        with (
            said_server(lambda asked, said=said: said) as (base_url, _),
            Ledger(path) as ledger,
            pytest.raises(TeacherError),
        ):
            list(LedgeredTeacher(teacher_at(base_url), ledger).answer(questions(1)))
    errors = "".join(error for (error,) in rows_of(path, "error"))
    assert HIDDEN in errors
    assert written[:8] not in errors


# ---- the ledger's thread ----


@pytest.mark.parametrize("cap", [None, Cap(max_tokens=10**9)])
def test_a_row_that_cannot_be_written_ends_the_run_and_releases_all_who_wait(cap, tmp_path):
    ledger = Ledger(tmp_path / "calls.sqlite", cap)
    books = ledger.books("x")
    (request,) = questions(1)
    books.record(request, Attempt(ChatReply("0", "Yes.", "stop"), Spend(2**63, 1, 0.0)))
    with pytest.raises(ResourceError, match=r"cannot be written \(OverflowError"):
        ledger.flush()
    with pytest.raises(ResourceError):
        books.record(request, Attempt(ChatReply("0", "Yes.", "stop")))
    if cap is not None:
        with pytest.raises(ResourceError):
            books.reserve(Spend(1, 1, 0.0))
    with pytest.raises(ResourceError):
        ledger.close()


# ---- any body at all ----

NAMES = (
    "choices", "message", "content", "finish_reason", "usage", "error", "code", "type", "text", "prompt_tokens",
    "completion_tokens", "reasoning_content", "refusal", "logprobs", "top_logprobs",
)  # fmt: skip
WORDS = st.text(max_size=20) | st.sampled_from(["stop", "length"])
LEAVES = st.none() | st.booleans() | st.floats() | st.integers() | WORDS
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


def completion_of(parts: tuple) -> bytes:
    content, thought, finish = parts
    choice = {"message": {"content": content, "reasoning": thought}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": thought}).encode()


BODIES = (
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.tuples(JSON, JSON, JSON).map(completion_of)
)


def read_any(body: bytes, wants_logprobs: bool) -> None:
    read = read_response(body, top_logprobs=wants_logprobs)
    if hasattr(read, "text"):
        assert isinstance(read.text, str)
        assert read.prompt_tokens is None or 0 <= read.prompt_tokens <= 10**9
        read.text.encode()


@settings(max_examples=300)
@given(BODIES, st.booleans())
def test_any_body_is_an_answer_or_a_trouble(body, wants_logprobs):
    read_any(body, wants_logprobs)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(BODIES, st.booleans())
def test_any_of_20000_bodies_is_an_answer_or_a_trouble(body, wants_logprobs):
    read_any(body, wants_logprobs)
