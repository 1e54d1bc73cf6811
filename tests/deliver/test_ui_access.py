"""The door of the page: who gets in, to which addresses, with how much."""

import asyncio
import base64
from typing import NamedTuple

import pytest

pytest.importorskip("starlette")

from zephyr.deliver.ui.access import AccessMiddleware

OPEN = ["/", "/config", "/theme.css", "/assets/index-DphvyggB.js", "/static/fonts/A/A-Regular.woff2"]
OPEN += ["/gradio_api/info", "/gradio_api/heartbeat/0abc", "/gradio_api/queue/data"]
CLOSED = ["/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://a.b", "/monitoring", "/docs"]
CLOSED += ["/static/../../etc/passwd", "/assets/..", "/gradio_api/runs", "/gradio_api/deep_link", "/login", "//"]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


def ask(path="/", *, method="GET", host="localhost:7860", token=None, headers=None):
    """What a request gets, whose path is not made nicer on the way as a client would."""
    from starlette.responses import PlainTextResponse

    fields = {"host": host, **(headers or {})}
    pairs = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in fields.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(AccessMiddleware(PlainTextResponse("the page"), token, body_bytes=100)(scope, None, send))
    start, body = sent
    return Answer(start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, body["body"].decode())


def basic(text):
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize("path", OPEN)
def test_what_the_page_needs_is_open(path):
    assert ask(path).text == "the page"


@pytest.mark.parametrize("path", CLOSED)
def test_everything_else_is_closed(path):
    answer = ask(path)
    assert (answer.status, answer.text) == (404, "nothing is served here; the page is at /\n")


def test_the_browser_is_told_to_load_nothing_from_elsewhere():
    for answer in (ask(), ask("/nothing")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert "*" not in policy


@pytest.mark.parametrize("host", ["evil.example", "192.168.0.3:7860", "0.0.0.0", "localhost.evil.example"])
def test_without_a_token_only_this_machine_is_served(host):
    assert ask(host=host).status == 400


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:7860", "[::1]:7860"])
def test_this_machine_has_several_names(host):
    assert ask(host=host).status == 200


def test_a_token_opens_the_door_as_password_or_bearer_and_nothing_else_does():
    for headers in (basic("me:sécret"), {"authorization": "bearer sécret".encode()}):
        assert ask(token="sécret", host="machine.example", headers=headers).status == 200
    wrong = [{}, basic("sécret:"), basic("me:secret"), {"authorization": "sécret".encode()}]
    wrong += [{"authorization": "Basic \xff".encode("latin-1")}, {"authorization": "Basic AAAA"}, basic("sécret")]
    for headers in wrong:
        answer = ask(token="sécret", headers=headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")


def test_pages_of_other_sites_may_not_ask():
    assert ask(headers={"origin": "http://localhost:7860"}).status == 200
    for origin in ("http://evil.example", "http://localhost:8080", "null"):
        assert ask(headers={"origin": origin}).status == 403


@pytest.mark.parametrize("headers", [{"host": "[::1"}, {"host": "["}, {"origin": "http://["}])
def test_what_is_no_address_is_refused(headers):
    answer = ask(headers=headers)
    assert (answer.status, answer.text) == (400, "the host or the origin is no address\n")


def test_a_body_has_a_length_and_is_no_larger_than_allowed():
    for length, status in (("100", 200), ("101", 413), ("9" * 30, 413), ("-1", 413), ("many", 413)):
        answer = ask("/gradio_api/queue/join", method="POST", headers={"content-length": length})
        assert answer.status == status
    assert ask("/gradio_api/queue/join", method="POST").status == 411
    assert ask(headers={"transfer-encoding": "chunked"}).status == 411
