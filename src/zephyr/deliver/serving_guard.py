"""The guard before a model's server: who may send requests, which ones, and how large; the rest passes unchanged.

Only two requests pass: a chat completion of the one model that is served, and the list of models. Every refusal is a
4xx in OpenAI's form, with its reason.
"""

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import httpx2
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from zephyr.records.fields import Json
from zephyr.records.messages import PLAIN_ROLES, Message, message_faults

# Numbers by name, with the smallest and the largest that is allowed.
_NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "max_tokens": (1, 1 << 20),
    "max_completion_tokens": (1, 1 << 20),
    "n": (1, 1),
}
_WHOLE = ("max_tokens", "max_completion_tokens", "n")
_LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]


@dataclass(frozen=True)
class Guarded:
    """The server behind: its address, its name for the model, and its own token if it wants one.

    `model` is the name that clients use. Without a `token` every program on this machine may send requests, but no
    web page under another name than localhost.
    """

    backend: str
    backend_model: str
    model: str
    token: str | None
    backend_token: str | None
    body_bytes: int


class RefusedError(Exception):
    """A refused request: the status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


def guard(guarded: Guarded) -> Starlette:
    """The application to be served to clients."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        limits = httpx2.Limits(max_connections=None)
        # An answer takes as long as it takes; that the server is there shows at once.
        timeout = httpx2.Timeout(None, connect=10)
        async with httpx2.AsyncClient(base_url=guarded.backend, limits=limits, timeout=timeout) as client:
            app.state.client = client
            yield

    async def models(request: Request) -> Response:
        _check_token(request, guarded)
        one = {"id": guarded.model, "object": "model", "owned_by": "zephyr"}
        return JSONResponse({"object": "list", "data": [one]})

    async def completions(request: Request) -> Response:
        _check_token(request, guarded)
        asked = checked_request(await _body(request, guarded.body_bytes), guarded.model)
        client: httpx2.AsyncClient = request.app.state.client
        return await _passed_on(client, asked | {"model": guarded.backend_model}, guarded.backend_token)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return _refusal(error.status, error.reason)

    async def unknown(request: Request, error: Exception) -> Response:
        status = int(getattr(error, "status_code", 404))
        return _refusal(status, f"{request.method} {request.url.path} is not served; POST /v1/chat/completions is")

    names = ["*"] if guarded.token is not None else _LOOPBACK_NAMES
    return Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/chat/completions", completions, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)],
        exception_handlers={RefusedError: refused, 404: unknown, 405: unknown},
        lifespan=lifespan,
    )


def checked_request(body: bytes, model: str) -> dict[str, Json]:
    """The fields of a chat completion that can be answered. Raises RefusedError with all that is wrong with it."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is not JSON ({error})") from error
    if not isinstance(asked, dict):
        raise RefusedError(400, "the body is not a JSON object")
    fields = cast("dict[str, Json]", asked)
    wanted = fields.get("model", model)
    if wanted != model:
        raise RefusedError(404, f"there is no model {str(wanted)[:100]!r} here; {model!r} is served")
    faults = [*_message_faults(fields.get("messages")), *_number_faults(fields)]
    if not isinstance(fields.get("stream", False), bool):
        faults.append("stream is neither true nor false")
    if faults:
        raise RefusedError(400, "; ".join(faults))
    return fields


def _message_faults(messages: Json) -> list[str]:
    if not isinstance(messages, list):
        return ["messages is no list"]
    turns: list[Message] = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            return [f"message {number} is no object"]
        role, content = message.get("role"), message.get("content")
        if role not in PLAIN_ROLES:
            return [f"message {number} has role {str(role)[:40]!r}; there are {', '.join(PLAIN_ROLES)}"]
        if not isinstance(content, str):
            return [f"message {number} has no content that is text"]
        turns.append(Message(role, content))
    return message_faults(turns, ends_with="user")


def _number_faults(fields: dict[str, Json]) -> list[str]:
    faults = []
    for name, (least, most) in _NUMBERS.items():
        value = fields.get(name)
        if value is None:
            continue
        is_number = isinstance(value, int if name in _WHOLE else int | float) and not isinstance(value, bool)
        if not is_number or not least <= float(cast("float", value)) <= most:
            faults.append(f"{name} must be from {least:g} to {most:g}, got {str(value)[:40]!r}")
    return faults


def _check_token(request: Request, guarded: Guarded) -> None:
    if guarded.token is None:
        return
    given = request.headers.get("authorization", "")
    # Compared in constant time, as the bytes that came: starlette gives them as latin-1.
    if not hmac.compare_digest(given.encode("latin-1"), f"Bearer {guarded.token}".encode()):
        raise RefusedError(401, "the token is missing or wrong; send Authorization: Bearer TOKEN")


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
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise too_large
    return bytes(body)


async def _passed_on(client: httpx2.AsyncClient, asked: dict[str, Json], token: str | None) -> Response:
    """The server's answer, part by part as it comes."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    request = client.build_request("POST", "/v1/chat/completions", json=asked, headers=headers)
    try:
        answer = await client.send(request, stream=True)
    except httpx2.TransportError as error:
        return _refusal(503, f"the model's server cannot be reached ({type(error).__name__})")
    kind = answer.headers.get("content-type", "application/json")

    async def parts() -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_bytes():
                yield part
        finally:
            # Of a client that has gone, too: then the server stops writing.
            await answer.aclose()

    return StreamingResponse(parts(), status_code=answer.status_code, media_type=kind)


def _refusal(status: int, reason: str) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": reason, "type": kind, "code": status}}, status_code=status)
