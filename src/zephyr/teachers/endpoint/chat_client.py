"""One try over HTTP, by the `openai` client: an answer, or what went wrong. Retries are left to `retrying_call`.

The client's own retries are off, so that every try is seen, and redirects too, which would carry headers elsewhere.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import httpx2
import openai

from zephyr.teachers.endpoint.address import Address
from zephyr.teachers.endpoint.chat_format import ServerAnswer, UnusableResponse, read_response
from zephyr.teachers.endpoint.http_transport import ShortExchanges

_NO_KEY = "none"  # for servers that want none: the client insists on one
_SHOWN_CHARACTERS = 300
# A server that asks for a longer pause has no quota left today.
_LONGEST_PAUSE_SECONDS = 600.0
_OVERLOAD = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, 529}
_TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY}
# Codes of a 429 that no waiting fixes.
_EXHAUSTED = ("insufficient_quota", "billing_hard_limit_reached")


class Trouble(NamedTuple):
    """Why a try failed.

    `is_final`: another try would not help. `is_overload`: the server is overloaded. `may_be_billed`: it may have
    answered all the same. `is_ours`: no call can succeed, as the key, the address or the model's name is wrong.
    """

    reason: str
    is_final: bool = False
    is_overload: bool = False
    may_be_billed: bool = False
    is_ours: bool = False
    pause_seconds: float | None = None  # what the server asked for


class ChatClient:
    """An open client for one address, for one event loop. Use it in an `async with`."""

    def __init__(self, address: Address, *, takes_files: bool = False) -> None:
        self.address = address
        section = address.section
        self._deadline_seconds = section.deadline_seconds
        self._client = openai.AsyncOpenAI(
            base_url=section.base_url,
            api_key=address.api_key or _NO_KEY,
            default_headers=dict(address.headers),
            max_retries=0,
            timeout=section.deadline_seconds,
            http_client=new_http_client(section.base_url, takes_files=takes_files),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    @property
    def client(self) -> openai.AsyncOpenAI:
        """The `openai` client, for files and batches."""
        return self._client

    async def ask(self, body: Mapping[str, object]) -> ServerAnswer | Trouble:
        """The answer to a chat completion with this body, or why there is none; without secrets in either."""
        try:
            # The client's own parsing of responses accepts anything, and is slow.
            async with asyncio.timeout(self._deadline_seconds):
                response = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=body)
        except openai.APIStatusError as error:
            message = self._shown(error.response.text)
            return trouble_of_status(error.status_code, message, error.response.headers)
        except (TimeoutError, openai.APITimeoutError):
            reason = f"no answer within {self._deadline_seconds:g} s"
            return Trouble(reason, is_overload=True, may_be_billed=True)
        except openai.APIConnectionError as error:
            return self._trouble_of_connection(error.__cause__ or error)
        except httpx2.HTTPError as error:
            return self._trouble_of_connection(error)
        read = read_response(response.content)
        if isinstance(read, UnusableResponse):
            return Trouble(self._shown(read.reason), is_final=read.is_final, may_be_billed=True)
        return read._replace(text=self.address.hide(read.text))

    def _trouble_of_connection(self, error: BaseException) -> Trouble:
        unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol)
        reason = self._shown(f"{type(error).__name__}: {error}")
        return Trouble(reason, is_overload=True, may_be_billed=not unreachable, is_ours=unreachable)

    def _shown(self, text: str) -> str:
        """The text without secrets, short enough for a row."""
        return self.address.hide(text)[:_SHOWN_CHARACTERS]


def new_http_client(base_url: str, *, takes_files: bool) -> httpx2.AsyncClient:
    """The HTTP client below `openai`'s: over our own transport, but for files and behind a proxy."""
    if takes_files or is_behind_proxy(base_url):
        # A connection for every request: on one that is kept, a second response passes for the next one's.
        limits = httpx2.Limits(max_keepalive_connections=0)
        return openai.DefaultAsyncHttpxClient(limits=limits, follow_redirects=False)
    return openai.DefaultAsyncHttpxClient(transport=ShortExchanges(), follow_redirects=False)


def is_behind_proxy(url: str) -> bool:
    """Whether the environment names a proxy for the address."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(parts.netloc)


def trouble_of_status(status: int, message: str, headers: Mapping[str, str]) -> Trouble:
    """The trouble that an HTTP status other than success means."""
    reason = f"HTTP {status}: {message}"
    pause = retry_after(headers)
    if status in _OVERLOAD:
        too_long = pause is not None and pause > _LONGEST_PAUSE_SECONDS
        final = too_long or any(code in message for code in _EXHAUSTED)
        return Trouble(reason, is_final=final, is_overload=not final, pause_seconds=pause)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRANSIENT:
        return Trouble(reason, is_overload=False, pause_seconds=pause)
    ours = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
    return Trouble(reason, is_final=True, is_ours=ours)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The pause that a server asks for, in seconds; None if it names none. It may be a number or a date.

    RFC 9110, 10.2.3
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())
