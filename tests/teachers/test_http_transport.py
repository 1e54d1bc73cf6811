"""Many short exchanges over kept connections: every way a body can end, and every way it can go wrong."""

import asyncio
import gzip
import itertools
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.teachers.endpoint.chat_client import is_behind_proxy
from zephyr.teachers.endpoint.http_transport import ShortExchanges

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\ntrailer: 1\r\n\r\n"


class Scripted:
    """A server that says what it is told to say, piece by piece, and counts connections and requests."""

    def __init__(self, *answers: list[bytes], closes: bool = False) -> None:
        self.answers = list(answers)
        self.closes = closes
        self.num_connections = 0
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
                self.requests.append(head + body)
                for piece in self.answers.pop(0):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.closes:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def talk(server: Scripted, say: Callable[[httpx2.AsyncClient, str], Awaitable[None]], **kind: object) -> None:
    async def story() -> None:
        listening = await asyncio.start_server(server, "127.0.0.1", 0, **kind)
        port = listening.sockets[0].getsockname()[1]
        async with listening, httpx2.AsyncClient(transport=ShortExchanges()) as client:
            scheme = "https" if kind else "http"
            await say(client, f"{scheme}://127.0.0.1:{port}/v1")

    asyncio.run(asyncio.wait_for(story(), 20))


def said(server: Scripted, times: int = 1) -> list[bytes]:
    """The bodies that a client gets from the server."""
    bodies: list[bytes] = []

    async def say(client: httpx2.AsyncClient, url: str) -> None:
        bodies.extend([(await client.post(url, json={"a": 1})).content for _ in range(times)])

    talk(server, say)
    return bodies


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        CHUNKED,
        OK.replace(b"1.1", b"1.0") + b"\r\nhello",
        OK + b"connection: close\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
        OK
        + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(gzip.compress(b"hello")), gzip.compress(b"hello")),
    ],
)
def test_every_way_a_body_can_end(answer):
    server = Scripted([answer], closes=True)
    assert said(server) == [b"hello"]
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert body == b'{"a":1}'


def test_one_connection_serves_many_exchanges():
    server = Scripted(*[[WHOLE], [CHUNKED]] * 5)
    assert said(server, 10) == [b"hello"] * 10
    assert server.num_connections == 1


@given(st.lists(st.integers(1, len(CHUNKED) - 1), max_size=6), st.sampled_from([WHOLE, CHUNKED]))
def test_where_a_response_is_cut_changes_nothing(cuts, answer):
    edges = [0, *sorted({cut for cut in cuts if cut < len(answer)}), len(answer)]
    pieces = [answer[start:end] for start, end in itertools.pairwise(edges)]
    assert said(Scripted(pieces, pieces), 2) == [b"hello"] * 2


@pytest.mark.parametrize("more", [WHOLE.replace(b"hello", b"other"), b"x"])
def test_a_connection_that_says_more_is_not_used_again(more):
    server = Scripted([WHOLE + more], [WHOLE])
    assert said(server, 2) == [b"hello", b"hello"]
    assert server.num_connections == 2


def test_a_connection_that_was_closed_meanwhile_is_not_used_again():
    server = Scripted([WHOLE], [WHOLE], closes=True)

    async def say(client: httpx2.AsyncClient, url: str) -> None:
        for _ in range(2):
            assert (await client.get(url)).content == b"hello"
            await asyncio.sleep(0.05)

    talk(server, say)
    assert server.num_connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        WHOLE[:-1],
        CHUNKED[:-9],
        b"nonsense\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        OK + b"no header\r\n\r\n",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        OK + b"x: " + b"y" * 70_000,
    ],
)
def test_what_is_no_whole_response_is_an_error(answer):
    with pytest.raises(httpx2.TransportError):
        said(Scripted([answer], closes=True))


@given(st.binary(max_size=200))
def test_no_bytes_at_all_crash_or_hang(answer):
    try:
        (body,) = said(Scripted([OK + answer], closes=True))
    except httpx2.RequestError:
        return
    assert body in answer or b"chunked" in answer.lower()


def test_a_given_up_exchange_leaves_its_connection():
    server = Scripted([b"HTTP/1.1 200 OK\r\n"], [WHOLE])

    async def say(client: httpx2.AsyncClient, url: str) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get(url), 0.1)
        assert (await client.get(url)).content == b"hello"

    talk(server, say)
    assert server.num_connections == 2


def test_nobody_there_is_a_connect_error():
    async def ask() -> None:
        async with httpx2.AsyncClient(transport=ShortExchanges()) as client:
            await client.get("http://127.0.0.1:9/v1")

    with pytest.raises(httpx2.ConnectError):
        asyncio.run(ask())


def test_a_header_cannot_smuggle_another():
    with pytest.raises(httpx2.LocalProtocolError):
        asyncio.run(ShortExchanges().handle_async_request(request_with({"x": "a\r\ny: b"})))


def request_with(headers: dict[str, str]) -> httpx2.Request:
    return httpx2.Request("GET", "http://127.0.0.1:9/v1", headers=headers)


def test_certificates_are_checked(tmp_path, monkeypatch):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def refused(client: httpx2.AsyncClient, url: str) -> None:
        with pytest.raises(httpx2.ConnectError, match="certificate"):
            await client.get(url)

    async def trusted(client: httpx2.AsyncClient, url: str) -> None:
        for _ in range(2):
            assert (await client.get(url)).content == b"hello"

    talk(Scripted([WHOLE]), refused, ssl=context)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = Scripted([WHOLE], [CHUNKED])
    talk(server, trusted, ssl=context)
    assert server.num_connections == 1


@pytest.mark.parametrize(
    ("environment", "is_behind"),
    [
        ({}, False),
        ({"https_proxy": "http://proxy:1"}, True),
        ({"http_proxy": "http://proxy:1"}, False),
        ({"all_proxy": "http://proxy:1"}, True),
        ({"https_proxy": "http://proxy:1", "no_proxy": "api.example.org"}, False),
    ],
)
def test_a_proxy_of_the_environment_is_seen(environment, is_behind, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_behind_proxy("https://api.example.org/v1") is is_behind
