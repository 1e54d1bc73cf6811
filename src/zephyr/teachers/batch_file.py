"""A teacher by OpenAI's Batch API: files of calls, answered within a day for half the price.

The server is told the name of every file, which follows from what is in it; so a run that was stopped finds its
batches again and pays for none twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, NamedTuple

import openai

from zephyr.errors import TeacherError
from zephyr.teachers.address import Address
from zephyr.teachers.attempts import Attempt, Books, NoBooks
from zephyr.teachers.calling import CallSettings, attempt_of, request_body
from zephyr.teachers.chat_client import ChatClient
from zephyr.teachers.chat_format import Answered, Unusable, read_completion
from zephyr.teachers.ledgered import cap_reached
from zephyr.teachers.prices import Prices, Spend, most_spend
from zephyr.teachers.protocol import ChatReply, ChatRequest
from zephyr.teachers.retries import Trouble

if TYPE_CHECKING:
    from openai.types import Batch

# The server's own limits are 50,000 calls and 200 MB a file.
CALLS_A_FILE = 20_000
POLL_SECONDS = 30.0
OVER = ("completed", "failed", "expired", "cancelled")
NAME = "zephyr"  # the key of a file's name in what the server keeps of a batch
PLACE: Literal["/v1/chat/completions"] = "/v1/chat/completions"


class _Part(NamedTuple):
    """The calls of one file, by the names they have in it, and its lines."""

    name: str
    calls: dict[str, ChatRequest]
    lines: list[bytes]


class BatchTeacher:
    """Answers by batches. A call that its batch did not answer is a failure, and asked again by the next run."""

    def __init__(
        self, address: Address, settings: CallSettings | None = None, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        settings = settings or CallSettings()
        half = Prices(settings.prices.prompt / 2, settings.prices.completion / 2)
        self.name = address.model
        self.identity = address.identity
        self.address = address
        self.settings = replace(settings, prices=half)
        self._poll_seconds = poll_seconds

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for every request, in order."""
        return self.answer_with_books(requests, NoBooks())

    def answer_with_books(self, requests: Sequence[ChatRequest], books: Books) -> Iterator[ChatReply]:
        """As `answer`, with every call written down when its batch is over; TeacherError if the cap has no room."""
        if not requests:
            return
        most = Spend()
        for request in requests:
            most = most.plus(most_spend(request, self.settings.prices))
        hold = books.reserve(most)
        refusal = "" if hold is None else hold.result()
        if refusal:
            raise cap_reached(self.identity, refusal)
        parts = [self._part(requests[start : start + CALLS_A_FILE]) for start in range(0, len(requests), CALLS_A_FILE)]
        attempts = [attempt for found in asyncio.run(self._all(parts)) for attempt in found]
        for index, (request, attempt) in enumerate(zip(requests, attempts, strict=True)):
            # What was held for all goes back with the last of them.
            is_last = index == len(requests) - 1
            books.record(request, attempt, most if is_last and hold is not None else None)
            yield attempt.reply._replace(key=request.key)

    def _part(self, requests: Sequence[ChatRequest]) -> _Part:
        calls = {f"call-{index}": request for index, request in enumerate(requests)}
        lines = [self._line(name, request) for name, request in calls.items()]
        return _Part(hashlib.sha256(b"\n".join(lines)).hexdigest()[:32], calls, lines)

    def _line(self, name: str, request: ChatRequest) -> bytes:
        body = request_body(request, self.address.model, self.settings)
        call = {"custom_id": name, "method": "POST", "url": PLACE, "body": body}
        return json.dumps(call, ensure_ascii=True).encode()

    async def _all(self, parts: Sequence[_Part]) -> list[list[Attempt]]:
        deadline = self.settings.deadline_seconds
        async with ChatClient(self.address, concurrency=4, deadline_seconds=deadline) as chat:
            try:
                return await asyncio.gather(*(self._answered(part, chat.client) for part in parts))
            except openai.APIError as error:
                what = f"the batch could not be made or read ({self.address.hide(str(error))[:300]})"
                raise TeacherError(self.identity, what, "run again to go on, or set batch to false") from error

    async def _answered(self, part: _Part, client: openai.AsyncOpenAI) -> list[Attempt]:
        """The calls of a file, which is sent unless the server has it."""
        batch = await _find(client, part.name) or await _send(client, part)
        began = time.monotonic()
        while batch.status not in OVER:
            await asyncio.sleep(self._poll_seconds)
            batch = await client.batches.retrieve(batch.id)
        if batch.status == "failed":
            reasons = [str(error.message) for error in (batch.errors and batch.errors.data) or []]
            what = f"batch {batch.id} was refused: {self.address.hide('; '.join(reasons))[:300] or 'no reason given'}"
            raise TeacherError(self.identity, what, "mend that, or set batch to false")
        results = {
            str(result.get("custom_id")): result
            for file in (batch.output_file_id, batch.error_file_id)
            if file
            for result in _results((await client.files.content(file)).content)
        }
        seconds = time.monotonic() - began
        return [self._attempt(request, results.get(name), batch, seconds) for name, request in part.calls.items()]

    def _attempt(
        self, request: ChatRequest, result: Mapping[str, object] | None, batch: Batch, seconds: float
    ) -> Attempt:
        """What the batch says about a call, in the form of the books."""
        got = _read(result, f"batch {batch.id} is {batch.status} without it")
        if isinstance(got, Trouble):
            got = got._replace(reason=self.address.hide(got.reason)[:300])
        else:
            got = got._replace(text=self.address.hide(got.text))
        attempt = attempt_of(request, got, most_spend(request, self.settings.prices), self.settings.prices)
        return attempt._replace(latency_seconds=seconds)


async def _find(client: openai.AsyncOpenAI, name: str) -> Batch | None:
    """The batch of that name, unless it is over and answered nothing."""
    async for batch in client.batches.list(limit=100):
        answered = batch.request_counts.completed if batch.request_counts else 0
        if (batch.metadata or {}).get(NAME) == name and (answered or batch.status not in OVER):
            return batch
    return None


async def _send(client: openai.AsyncOpenAI, part: _Part) -> Batch:
    content = b"\n".join(part.lines)
    file = await client.files.create(file=(f"{part.name}.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=PLACE, completion_window="24h", metadata={NAME: part.name}
    )


def _results(content: bytes) -> Iterator[dict[str, object]]:
    """The lines of a result file; what is no JSON object is left out, and its call counts as unanswered."""
    for line in content.splitlines():
        with contextlib.suppress(ValueError):
            result: object = json.loads(line)
            if isinstance(result, dict):
                yield result


def _read(result: Mapping[str, object] | None, missing: str) -> Answered | Trouble:
    if result is None:
        return Trouble(missing)
    response = result.get("response")
    if not isinstance(response, dict) or response.get("status_code") != HTTPStatus.OK:
        return Trouble(f"in the batch: {json.dumps(result.get('error') or response)}")
    read = read_completion(response.get("body"))
    return Trouble(read.reason, may_be_billed=True) if isinstance(read, Unusable) else read
