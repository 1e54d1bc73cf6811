"""The routes: who is let in, what is refused and why, what an answer holds, and what its end sets free."""

import asyncio
import json
import threading

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.deliver.serving.small_server import NAME, WINDOW, ask, open_application, open_model
from zephyr.models.samples import Sample

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "a"}
ASKED = {"messages": [USER], "temperature": 0, "max_tokens": 12}
MALFORMED = [
    (b"{", 400, "not JSON", None),
    (b"[" * 4000, 400, "not JSON", None),
    (b"[]", 400, "not a JSON object", None),
    (b'{"n": NaN}', 400, "NaN is no number", None),
    (b'{"n": 1, "n": 2}', 400, "stands twice", None),
    (b'{"n": ' + b"9" * 4000 + b"}", 400, "messages is missing", "n"),
    (b"{}", 400, "messages is missing", "messages"),
    ({"messages": []}, 400, "there are no messages", "messages"),
    ({"messages": "a"}, 400, "should be a valid list", "messages"),
    ({"messages": ["a"]}, 400, "messages[0]", "messages[0]"),
    ({"messages": [{"role": "robot", "content": "a"}]}, 400, "'system'", "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, "content is missing", "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "valid string", "messages[0].content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages[0].content", "messages[0].content"),
    ({"messages": [{**USER, "name": "Al"}]}, 400, "messages[0].name", "messages[0].name"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        400,
        "part 0 has type 'image_url'",
        "messages[0].content",
    ),
    ({"messages": [USER, USER]}, 400, "twice in a row", "messages"),
    ({**ASKED, "temperature": "hot"}, 400, "valid number", "temperature"),
    ({**ASKED, "temperature": True}, 400, "valid number", "temperature"),
    ({**ASKED, "temperature": 10**400}, 400, "temperature", "temperature"),
    ({**ASKED, "max_tokens": 0}, 400, "greater than or equal to 1", "max_tokens"),
    ({**ASKED, "stream": "yes"}, 400, "valid boolean", "stream"),
    ({**ASKED, "stop": ""}, 400, "at least 1 character", "stop[0]"),
    ({**ASKED, "stop": list("abcde")}, 400, "at most 4", "stop"),
    ({**ASKED, "logit_bias": {"x": 1}}, 400, "ids of tokens", "logit_bias"),
    ({**ASKED, "logit_bias": {"99999": 1}}, 400, "no token 99999", "logit_bias"),
    ({**ASKED, "top_logprobs": 2}, 400, "needs logprobs", "top_logprobs"),
    ({**ASKED, "stream_options": {"include_usage": True}}, 400, "needs stream", "stream_options"),
    ({**ASKED, "max_completion_tokens": 4}, 400, "beside max_completion_tokens", "max_tokens"),
    ({**ASKED, "top_k": 50}, 400, "top_k is not a field", "top_k"),
    ({**ASKED, "chat_template_kwargs": {"chat_template": "{{ 7*7 }}"}}, 400, "is not a field", "chat_template_kwargs"),
    ({**ASKED, "generation_config": "{}"}, 400, "is not a field", "generation_config"),
    ({**ASKED, "tools": [{"type": "function"}]}, 400, "tools is not supported", "tools"),
    ({**ASKED, "model": "../../etc"}, 404, "there is no model", "model"),
    (b" " * 5000, 413, "larger than 4,096 bytes", None),
]


@pytest.fixture(scope="module")
def model():
    opened = open_model()
    yield opened
    opened.writer.close()


@pytest.fixture(scope="module")
def app(model):
    return open_application(model)


def chat(app, **fields):
    answer = ask(app, "POST", CHAT, json=ASKED | fields)
    assert answer.status_code == 200, answer.text
    return answer


def text_of(app, **fields):
    return chat(app, **fields).json()["choices"][0]["message"]["content"]


def events(answer):
    """The chunks of a stream, which ends as OpenAI's does."""
    *chunks, last, rest = answer.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def streamed_text(chunks):
    return "".join(one["delta"].get("content") or "" for chunk in chunks for one in chunk["choices"])


@pytest.mark.parametrize(("body", "status", "reason", "param"), MALFORMED)
def test_a_malformed_request_gets_its_reason_and_its_field(app, body, status, reason, param):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = ask(app, "POST", CHAT, content=content, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert reason in error["message"]
    assert error["param"] == param
    assert set(error) == {"message", "type", "param", "code"}


def test_null_is_absent(app):
    nothing = dict.fromkeys(["model", "stop", "tools", "stream", "seed", "top_k", "response_format", "stream_options"])
    message = USER | {"name": None, "tool_calls": None}
    assert text_of(app, **nothing, messages=[message]) == text_of(app)


def test_parts_of_text_are_text_and_a_developer_is_the_system(app):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert text_of(app, messages=[{"role": "user", "content": parts}]) == text_of(
        app, messages=[{"role": "user", "content": "a\nb"}]
    )
    system = [{"role": "system", "content": "Be brief."}, USER]
    assert text_of(app, messages=system) == text_of(app, messages=[system[0] | {"role": "developer"}, USER])


def test_a_stream_says_the_same_and_counts_only_if_asked(app):
    chunks = events(chat(app, stream=True))
    assert streamed_text(chunks) == text_of(app)
    assert not any("usage" in chunk for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    counted = events(chat(app, stream=True, stream_options={"include_usage": True}))
    assert counted[-1]["choices"] == []
    assert counted[-1]["usage"] == chat(app).json()["usage"]
    assert {chunk["model"] for chunk in counted} == {NAME}


def test_text_stops_before_a_stop_text_streamed_alike(app):
    whole = text_of(app)
    for start in range(1, len(whole) - 1):
        stop = whole[start : start + 2]
        before = whole[: whole.find(stop)]
        answer = chat(app, stop=[stop, "never said"]).json()["choices"][0]
        assert (answer["message"]["content"], answer["finish_reason"]) == (before, "stop")
        chunks = events(chat(app, stop=stop, stream=True))
        assert (streamed_text(chunks), chunks[-1]["choices"][0]["finish_reason"]) == (before, "stop")


def test_log_probs_are_of_the_tokens_shown(app):
    content = chat(app, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 12
    assert all(len(one["top_logprobs"]) == 2 for one in content)
    assert all(one["logprob"] == one["top_logprobs"][0]["logprob"] <= 0 for one in content)
    raw = bytes(byte for one in content for byte in one["bytes"])
    assert raw.decode(errors="ignore") == text_of(app)
    streamed = [one for chunk in events(chat(app, logprobs=True, stream=True)) for one in chunk["choices"]]
    tokens = [token["token"] for one in streamed if one["logprobs"] for token in one["logprobs"]["content"]]
    assert tokens == [one["token"] for one in content]


def test_a_seed_repeats_and_choices_differ(app):
    hot = {"temperature": 1.5, "n": 3, "seed": -7}
    first, again = ([one["message"]["content"] for one in chat(app, **hot).json()["choices"]] for _ in range(2))
    assert first == again
    assert len(set(first)) == 3
    assert chat(app, **hot).json()["usage"]["completion_tokens"] == 36
    by_choice = {}
    for chunk in events(chat(app, **hot, stream=True)):
        for one in chunk["choices"]:
            by_choice[one["index"]] = by_choice.get(one["index"], "") + (one["delta"].get("content") or "")
    assert [by_choice[index] for index in range(3)] == first


def test_biases_and_penalties_change_the_words(app):
    assert len(set(chat(app, logprobs=True, logit_bias={"40": 100}).json()["choices"][0]["message"]["content"])) == 1
    plain, fined = (chat(app, logprobs=True, frequency_penalty=fine).json()["choices"][0] for fine in (0, 2))
    repeats = [12 - len({one["token"] for one in choice["logprobs"]["content"]}) for choice in (plain, fined)]
    assert repeats[1] <= repeats[0]


def test_the_window_is_told_with_both_numbers(app):
    long = ask(app, "POST", CHAT, json={"messages": [{"role": "user", "content": "b" * 400}]}).json()["error"]
    assert long["code"] == "context_length_exceeded"
    assert f"maximum context length is {WINDOW} tokens" in long["message"]
    assert long["param"] == "messages"
    used = chat(app).json()["usage"]["prompt_tokens"]
    assert chat(app, max_tokens=WINDOW - used).status_code == 200
    over = ask(app, "POST", CHAT, json=ASKED | {"max_tokens": WINDOW - used + 1}).json()["error"]
    assert over["message"].endswith(f"messages has {used} tokens and max_tokens asks for {WINDOW - used + 1} more")
    unlimited = chat(app, max_tokens=None, logit_bias={"2": -100}).json()
    assert unlimited["usage"]["total_tokens"] == WINDOW


def test_completions_continue_texts_and_ids(app, model):
    ids = model.tokenizer("one two")["input_ids"]
    asked = {"temperature": 0, "max_tokens": 5}
    texts = []
    for prompt in ("one two", ids, ["one two"], [ids]):
        answer = ask(app, "POST", "/v1/completions", json=asked | {"prompt": prompt}).json()
        texts.append(answer["choices"][0]["text"])
        assert answer["object"] == "text_completion"
    assert len(set(texts)) == 1
    both = ask(app, "POST", "/v1/completions", json=asked | {"prompt": ["one two", "b"], "n": 2}).json()
    assert [one["index"] for one in both["choices"]] == [0, 1, 2, 3]
    assert both["choices"][0]["text"] == texts[0]
    chunks = events(ask(app, "POST", "/v1/completions", json=asked | {"prompt": ids, "stream": True}))
    assert "".join(one["text"] for chunk in chunks for one in chunk["choices"]) == texts[0]
    for wrong in ([], [[]], [99999], ["a", 1], 5):
        assert ask(app, "POST", "/v1/completions", json=asked | {"prompt": wrong}).status_code == 400


def test_a_schema_is_kept_or_refused(app):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert json.loads(text_of(app, response_format=wanted, temperature=1, seed=3))["a"] in (1, 2)
    bad = wanted | {"json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    for format_ in (bad, {"type": "json_schema"}, {"type": "xml"}, wanted | {"type": "text"}):
        refused = ask(app, "POST", CHAT, json=ASKED | {"response_format": format_})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"].startswith("response_format")
    assert text_of(app, response_format={"type": "json_object"}).startswith("{")


def test_a_model_without_a_template_still_completes(model):
    app = open_application(type(model)(**{**vars(model), "encoder": None, "no_chat": "there is no template"}))
    refused = ask(app, "POST", CHAT, json=ASKED)
    assert refused.status_code == 400
    assert "there is no template" in refused.json()["error"]["message"]
    assert ask(app, "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_only_these_paths_are_served(app):
    assert ask(app, "GET", "/v1/models").json()["data"][0]["id"] == NAME
    assert ask(app, "GET", f"/v1/models/{NAME}").json()["id"] == NAME
    assert ask(app, "GET", "/v1/models/other").status_code == 404
    assert ask(app, "GET", "/health").json() == {"status": "ok"}
    for method, path in (("POST", "/load_model"), ("GET", "/../../etc/passwd"), ("DELETE", "/v1/models")):
        answer = ask(app, method, path)
        assert answer.status_code in (404, 405)
        assert "is not served" in answer.json()["error"]["message"]


def test_pages_of_other_sites_are_kept_out(app):
    for host in ("evil.example", "127.0.0.1.evil.example", "[::1"):
        assert ask(app, "GET", "/v1/models", headers={"host": host}).status_code == 400
    assert ask(app, "POST", CHAT, content=json.dumps(ASKED)).status_code == 415


def test_a_token_opens_the_door_and_nothing_else_does(model):
    app = open_application(model, token="sécret")
    for header in ({}, {"authorization": "Bearer secret"}, {"authorization": "sécret".encode()}):
        assert ask(app, "GET", "/v1/models", headers=header).status_code == 401
        assert ask(app, "POST", CHAT, json=ASKED, headers=header).status_code == 401
        assert ask(app, "POST", "/v1/completions", json={"prompt": "a"}, headers=header).status_code == 401
    good = {"authorization": "Bearer sécret".encode()}
    assert ask(app, "GET", "/v1/models", headers=good, host="machine.example").status_code == 200


async def client_that_leaves(app, leaves, received):
    """A client that asks for an answer to the end of the window, and is gone when it is told so."""
    endless = json.dumps(ASKED | {"max_tokens": None, "logit_bias": {"2": -100}}).encode()
    waiting = [{"type": "http.request", "body": endless, "more_body": False}]

    async def receive():
        if waiting:
            return waiting.pop()
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        received.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "query_string": b""}
    await app(scope, receive, send)


def test_a_full_queue_and_an_end_are_said_and_a_client_that_goes_frees_its_place():
    model = open_model(max_rows=1, max_waiting=1)
    app = open_application(model)
    # The writer is ready, so that its next step is one of the clients'.
    assert ask(app, "POST", CHAT, json=ASKED).status_code == 200
    steps, goes_on, queued, submit = [], threading.Event(), asyncio.Event(), model.writer.submit

    def tell(samples):
        submit(samples)
        queued.set()

    async def all_three():
        received, leaves = [[], [], []], asyncio.Event()
        loop, writes = asyncio.get_running_loop(), asyncio.Event()

        def one_step(*_):
            loop.call_soon_threadsafe(writes.set)
            steps.append(goes_on.wait(600))

        hook = model.writer._model.register_forward_hook(one_step)
        clients = [asyncio.create_task(client_that_leaves(app, leaves, received[0]))]
        await writes.wait()
        model.writer.submit = tell
        clients.append(asyncio.create_task(client_that_leaves(app, leaves, received[1])))
        await queued.wait()
        await client_that_leaves(app, asyncio.Event(), received[2])
        assert received[2][0]["status"] == 429
        assert (b"retry-after", b"2") in received[2][0]["headers"]
        leaves.set()
        await asyncio.gather(*clients)
        # Their places are free while the step that the first one began still lasts.
        queued.clear()
        leaves.clear()
        client = asyncio.create_task(client_that_leaves(app, leaves, []))
        await queued.wait()
        leaves.set()
        await client
        goes_on.set()
        hook.remove()

    asyncio.run(asyncio.wait_for(all_three(), 300))
    assert ask(app, "POST", CHAT, json=ASKED).status_code == 200
    # Each of the two that are gone would have gone on to the end of the window.
    assert len(steps) <= 2
    model.writer.close()
    answer = ask(app, "POST", CHAT, json=ASKED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_ends")
    assert ask(app, "GET", "/health").status_code == 503


def test_a_fault_of_the_model_is_an_error_in_the_same_form_and_the_next_is_answered(app, monkeypatch):
    def fails(self, logits):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Sample, "adjust", fails)
        biased = ASKED | {"logit_bias": {"5": 1}}
        answer = ask(app, "POST", CHAT, json=biased)
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        (last,) = [
            chunk for chunk in events(ask(app, "POST", CHAT, json=biased | {"stream": True})) if "error" in chunk
        ]
        assert last["error"]["code"] == "server_error"
    assert text_of(app)
