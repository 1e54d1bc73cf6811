"""Requests for log-probs: asked for over HTTP, read into the reply's text, and no change to requests without them."""

import json

from zephyr.recipe.teacher_section import EndpointSection
from zephyr.records.messages import Message
from zephyr.teachers.endpoint.chat_format import body_of, read_completion
from zephyr.teachers.ledger.ledger import canonical, request_hash
from zephyr.teachers.protocol import ChatRequest

REQUEST = ChatRequest("k", (Message("user", "Which?"),), max_tokens=1)
WEIGHED = REQUEST._replace(top_logprobs=5)
CHOICE = {"message": {"role": "assistant", "content": "M"}, "finish_reason": "length"}


def body(request):
    return body_of(request, EndpointSection(model="m"))


def test_only_requests_that_want_them_say_so():
    assert {"logprobs": True, "top_logprobs": 5}.items() <= body(WEIGHED).items()
    assert "logprobs" not in body(REQUEST)
    assert "top_logprobs" not in canonical(REQUEST)
    assert request_hash("x", REQUEST) != request_hash("x", WEIGHED)


def test_the_first_tokens_log_probs_become_the_text():
    top = [{"token": "M", "logprob": -0.017597131}, {"token": "m", "logprob": -4.048847}]
    content = [{"token": "M", "logprob": -0.017597131, "top_logprobs": top}]
    read = read_completion({"choices": [CHOICE | {"logprobs": {"content": content}}]})
    assert json.loads(read.text) == {"M": -0.017597131, "m": -4.048847}
    for none in (None, {}, {"content": []}, {"content": [{"top_logprobs": []}]}, {"content": [3]}):
        assert read_completion({"choices": [CHOICE | {"logprobs": none}]}).text == "M"
