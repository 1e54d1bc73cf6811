"""One try over HTTP, by the `openai` client: an answer, or what went wrong. Trying again is left to `calling`.

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

from zephyr.teachers.endpoint.address import Address
from zephyr.teachers.endpoint.chat_format import Answered, Json, Unusable, read_response
from zephyr.teachers.endpoint.http_transport import ShortExchanges
from zephyr.teachers.endpoint.retries import Trouble, trouble_of_status

NO_KEY = "none"  # for servers that want none: the client insists on one
SHOWN_CHARACTERS = 300


class ChatClient:
    """An open client for one address, for one event loop. Use it in an `async with`."""

    def __init__(self, address: Address, *, takes_files: bool = False) -> None:
        self.address = address
        section = address.section
        self._deadline_seconds = section.deadline_seconds
        if takes_files or is_behind_proxy(section.base_url):
            # A connection for every request: on one that is kept, a second response passes for the next one's.
            limits = httpx2.Limits(max_keepalive_connections=0)
            http_client = openai.DefaultAsyncHttpxClient(limits=limits, follow_redirects=False)
        else:
            http_client = openai.DefaultAsyncHttpxClient(transport=ShortExchanges(), follow_redirects=False)
        self._client = openai.AsyncOpenAI(
            base_url=section.base_url,
            api_key=address.api_key or NO_KEY,
            default_headers=dict(address.headers),
            max_retries=0,
            timeout=section.deadline_seconds,
            http_client=http_client,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    @property
    def client(self) -> openai.AsyncOpenAI:
        """The client itself, for files and batches."""
        return self._client

    async def ask(self, body: Mapping[str, Json]) -> Answered | Trouble:
        """The answer to a chat completion with this body, or why there is none; secrets are hidden in both."""
        try:
            # The client's own model of the response accepts anything, and costs time.
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
        if isinstance(read, Unusable):
            return Trouble(self._shown(read.reason), is_final=read.is_final, may_be_billed=True)
        return read._replace(text=self.address.hide(read.text))

    def _trouble_of_connection(self, error: BaseException) -> Trouble:
        unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol)
        reason = self._shown(f"{type(error).__name__}: {error}")
        return Trouble(reason, is_overload=True, may_be_billed=not unreachable, is_ours=unreachable)

    def _shown(self, text: str) -> str:
        """A message short enough for a row, without secrets."""
        return self.address.hide(text)[:SHOWN_CHARACTERS]


def is_behind_proxy(url: str) -> bool:
    """Whether the environment names a proxy for the address."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(parts.netloc)
