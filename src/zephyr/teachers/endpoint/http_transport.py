"""An HTTP transport for many short exchanges with one server: a request, a whole response, over kept connections.

It replaces the HTTP library's transport below the `openai` client, whose pool, parser and streams cost more than the
rest of a call. A connection on which a server sends more than one response to a request is closed, so that no answer
can be taken for another request's (`docs/decisions/0008-http-transport.md` has the measurements). Proxies, HTTP/2 and
long downloads are left to the library.
"""

import asyncio
import re
import ssl
import time
import zlib
from types import TracebackType
from typing import NamedTuple, Self

import httpx2

IDLE_SECONDS = 5.0  # after which servers may close a connection at any moment
CONNECT_SECONDS = 30.0
MOST_HEAD_BYTES = 65_536
MOST_BODY_BYTES = 2**25
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_END_OF_HEAD = b"\r\n\r\n"
_CHUNKED = -1
_TO_THE_END = -2

Headers = list[tuple[bytes, bytes]]
Origin = tuple[str, str, int]


class _Head(NamedTuple):
    """The head of a response; `length` of its body may be _CHUNKED or _TO_THE_END."""

    status: int
    headers: Headers
    length: int
    keeps_open: bool


class ShortExchanges(httpx2.AsyncBaseTransport):
    """A transport with one connection per request in flight; others limit how many there are."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._secure: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        for connection in tuple(self._all):
            connection.close()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The whole response. Raises the same errors as httpx2's own transport."""
        url = request.url
        origin = (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        written = _written(request)
        connection = self._kept(origin) or await self._opened(origin)
        try:
            head, body = await connection.exchange(written)
        except BaseException:
            connection.close()
            raise
        if connection.is_usable:
            connection.idle_since = time.monotonic()
            self._idle.setdefault(origin, []).append(connection)
        else:
            connection.close()
        headers = [header for header in head.headers if header[0].lower() != b"content-encoding"]
        return httpx2.Response(head.status, headers=headers, content=_plain(head, body), request=request)

    def _kept(self, origin: Origin) -> "_Connection | None":
        """An idle connection that is still usable, or None."""
        idle = self._idle.get(origin, [])
        while idle:
            connection = idle.pop()
            if connection.is_usable and time.monotonic() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def _opened(self, origin: Origin) -> "_Connection":
        scheme, host, port = origin
        if scheme == "https" and self._secure is None:
            self._secure = httpx2.create_ssl_context()
        secure = self._secure if scheme == "https" else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._all),
                    host,
                    port,
                    ssl=secure,
                    server_hostname=host if secure else None,
                    happy_eyeballs_delay=0.25,
                )
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(f"no connection within {CONNECT_SECONDS:g} s") from error
        except OSError as error:
            raise httpx2.ConnectError(str(error) or "no connection") from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection; one exchange at a time."""

    def __init__(self, owners: set["_Connection"]) -> None:
        self.is_usable = False
        self.idle_since = 0.0
        self._owners = owners
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._head: _Head | None = None
        self._waiting: asyncio.Future[tuple[_Head, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the new connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.is_usable = transport, True
        self._owners.add(self)

    def close(self) -> None:
        """Close the connection for good."""
        self.is_usable = False
        self._owners.discard(self)
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, request: bytes) -> tuple[_Head, bytes]:
        """The head and the body of the response to a request."""
        assert self._transport is not None
        self._head = None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def data_received(self, data: bytes) -> None:
        """Collect data; hand over the response when it is whole."""
        if self._waiting is None or self._waiting.done():
            # No request is open: this may be a late answer to an earlier one.
            self.close()
            return
        self._received += data
        try:
            self._advance()
        except ValueError as error:
            self._fail(httpx2.RemoteProtocolError(f"no HTTP response: {error}"))

    def eof_received(self) -> None:
        """End a body that has no length."""
        self.is_usable = False
        if self._head is not None and self._head.length == _TO_THE_END:
            self._finish(self._head, bytes(self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the open request."""
        self.is_usable = False
        self._owners.discard(self)
        if exc is None:
            self._fail(httpx2.RemoteProtocolError("the server closed the connection before its response was whole"))
        else:
            self._fail(httpx2.ReadError(str(exc) or type(exc).__name__))

    def _advance(self) -> None:
        """Parse what has arrived. Raises ValueError for what is not HTTP."""
        while self._head is None:
            end = self._received.find(_END_OF_HEAD)
            if end < 0:
                if len(self._received) > MOST_HEAD_BYTES:
                    raise ValueError("its head does not end")
                return
            head = _read_head(bytes(self._received[:end]))
            del self._received[: end + len(_END_OF_HEAD)]
            if head.status >= 200:  # an interim response; the real one follows
                self._head = head
        if len(self._received) > MOST_BODY_BYTES:
            raise ValueError("its body is too long")
        body = self._body(self._head)
        if body is not None:
            self.is_usable = self.is_usable and self._head.keeps_open and not self._received
            self._finish(self._head, body)

    def _body(self, head: _Head) -> bytes | None:
        """The body, removed from what was received; None if it is incomplete."""
        if head.length == _CHUNKED:
            return _take_chunks(self._received)
        if head.length == _TO_THE_END or len(self._received) < head.length:
            return None
        body = bytes(self._received[: head.length])
        del self._received[: head.length]
        return body

    def _finish(self, head: _Head, body: bytes) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((head, body))

    def _fail(self, error: httpx2.TransportError) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


def _written(request: httpx2.Request) -> bytes:
    """The bytes of a request, whose body must be in memory. Raises LocalProtocolError for a line break in a header."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    if any(b"\n" in line or b"\r" in line for line in lines):
        raise httpx2.LocalProtocolError("a header has a line break in it")
    return b"\r\n".join([*lines, b"", request.content])


def _read_head(text: bytes) -> _Head:
    """The head of a response. Raises ValueError for anything else."""
    first, *lines = text.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    status = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not status.isdigit():
        raise ValueError(f"it begins with {first!r}")
    headers: Headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise ValueError(f"{line!r} is no header")
        headers.append((name, value.strip()))
    said = {name.lower(): value.lower() for name, value in headers}
    keeps_open = version == b"HTTP/1.1" and b"close" not in said.get(b"connection", b"")
    return _Head(int(status), headers, _length(int(status), headers, said), keeps_open)


def _length(status: int, headers: Headers, said: dict[bytes, bytes]) -> int:
    """The length of the body, or how its end is found. Raises ValueError if that is ambiguous.

    RFC 9112, 6.3
    """
    if status < 200 or status in (204, 304):
        return 0
    coding = said.get(b"transfer-encoding")
    if coding is not None:
        if coding != b"chunked":
            raise ValueError(f"transfer encoding {coding!r}")
        return _CHUNKED
    lengths = {value for name, value in headers if name.lower() == b"content-length"}
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise ValueError("its length is ambiguous")
    return int(lengths.pop()) if lengths else _TO_THE_END


def _plain(head: _Head, body: bytes) -> bytes:
    """The body as it was before it was compressed, for servers that do so unasked; never more than a body may be.

    Raises RemoteProtocolError for one that would be, or is compressed in another way than gzip's.
    """
    coding = next((value.lower() for name, value in head.headers if name.lower() == b"content-encoding"), b"identity")
    if coding in (b"", b"identity"):
        return body
    if coding not in (b"gzip", b"x-gzip", b"deflate"):
        raise httpx2.RemoteProtocolError(f"the answer is compressed in a way that was not asked for, {coding!r}")
    inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = inflating.decompress(body, MOST_BODY_BYTES)
    except zlib.error as error:
        raise httpx2.RemoteProtocolError(f"the answer is not compressed as it says ({error})") from error
    if inflating.unconsumed_tail or not inflating.eof:
        raise httpx2.RemoteProtocolError("the answer is compressed, and too long or cut off")
    return plain


def _take_chunks(received: bytearray) -> bytes | None:
    """The body of a chunked response, removed from the front; None if it is incomplete. Raises ValueError.

    RFC 9112, 7.1
    """
    parts: list[bytes] = []
    place = 0
    while True:
        end = received.find(b"\r\n", place)
        if end < 0:
            return None
        written = received[place:end].partition(b";")[0].strip()
        if _SIZE.fullmatch(written) is None:
            raise ValueError("a chunk has no length")
        size, start = int(written, 16), end + 2
        if size == 0:
            break
        place = start + size + 2
        if len(received) < place:
            return None
        if received[place - 2 : place] != b"\r\n":
            raise ValueError("a chunk is longer than it says")
        parts.append(bytes(received[start : start + size]))
    # Trailers may follow, and then an empty line.
    while received[start : start + 2] != b"\r\n":
        end = received.find(b"\r\n", start)
        if end < 0:
            return None
        start = end + 2
    del received[: start + 2]
    return b"".join(parts)
