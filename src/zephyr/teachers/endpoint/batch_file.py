"""A teacher by OpenAI's Batch API: files of calls, answered within a day for half the price.

Every batch carries the hash of its file, so that a run that was stopped finds its batches again and pays for none
twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import openai

from zephyr.errors import TeacherError
from zephyr.judging import required_word
from zephyr.teachers.endpoint.address import Address
from zephyr.teachers.endpoint.chat_client import ChatClient
from zephyr.teachers.endpoint.chat_format import ServerAnswer, body_of, read_completion, with_schema, written_out
from zephyr.teachers.endpoint.dialect import Dialect
from zephyr.teachers.endpoint.retrying_call import Backoff, attempt_of
from zephyr.teachers.endpoint.troubles import Trouble, asked_pause, trouble_of_status
from zephyr.teachers.ledger.cached_teacher import cap_reached
from zephyr.teachers.ledger.prices import most_spend, prices_of
from zephyr.teachers.protocol import Attempt, Books, ChatReply, ChatRequest, NoBooks, Spend

if TYPE_CHECKING:
    from openai.types import Batch

# The server's own limits are 50,000 calls and 200 MB a file.
CALLS_A_FILE = 20_000
POLL_SECONDS = 30.0
_OVER = ("completed", "failed", "expired", "cancelled")
_METADATA_KEY = "zephyr"  # the key of the file's hash in a batch's metadata
_ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"

_Found = TypeVar("_Found")


class _Part(NamedTuple):
    """The calls of one file, by their names in it, and its lines."""

    name: str
    calls: dict[str, ChatRequest]
    lines: list[bytes]


class BatchTeacher:
    """Answers by batches. A call that its batch did not answer is a failure, which the next run tries again."""

    def __init__(self, address: Address, backoff: Backoff | None = None, *, poll_seconds: float = POLL_SECONDS) -> None:
        self.name = address.section.model
        self.identity = address.identity
        self.address = address
        self._prices = prices_of(address.section)
        self._backoff = backoff or Backoff()
        self._poll_seconds = poll_seconds
        self._dialect = Dialect(address.section)

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for every request, in order."""
        return self.answer_with_books(requests, NoBooks())

    def answer_with_books(self, requests: Sequence[ChatRequest], books: Books) -> Iterator[ChatReply]:
        """As `answer`, with every call recorded when its batch is over. Raises TeacherError if the cap has no room."""
        if not requests:
            return
        parts = [self._part(requests[start : start + CALLS_A_FILE]) for start in range(0, len(requests), CALLS_A_FILE)]
        attempts = [attempt for found in asyncio.run(self._all(parts, books)) for attempt in found]
        for request, attempt in zip(requests, attempts, strict=True):
            yield attempt.reply._replace(key=request.key)

    def _part(self, requests: Sequence[ChatRequest]) -> _Part:
        calls = {f"call-{index}": request for index, request in enumerate(requests)}
        lines = [self._line(name, request) for name, request in calls.items()]
        return _Part(hashlib.sha256(b"\n".join(lines)).hexdigest()[:32], calls, lines)

    def _line(self, name: str, request: ChatRequest) -> bytes:
        body = body_of(request, self.address.section)
        question = self._dialect.question_of(request)
        if question is not None:
            body = with_schema(body, question)
        call = {"custom_id": name, "method": "POST", "url": _ENDPOINT, "body": body}
        return json.dumps(call, ensure_ascii=True).encode()

    async def _all(self, parts: Sequence[_Part], books: Books) -> list[list[Attempt]]:
        async with ChatClient(self.address, takes_files=True) as chat:
            try:
                return await asyncio.gather(*(self._answered(part, chat.client, books) for part in parts))
            except openai.APIError as error:
                what = f"the batch could not be made or read ({self.address.hide(str(error))[:300]})"
                raise TeacherError(self.identity, what, "run again to continue, or set batch to false") from error

    async def _answered(self, part: _Part, client: openai.AsyncOpenAI, books: Books) -> list[Attempt]:
        """The recorded calls of a file, sent unless the server has it. Raises TeacherError for a refused batch."""
        began = time.monotonic()
        held: Spend | None = None
        found = await self._patiently(partial(_find, client, part.name))
        if found is None:
            held = await self._hold(part, books)
            found = await self._send(client, part)
        batch = found
        while batch.status not in _OVER:
            await asyncio.sleep(self._poll_seconds)
            batch = await self._patiently(partial(client.batches.retrieve, batch.id))
        if batch.status == "failed":
            reasons = [str(error.message) for error in (batch.errors and batch.errors.data) or []]
            what = f"batch {batch.id} was refused: {self.address.hide('; '.join(reasons))[:300] or 'no reason given'}"
            raise TeacherError(self.identity, what, "fix that, or set batch to false")
        results = await self._results(client, batch)
        seconds = time.monotonic() - began
        attempts = [self._attempt(request, results.get(name), batch, seconds) for name, request in part.calls.items()]
        for index, (request, attempt) in enumerate(zip(part.calls.values(), attempts, strict=True), start=1):
            # What was reserved for the file goes back with the last of its calls.
            books.record(request, attempt, held if index == len(attempts) else None)
        return attempts

    async def _hold(self, part: _Part, books: Books) -> Spend | None:
        """What is reserved in the cap for a file; None without a cap. Raises TeacherError if there is no room.

        Not for a file that the server has already: that is paid for.
        """
        most = Spend()
        for request in part.calls.values():
            most = most.plus(most_spend(request, self._prices))
        hold = books.reserve(most)
        if hold is None:
            return None
        refusal = await asyncio.wrap_future(hold)
        if refusal:
            raise cap_reached(self.identity, refusal)
        return most

    async def _send(self, client: openai.AsyncOpenAI, part: _Part) -> Batch:
        file = (f"{part.name}.jsonl", b"\n".join(part.lines))
        sent = await self._patiently(partial(client.files.create, file=file, purpose="batch"))

        async def create() -> Batch:
            # A try whose response was lost may have created it.
            return await _find(client, part.name) or await client.batches.create(
                input_file_id=sent.id, endpoint=_ENDPOINT, completion_window="24h", metadata={_METADATA_KEY: part.name}
            )

        return await self._patiently(create)

    async def _results(self, client: openai.AsyncOpenAI, batch: Batch) -> dict[str, dict[str, object]]:
        """The batch's results, by the names of its calls."""
        results: dict[str, dict[str, object]] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                content = await self._patiently(partial(client.files.content, file))
                results |= {str(result.get("custom_id")): result for result in _lines(content.content)}
        return results

    async def _patiently(self, ask: Callable[[], Awaitable[_Found]]) -> _Found:
        """The result of `ask`, tried again while the server is overloaded or out of order. Raises openai's errors."""
        for number in itertools.count(1):
            try:
                return await ask()
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
                if number >= self.address.section.max_tries:
                    raise
                headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
                await asyncio.sleep(self._backoff.pause(number, asked_pause(headers, str(error)), random.Random()))
        raise AssertionError("there is always another try or an error")

    def _attempt(
        self, request: ChatRequest, result: Mapping[str, object] | None, batch: Batch, seconds: float
    ) -> Attempt:
        """The batch's result of a call, as an entry of the books."""
        missing = f"batch {batch.id} is {batch.status} without it"
        got = _read(result, missing, top_logprobs=bool(request.top_logprobs))
        if isinstance(got, Trouble):
            got = got._replace(reason=self.address.hide(got.reason)[:300])
        else:
            question, text = self._dialect.question_of(request), self.address.hide(got.text)
            text = text if question is None else written_out(question, text, word=required_word(request.messages))
            got = got._replace(text=text, reasoning=self.address.hide(got.reasoning))
        attempt = attempt_of(request, got, most_spend(request, self._prices), self._prices)
        return attempt._replace(latency_seconds=seconds)


async def _find(client: openai.AsyncOpenAI, name: str) -> Batch | None:
    """The batch of that name; None if there is none, or if it is over and answered nothing."""
    async for batch in client.batches.list(limit=100):
        answered = batch.request_counts.completed if batch.request_counts else 0
        if (batch.metadata or {}).get(_METADATA_KEY) == name and (answered or batch.status not in _OVER):
            return batch
    return None


def _lines(content: bytes) -> Iterator[dict[str, object]]:
    """The JSON objects in a result file; the call of any other line counts as unanswered."""
    for line in content.splitlines():
        with contextlib.suppress(ValueError):
            result: object = json.loads(line)
            if isinstance(result, dict):
                yield result


def _read(result: Mapping[str, object] | None, missing: str, *, top_logprobs: bool) -> ServerAnswer | Trouble:
    """The answer in a line of the result file; whatever stands in it is that, or a trouble."""
    if result is None:
        return Trouble(missing)
    response = result.get("response")
    response = response if isinstance(response, dict) else {}
    status = response.get("status_code")
    if status != HTTPStatus.OK:
        said = json.dumps(result.get("error") or response)
        trouble = Trouble(said)
        if isinstance(status, int) and HTTPStatus.BAD_REQUEST <= status < 600:
            trouble = trouble_of_status(status, json.dumps(response.get("body")), {})
        return trouble._replace(reason=f"in the batch: {trouble.reason}")
    try:
        return read_completion(response.get("body"), top_logprobs=top_logprobs)
    except Exception as error:  # noqa: BLE001 - the boundary to a peer, as in ChatClient.ask
        return Trouble(f"its answer cannot be read ({type(error).__name__})", is_final=True, may_be_billed=True)
