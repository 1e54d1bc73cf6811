"""The routes: who may send requests, which ones, and how large; everything that comes in goes through a typed body.

Every refusal is a 4xx in OpenAI's form, with its reason and the field. A client that goes away frees its work.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from zephyr.deliver.serving.answers import LAST_EVENT, ApiAnswer, TokenBytes, event
from zephyr.deliver.serving.bodies import (
    REFUSED_IN_CHAT,
    REFUSED_IN_COMPLETIONS,
    ChatBody,
    CompletionBody,
    RefusedError,
    SampledBody,
    read_body,
)
from zephyr.deliver.serving.served_model import Answering, EncodedPrompt, ServedModel
from zephyr.records.fields import Json, brief, printable
from zephyr.teachers.endpoint.address import is_loopback

# Of a client that sends its request slowly.
MAX_BODY_SECONDS = 60.0
AGAIN_SECONDS = "2"


@dataclass(frozen=True)
class Served:
    """What the routes serve, and to whom.

    Without a `token` every program on this machine may send requests, but no web page under another name than
    localhost.
    """

    model: ServedModel
    token: str | None
    body_bytes: int
    token_bytes: TokenBytes


def serving_routes(served: Served) -> Starlette:
    """The application to be served to clients."""
    name = served.model.name
    one: dict[str, Json] = {"id": name, "object": "model", "created": 0, "owned_by": "zephyr"}

    async def health(_: Request) -> Response:
        alive = served.model.writer.is_alive
        return JSONResponse({"status": "ok" if alive else "ends"}, status_code=200 if alive else 503)

    async def models(request: Request) -> Response:
        _check_access(request, served)
        return JSONResponse({"object": "list", "data": [one]})

    async def model(request: Request) -> Response:
        _check_access(request, served)
        _check_model(request.path_params["name"], name)
        return JSONResponse(one)

    async def chat(request: Request) -> Response:
        _check_access(request, served)
        body = read_body(ChatBody, await _body(request, served.body_bytes), REFUSED_IN_CHAT)
        _check_sampled(body, name)
        _check_chat(body)
        prompt = await asyncio.to_thread(served.model.chat_prompt, body)
        told = served.token_bytes if body.logprobs else None
        return await _answer(
            request, served.model, body, [prompt], ApiAnswer("chat", name, body.n, len(prompt.ids), told)
        )

    async def completions(request: Request) -> Response:
        _check_access(request, served)
        body = read_body(CompletionBody, await _body(request, served.body_bytes), REFUSED_IN_COMPLETIONS)
        _check_sampled(body, name)
        prompts = await asyncio.to_thread(served.model.completion_prompts, body)
        read = sum(len(prompt.ids) for prompt in prompts)
        return await _answer(
            request, served.model, body, prompts, ApiAnswer("completion", name, body.n * len(prompts), read)
        )

    return Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/models/{name:path}", model, methods=["GET"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
        ],
        exception_handlers={RefusedError: _refused, 404: _unknown, 405: _unknown, Exception: _fault},
    )


# ---- answers ----


async def _answer(
    request: Request, model: ServedModel, body: SampledBody, prompts: Sequence[EncodedPrompt], answer: ApiAnswer
) -> Response:
    """The response with the answer: whole, or a stream that has begun. Raises RefusedError."""
    answering = Answering()
    await answering.begin(model, body, prompts)
    if body.stream:
        return _EventStream(answering, _events(answering, answer, counts=body.stream_options.include_usage))
    try:
        if not await _unless_gone(request.receive, _gather(answering, answer)):
            # Nobody reads it.
            return Response(status_code=499)
    finally:
        answering.drop()
    return JSONResponse(answer.whole())


async def _gather(answering: Answering, answer: ApiAnswer) -> None:
    async for index, part in answering.parts():
        answer.choices[index].add(part)


async def _events(answering: Answering, answer: ApiAnswer, *, counts: bool) -> AsyncIterator[bytes]:
    """The events of a stream; an error is the last but one."""
    for chunk in answer.first_chunks():
        yield event(chunk)
    try:
        async for index, part in answering.parts():
            answer.choices[index].add(part)
            yield event(answer.chunk(index, part))
        if counts:
            yield event(answer.usage_chunk())
    except RefusedError as refused:
        yield event(_error_body(refused))
    yield LAST_EVENT


class _EventStream(Response):
    """A stream of events that ends with its client, also while nothing is to be sent."""

    media_type = "text/event-stream"

    def __init__(self, answering: Answering, events: AsyncIterator[bytes]) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._answering, self._events = answering, events

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await _unless_gone(receive, self._send(send))
        finally:
            self._answering.drop()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._events:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _unless_gone(receive: Receive, work: Coroutine[None, None, None]) -> bool:
    """Whether the work was done before the client went away; it is ended then. Raises what it raises."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# ---- checks ----


def _check_access(request: Request, served: Served) -> None:
    if served.token is None:
        try:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        except ValueError:
            host = None
        if not is_loopback(host):
            raise RefusedError(400, "without a token only localhost is served", code="invalid_host")
        return
    given = request.headers.get("authorization", "")
    # Compared in constant time, as the bytes that came: starlette gives them as latin-1.
    if not hmac.compare_digest(given.encode("latin-1"), f"Bearer {served.token}".encode()):
        reason = "the token is missing or wrong; send Authorization: Bearer TOKEN"
        raise RefusedError(401, reason, code="invalid_api_key")


def _check_model(asked: str | None, name: str) -> None:
    if asked is not None and asked != name:
        reason = f"there is no model {brief(asked)} here; {printable(name)!r} is served"
        raise RefusedError(404, reason, param="model", code="model_not_found")


def _check_sampled(body: SampledBody, name: str) -> None:
    _check_model(body.model, name)
    if "stream_options" in body.model_fields_set and not body.stream:
        raise RefusedError(400, "stream_options: needs stream: true", param="stream_options", code="invalid_value")


def _check_chat(body: ChatBody) -> None:
    if body.top_logprobs and not body.logprobs:
        raise RefusedError(400, "top_logprobs: needs logprobs: true", param="top_logprobs", code="invalid_value")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        what = "max_tokens: cannot be set beside max_completion_tokens"
        raise RefusedError(400, what, param="max_tokens", code="invalid_value")
    if (body.response_format.type == "json_schema") != (body.response_format.json_schema is not None):
        param = "response_format.json_schema"
        raise RefusedError(400, f"{param}: goes with type json_schema", param=param, code="invalid_value")


async def _body(request: Request, most: int) -> bytes:
    """The body. Raises RefusedError for one that is too large, of which no more than `most` bytes are read."""
    too_large = RefusedError(413, f"the body is larger than {most:,} bytes")
    if not request.headers.get("content-type", "").startswith("application/json"):
        # What a page of another site can send without asking is never this.
        raise RefusedError(415, "the content type is not application/json")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:18]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise RefusedError(408, f"the body is not there after {MAX_BODY_SECONDS:g} seconds") from None
    return bytes(body)


# ---- errors ----


def _error_body(refused: RefusedError) -> dict[str, Json]:
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = "server_error" if refused.status >= 500 else kinds.get(refused.status, "invalid_request_error")
    error: dict[str, Json] = {"message": refused.reason, "type": kind, "param": refused.param, "code": refused.code}
    return {"error": error}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    headers = {"retry-after": AGAIN_SECONDS} if error.status in (429, 503) else None
    return JSONResponse(_error_body(error), status_code=error.status, headers=headers)


async def _unknown(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    what = f"{request.method} {printable(request.url.path)[:200]} is not served; POST /v1/chat/completions is"
    return JSONResponse(_error_body(RefusedError(status, what, code="unknown_url")), status_code=status)


async def _fault(_: Request, error: Exception) -> Response:
    # Starlette raises it again, for the log.
    reason = f"the answer failed ({type(error).__name__})"
    return JSONResponse(_error_body(RefusedError(500, reason, code="server_error")), status_code=500)
