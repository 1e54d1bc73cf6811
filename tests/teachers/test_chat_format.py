"""The JSON of chat completions: requests, responses, log-probs, and judges that are asked by a schema."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.teachers.calls import SHORT_PAUSES, address_at, questions
from zephyr.judging import ParseFailure, RatingQuestion, ask, parse_reply
from zephyr.recipe.teacher_section import EndpointSection
from zephyr.records.messages import Message
from zephyr.teachers.endpoint.chat_format import (
    ServerAnswer,
    body_of,
    read_completion,
    read_response,
    written_out,
)
from zephyr.teachers.endpoint.retrying_call import Caller, fresh_limits
from zephyr.teachers.endpoint.troubles import Trouble, trouble_of_status
from zephyr.teachers.ledger.ledger import canonical, request_hash
from zephyr.teachers.protocol import ChatReply, ChatRequest, NoBooks

USAGE = {"prompt_tokens": 3, "completion_tokens": 5}
REQUEST = ChatRequest("k", (Message("user", "Which?"),), max_tokens=1)
WEIGHED = REQUEST._replace(top_logprobs=5)
CHOICE = {"message": {"role": "assistant", "content": "M"}, "finish_reason": "length"}


def completion(**changes: object) -> dict:
    choice = {"message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"} | changes
    return {"choices": [choice], "usage": USAGE}


def test_a_response_that_is_right():
    assert read_completion(completion()) == ServerAnswer("Yes.", "stop", 3, 5)
    assert read_completion(completion(finish_reason="length")).finish_reason == "length"
    without = completion()
    del without["usage"]
    assert read_completion(without) == ServerAnswer("Yes.", "stop", None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"finish_reason": "content_filter"},
        {"message": None},
        {"message": {"content": None}},
        {"message": {"content": ["a"]}},
        {"message": {"content": None, "tool_calls": [{"id": "x"}]}, "finish_reason": "tool_calls"},
        {"finish_reason": "error"},
        {"message": {"content": None, "reasoning_content": "Hm."}},
        {"message": {"content": "<think>Hm."}, "finish_reason": "length"},
        {"message": {"content": None, "refusal": "No."}},
    ],
)
def test_responses_that_hold_no_answer(changes):
    assert isinstance(read_completion(completion(**changes)), Trouble)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"text"', b"[" * 100_000, b"\xff\xfe", b'{"choices":[]}']
)
def test_bytes_that_hold_no_answer(content):
    assert isinstance(read_response(content), Trouble)


def test_fields_that_a_server_does_not_know_are_left_out():
    request = ChatRequest("a", (Message("user", "Hi"),), 0.5, 0.9, 40, 7, 3)
    section = EndpointSection(model="m", max_tokens_field="max_completion_tokens", left_out=["top_k", "seed"])
    body = body_of(request, section)
    assert json.loads(json.dumps(body)) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
    }


def body(request):
    return body_of(request, EndpointSection(model="m"))


def test_only_requests_that_want_them_say_so():
    assert {"logprobs": True, "top_logprobs": 5}.items() <= body(WEIGHED).items()
    assert "logprobs" not in body(REQUEST)
    assert "top_logprobs" not in canonical(REQUEST)
    assert request_hash("x", REQUEST) != request_hash("x", WEIGHED)


@pytest.mark.parametrize(
    ("choice", "text", "reasoning"),
    [
        ({"finish_reason": None}, "Yes.", ""),
        ({"finish_reason": ""}, "Yes.", ""),
        ({"finish_reason": "end_turn"}, "Yes.", ""),
        ({"finish_reason": {"type": "stop"}}, "Yes.", ""),
        ({"finish_reason": "tool_calls"}, "Yes.", ""),
        ({"message": {"content": "Yes.", "reasoning_content": "Hm."}}, "Yes.", "Hm."),
        ({"message": {"content": "\n\nYes.", "reasoning": "Hm."}}, "Yes.", "Hm."),
        ({"message": {"content": "<think>Hm.</think>\n\nYes."}}, "Yes.", "Hm."),
        ({"message": {"content": [{"type": "text", "text": "Ye"}, {"type": "text", "text": "s."}]}}, "Yes.", ""),
        (
            {
                "message": {
                    "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                        {"type": "text", "text": "Yes."},
                    ]
                }
            },
            "Yes.",
            "Hm.",
        ),
        ({"message": {"content": "Yes.\ufffd"}}, "Yes.", ""),
        ({"logprobs": {"content": [{"top_logprobs": [{"token": "Y", "logprob": -1}]}]}}, "Yes.", ""),
    ],
)
def test_whatever_stands_around_an_answer_it_is_taken(choice, text, reasoning):
    assert read_completion(completion(**choice)) == ServerAnswer(text, "stop", 3, 5, reasoning)


@pytest.mark.parametrize("word", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_an_answer_that_was_cut_off_is_known_by_many_words(word):
    assert read_completion(completion(finish_reason=word)).finish_reason == "length"


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 3.0, "completion_tokens": 5.0}, (3, 5)),
        ({"input_tokens": 3, "output_tokens": 5}, (3, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 0}, (None, None)),
        ({"prompt_tokens": 2**63, "completion_tokens": 5}, (None, None)),
        ({"prompt_tokens": 10**400, "completion_tokens": 5}, (None, None)),
        ({"prompt_tokens": -3, "completion_tokens": 5}, (None, None)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": "5"}, (None, None)),
        ([], (None, None)),
    ],
)
def test_counts_that_cannot_be_are_none(usage, counts):
    read = read_completion(completion() | {"usage": usage})
    assert (read.prompt_tokens, read.completion_tokens) == counts


def test_an_answer_of_nothing_but_thinking_is_final_and_its_cost_is_the_servers():
    cut = read_completion(completion(message={"content": None, "reasoning_content": "Hm."}, finish_reason="length"))
    assert cut.is_final
    assert cut.used == (3, 5)
    assert "raise max_new_tokens" in cut.reason


@pytest.mark.parametrize(
    ("error", "said", "final"),
    [
        ({"message": "Provider returned error", "code": 502, "metadata": {"raw": "overloaded"}}, "overloaded", False),
        ({"message": "Provider returned error", "code": "502"}, "Provider returned error", False),
        ("Unexpected endpoint or method.", "Unexpected endpoint", True),
        ({"message": "No such model", "code": "model_not_found"}, "No such model", True),
    ],
)
def test_an_error_in_a_good_response_is_said_in_the_servers_words(error, said, final):
    read = read_completion({"error": error})
    assert said in read.reason
    assert read.is_final is final


def test_the_first_tokens_log_probs_become_the_text():
    top = [{"token": "M", "logprob": -0.017597131}, {"token": "m", "logprob": -4.048847}]
    content = [{"token": "M", "logprob": -0.017597131, "top_logprobs": top}]
    read = read_completion({"choices": [CHOICE | {"logprobs": {"content": content}}]}, top_logprobs=True)
    assert json.loads(read.text) == {"M": -0.017597131, "m": -4.048847}
    top = [{"token": "M", "logprob": 1e400}, {"token": "m", "logprob": "0"}, 3]
    for none in (None, {}, {"content": []}, {"content": [{"top_logprobs": top}]}, {"content": [3]}):
        assert read_completion({"choices": [CHOICE | {"logprobs": none}]}, top_logprobs=True).is_ours


CONVERSATION = (Message("user", "Red or blue?"),)
TWO = RatingQuestion("helpfulness", CONVERSATION, ("Red.", "Blue."))
ONE = RatingQuestion("overall", CONVERSATION, ("Red.",))


class Server:
    """Answers with a text, and refuses what has a schema if it wants none."""

    def __init__(self, text: str, *, refuses: int | None = None) -> None:
        self.address = address_at("http://127.0.0.1:9/v1", structured=True)
        self.bodies: list[dict] = []
        self._text = text
        self._refuses = refuses

    async def ask(self, body):
        self.bodies.append(body)
        if self._refuses and "response_format" in body:
            return trouble_of_status(self._refuses, "response_format is not known", {})
        return ServerAnswer(self._text, "stop", 1, 1)


def called(server: Server, *requests: ChatRequest) -> list[ChatReply]:
    async def story() -> list[ChatReply]:
        caller = Caller(server, fresh_limits(server.address.section), NoBooks(), SHORT_PAUSES)
        return [await caller.call(request) for request in requests]

    return asyncio.run(story())


def asking(question: RatingQuestion) -> ChatRequest:
    return ChatRequest("a", ask(question, nonce="0123456789abcdef"))


def test_a_judge_gets_a_schema_and_its_json_becomes_the_plain_form():
    texts = [{"types": [], "type_rationale": "", "score": score, "rationale": f"It is {score}."} for score in (4, 1)]
    server = Server(json.dumps({"texts": texts}))
    (reply,) = called(server, asking(TWO))
    ratings = parse_reply("helpfulness", reply.text, 2)
    assert [(rating.score, rating.rationale) for rating in ratings] == [(4, "It is 4."), (1, "It is 1.")]
    form = server.bodies[0]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"]
    assert form["json_schema"]["schema"]["additionalProperties"] is False
    assert server.bodies[0]["messages"][-1]["content"].startswith(asking(TWO).messages[-1].content)


def test_half_points_stay():
    (reply,) = called(Server('{"rationale": "Good.", "score": 7.5}'), asking(ONE))
    assert parse_reply("overall", reply.text, 1)[0].score == 7.5


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_schemas_is_sent_one_once(status):
    server = Server("Good.\n\nOverall Score: 8", refuses=status)
    replies = called(server, asking(ONE), asking(ONE)._replace(seed=1))
    assert [parse_reply("overall", reply.text, 1)[0].score for reply in replies] == [8, 8]
    assert ["response_format" in body for body in server.bodies] == [True, False, False]


def test_what_is_no_question_to_a_judge_gets_no_schema():
    server = Server("Yes.")
    called(server, *questions(1))
    assert "response_format" not in server.bodies[0]


@given(
    st.one_of(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
)
def test_other_texts_stay_what_they_are_and_give_no_score(text):
    assert written_out(TWO, text) == text
    assert isinstance(parse_reply("helpfulness", written_out(TWO, text), 2), ParseFailure)


@pytest.mark.parametrize(
    "text",
    [
        '{"texts": []}',
        '{"texts": [{"score": 5, "rationale": "x"}]}',
        '{"texts": [{"score": "5", "rationale": "x"}, {"score": 5, "rationale": "y"}]}',
        '{"texts": [{"score": true, "rationale": "x"}, {"score": 5, "rationale": "y"}]}',
        '{"texts": [{"rationale": "x"}, {"score": 5, "rationale": "y"}]}',
        '{"texts": [{"score": 9, "rationale": "x"}, {"score": 5, "rationale": "y"}]}',
        '{"texts": [{"score": 1e400, "rationale": "x"}, {"score": NaN, "rationale": "y"}]}',
    ],
)
def test_json_of_another_kind_is_no_rating(text):
    assert isinstance(parse_reply("helpfulness", written_out(TWO, text), 2), ParseFailure)
