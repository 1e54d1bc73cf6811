"""One try over HTTP, by the `openai` client: an answer, or what went wrong. Retries are left to `retrying_call`.

The client's own retries are off, so that every try is seen, and redirects too, which would carry headers elsewhere.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx2
import openai

from zephyr.records.thinking import whole_characters
from zephyr.teachers.endpoint.address import Address, is_loopback
from zephyr.teachers.endpoint.chat_format import ServerAnswer, read_response
from zephyr.teachers.endpoint.http_transport import ShortExchanges
from zephyr.teachers.endpoint.troubles import Trouble, trouble_of_status

_NO_KEY = "none"  # for servers that want none: the client insists on one
_SHOWN_CHARACTERS = 300
# Answers are short; a compressed one may be a bomb.
_PLAIN = {"accept-encoding": "identity"}


class ChatClient:
    """An open client for one address, for one event loop. Use it in an `async with`."""

    def __init__(self, address: Address, *, takes_files: bool = False) -> None:
        self.address = address
        section = address.section
        self._deadline_seconds = section.deadline_seconds
        self._client = openai.AsyncOpenAI(
            base_url=address.base_url,
            api_key=address.api_key or _NO_KEY,
            default_headers={**_PLAIN, **address.headers},
            default_query=address.query,
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
        """The answer to a chat completion with this body, or why there is none; without secrets in either.

        Whatever the server sends ends here as one of the two.
        """
        try:
            got = await self._answer(body)
        except Exception as error:  # noqa: BLE001 - the boundary to a peer: no value of its may end the run
            got = Trouble(f"its answer cannot be read ({type(error).__name__}: {error})", True, may_be_billed=True)
        if isinstance(got, Trouble):
            return got._replace(reason=self._shown(got.reason))
        return got._replace(text=self.address.hide(got.text), reasoning=self.address.hide(got.reasoning))

    async def _answer(self, body: Mapping[str, object]) -> ServerAnswer | Trouble:
        try:
            # The client's own parsing of responses accepts anything, and is slow.
            async with asyncio.timeout(self._deadline_seconds):
                response = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=body)
        except openai.APIStatusError as error:
            message = error.response.content.decode("utf-8", "replace")
            return trouble_of_status(error.status_code, message, error.response.headers)
        except (TimeoutError, openai.APITimeoutError):
            reason = f"no answer within {self._deadline_seconds:g} s"
            return Trouble(reason, is_overload=True, may_be_billed=True, remedy="raise deadline_seconds")
        except openai.APIConnectionError as error:
            return _trouble_of_connection(error.__cause__ or error)
        except httpx2.HTTPError as error:
            return _trouble_of_connection(error)
        return read_response(response.content, top_logprobs="top_logprobs" in body)

    def _shown(self, text: str) -> str:
        """The text without secrets and half characters, short enough for a row."""
        return whole_characters(self.address.hide(text))[:_SHOWN_CHARACTERS]


def _trouble_of_connection(error: BaseException) -> Trouble:
    unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol)
    reason = f"{type(error).__name__}: {error}"
    remedy = "check base_url, and that its server runs" if unreachable else "run again to continue"
    return Trouble(reason, is_overload=True, may_be_billed=not unreachable, is_ours=unreachable, remedy=remedy)


def new_http_client(base_url: str, *, takes_files: bool) -> httpx2.AsyncClient:
    """The HTTP client below `openai`'s: over our own transport, but for files and behind a proxy."""
    if takes_files or is_behind_proxy(base_url):
        # A connection for every request: on one that is kept, a second response passes for the next one's.
        limits = httpx2.Limits(max_keepalive_connections=0)
        near = is_loopback(urlsplit(base_url).hostname)
        return openai.DefaultAsyncHttpxClient(
            limits=limits, follow_redirects=False, trust_env=not near, event_hooks={"response": [_refuse_compressed]}
        )
    return openai.DefaultAsyncHttpxClient(transport=ShortExchanges(), follow_redirects=False)


async def _refuse_compressed(response: httpx2.Response) -> None:
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise httpx2.RemoteProtocolError(f"the answer is compressed ({coding}), which was not asked for")


def is_behind_proxy(url: str) -> bool:
    """Whether the environment names a proxy for the address; none is for this machine's own addresses."""
    parts = urlsplit(url)
    if is_loopback(parts.hostname):
        return False
    proxies = urllib.request.getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(parts.netloc)
