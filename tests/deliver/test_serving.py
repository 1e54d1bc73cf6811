"""Serving: who is let in, what is refused and why, and real answers over `transformers serve`."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.teachers.served_model import save_replying_model
from zephyr.deliver.serving import ServeSettings, bound_socket, check_access
from zephyr.errors import ResourceError

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

REPLIES = ("Red, green and blue.", "It is five.", "Yes: a very old one.")
ASKED = {"messages": [{"role": "user", "content": "Hello?"}]}
USER = {"role": "user", "content": "a"}
MALFORMED = [
    (b"{", 400, "not JSON"),
    (b"[" * 4000, 400, "not JSON"),
    (b"[]", 400, "not a JSON object"),
    (b"{}", 400, "messages is no list"),
    (json.dumps({"messages": []}).encode(), 400, "no messages"),
    (json.dumps({"messages": ["a"]}).encode(), 400, "message 1 is no object"),
    (json.dumps({"messages": [{"role": "robot", "content": "a"}]}).encode(), 400, "role 'robot'"),
    (json.dumps({"messages": [{"role": "user", "content": 5}]}).encode(), 400, "no content that is text"),
    (json.dumps({"messages": [USER, USER]}).encode(), 400, "twice in a row"),
    (json.dumps({"messages": [USER], "temperature": "hot"}).encode(), 400, "temperature must be"),
    (json.dumps({"messages": [USER], "max_tokens": 0}).encode(), 400, "max_tokens must be"),
    (json.dumps({"messages": [USER], "stream": "yes"}).encode(), 400, "stream is neither"),
    (json.dumps({"messages": [USER], "model": "../../etc"}).encode(), 404, "there is no model"),
    (b" " * 5000, 413, "larger than 4,096 bytes"),
]


def guarded_app(token=None):
    from zephyr.deliver.serving_guard import Guarded, guard

    return guard(Guarded("http://127.0.0.1:9", "behind", "mine", token, backend_token=None, body_bytes=4096))


def ask(app, method, path, host="localhost", **options):
    """The status and the JSON that the application answers with."""
    import httpx2

    async def once():
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url=f"http://{host}") as client,
        ):
            return await client.request(method, path, **options)

    return asyncio.run(once())


@pytest.mark.parametrize(("body", "status", "reason"), MALFORMED)
def test_a_malformed_request_gets_its_reason(body, status, reason):
    headers = {"content-type": "application/json"}
    answer = ask(guarded_app(), "POST", "/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status
    assert reason in answer.json()["error"]["message"]


def test_only_two_paths_are_served():
    app = guarded_app()
    assert ask(app, "GET", "/v1/models").json()["data"][0]["id"] == "mine"
    for method, path in (("POST", "/load_model"), ("GET", "/../../etc/passwd"), ("DELETE", "/v1/models")):
        answer = ask(app, method, path)
        assert answer.status_code in (404, 405)
        assert "is not served" in answer.json()["error"]["message"]


def test_pages_of_other_sites_are_kept_out():
    assert ask(guarded_app(), "GET", "/v1/models", host="evil.example").status_code == 400
    plain = ask(guarded_app(), "POST", "/v1/chat/completions", content=json.dumps(ASKED))
    assert plain.status_code == 415


def test_a_token_opens_the_door_and_nothing_else_does():
    app = guarded_app(token="sécret")
    for header in ({}, {"authorization": "Bearer secret"}, {"authorization": "sécret".encode()}):
        assert ask(app, "GET", "/v1/models", headers=header).status_code == 401
        assert ask(app, "POST", "/v1/chat/completions", json=ASKED, headers=header).status_code == 401
    good = {"authorization": "Bearer sécret".encode()}
    assert ask(app, "GET", "/v1/models", headers=good, host="machine.example").status_code == 200


def test_a_server_that_is_gone_is_said():
    answer = ask(guarded_app(), "POST", "/v1/chat/completions", json=ASKED)
    assert answer.status_code == 503


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.3", "machine.example"])
def test_other_addresses_want_a_token(host):
    with pytest.raises(ResourceError, match="ZEPHYR_SERVE_TOKEN"):
        check_access(ServeSettings("model", host=host))
    check_access(ServeSettings("model", host=host, token="secret"))
    check_access(ServeSettings("model"))
    with pytest.raises(ResourceError, match="is empty"):
        check_access(ServeSettings("model", token=" "))


def test_a_port_that_is_taken_is_said():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ResourceError, match="give another --port"):
            bound_socket("127.0.0.1", other.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of `zephyr serve` with a tiny model."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    save_replying_model(folder, REPLIES)
    command = [sys.executable, "-m", "zephyr", "serve", str(folder), "--port", "0", "--offline"]
    environment = os.environ | {"HF_HOME": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, line
        yield line.split(" at ")[1].split(",")[0]
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.slow
def test_the_openai_client_is_answered_by_many_at_once(served):
    import openai

    client = openai.OpenAI(base_url=served, api_key="none", timeout=300)
    assert [model.id for model in client.models.list()] == ["tiny"]
    settings = {"model": "tiny", "temperature": 0, "max_tokens": 4}

    def once(number):
        messages = [{"role": "user", "content": f"Number {number}?"}]
        if number % 2:
            return client.chat.completions.create(messages=messages, **settings).choices[0].message.content
        parts = client.chat.completions.create(messages=messages, stream=True, **settings)
        return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(once, range(64)))
    assert {answer.strip() for answer in answers} == {REPLIES[0]}


@pytest.mark.slow
def test_the_real_server_outlives_malformed_requests(served):
    for body, status, _ in MALFORMED[:-1]:
        request = urllib.request.Request(
            f"{served}/chat/completions", data=body, headers={"content-type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        assert refused.value.code == status
    with urllib.request.urlopen(f"{served}/models", timeout=30) as answer:
        assert json.load(answer)["data"][0]["id"] == "tiny"
