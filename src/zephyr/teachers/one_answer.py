"""Connections on which a server may say one thing for one request.

What a server sends beyond its response stays in the HTTP library's buffer (httpcore2 2.16), where the next request
on that connection takes it for its own response. Such a connection is not used again.
What a server sends unasked after the next request has gone out, nobody can tell from its response.
"""

import ssl
from collections.abc import Iterable

import httpx2
from httpcore2 import AsyncNetworkBackend, AsyncNetworkStream

START = b"HTTP/1."
Option = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


def guard(client: httpx2.AsyncClient) -> None:
    """Nothing; afterwards the client drops connections that have more to say than one response a request."""
    # The backend cannot be given to a client whose proxies come from the environment.
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        if isinstance(transport, httpx2.AsyncHTTPTransport):
            pool = transport._pool  # noqa: SLF001
            pool._network_backend = _Backend(pool._network_backend)  # noqa: SLF001


class _Backend(AsyncNetworkBackend):
    """Another backend, whose connections are watched."""

    def __init__(self, inner: AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's
        local_address: str | None = None,
        socket_options: Iterable[Option] | None = None,
    ) -> AsyncNetworkStream:
        return _Stream(await self._inner.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _Stream(AsyncNetworkStream):
    """A connection that counts what looks like the start of a response.

    An answer that quotes one is a false alarm, which costs a new connection.
    """

    def __init__(self, inner: AsyncNetworkStream) -> None:
        self._inner = inner
        self._starts = 0
        self._tail = b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the interface's
        data = await self._inner.read(max_bytes, timeout)
        # A start may be cut in two.
        self._starts += (self._tail + data).count(START)
        self._tail = data[1 - len(START) :]
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the interface's
        self._starts, self._tail = 0, b""
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's
    ) -> AsyncNetworkStream:
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        if info == "is_readable" and self._starts > 1:
            return True  # The pool closes an idle connection with something left to read.
        return self._inner.get_extra_info(info)
