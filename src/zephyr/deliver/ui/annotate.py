"""The annotation page: answers without names in an order drawn by chance, ranked or rated by keyboard, saved at once.

The page is a file of its own; it asks for a row and sends its scores as JSON. What people and models wrote is put into
it as text, never as markup.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from zephyr.deliver.ui.access import AccessMiddleware
from zephyr.records.fields import Json, printable
from zephyr.records.rows import Rated

Mode = Literal["rank", "rate"]
_FILES = {"/": "annotate.html", "/annotate.css": "annotate.css", "/annotate.js": "annotate.js"}
_TEMPLATES = Path(__file__).parents[1] / "templates"
_OPEN = r"/|/annotate\.(css|js)|/state|/rows/\d{1,9}"
# Everything that the page needs is a file of its own.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class Annotated(Protocol):
    """Rows with what one person has said of them."""

    @property
    def rows(self) -> Sequence[Rated]:
        """The rows."""

    @property
    def shown(self) -> Sequence[Sequence[int]]:
        """For each row the order in which its answers are shown."""

    @property
    def scores(self) -> Sequence[Sequence[float] | None]:
        """For each row the scores of its answers; None where nothing was said."""

    def save(self, index: int, scores: Sequence[float]) -> None:
        """Keep the scores of a row, given in the order shown."""


@dataclass(frozen=True)
class AnnotationSetup:
    """What is annotated and how; `name`: of the file; `highest`: the best score of `rate`."""

    annotated: Annotated
    name: str
    mode: Mode
    highest: int


class _Handlers:
    """The answers to the page's requests."""

    def __init__(self, setup: AnnotationSetup) -> None:
        self._setup = setup
        self._saving = Lock()

    async def page(self, request: Request) -> Response:
        return FileResponse(_TEMPLATES / _FILES[request.url.path])

    async def state(self, _request: Request) -> Response:
        setup = self._setup
        done = [index for index, scores in enumerate(setup.annotated.scores) if scores is not None]
        told = {"name": printable(setup.name), "mode": setup.mode, "highest": setup.highest, "done": done}
        return JSONResponse({**told, "rows": len(setup.annotated.rows)})

    async def row(self, request: Request) -> Response:
        annotated, index = self._setup.annotated, int(request.path_params["index"])
        if index >= len(annotated.rows):
            return PlainTextResponse("there is no such row", status_code=404)
        row, scores, order = annotated.rows[index], annotated.scores[index], annotated.shown[index]
        messages = [{"role": message.role, "content": _visible(message.content)} for message in row.prompt]
        answers = [_visible(row.answers[place].text) for place in order]
        given = None if scores is None else [scores[place] for place in order]
        return JSONResponse({"index": index, "prompt": messages, "answers": answers, "scores": given})

    async def save(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return PlainTextResponse("the body must be JSON", status_code=415)
        scores = _scores_in(await request.body())
        if scores is None:
            return PlainTextResponse('the body must be {"scores": [numbers]}', status_code=400)
        try:
            await run_in_threadpool(self._save, int(request.path_params["index"]), scores)
        except ValueError as error:
            return PlainTextResponse(str(error), status_code=400)
        except OSError as error:
            return PlainTextResponse(f"could not be saved ({error.strerror})", status_code=507)
        return await self.state(request)

    def _save(self, index: int, scores: Sequence[float]) -> None:
        with self._saving:
            self._setup.annotated.save(index, scores)


def annotation_application(setup: AnnotationSetup, token: str | None) -> AccessMiddleware:
    """The page as an ASGI application, behind the access rules of the chat page."""
    handlers = _Handlers(setup)
    routes = [Route(path, handlers.page) for path in _FILES]
    routes += [
        Route("/state", handlers.state),
        Route("/rows/{index:int}", handlers.row),
        Route("/rows/{index:int}", handlers.save, methods=["POST"]),
    ]
    return AccessMiddleware(Starlette(routes=routes), token, open_paths=_OPEN, policy=_POLICY)


def _scores_in(body: bytes) -> list[float] | None:
    """The scores that a request holds; None if it holds none."""
    try:
        found: Json = json.loads(body)
    except ValueError:
        return None
    scores = found.get("scores") if isinstance(found, dict) else None
    if not isinstance(scores, list):
        return None
    numbers = [float(one) for one in scores if isinstance(one, int | float) and not isinstance(one, bool)]
    return numbers if len(numbers) == len(scores) else None


def _visible(text: str) -> str:
    """The text with its control characters written out; lines and tabs stay."""
    return "".join(char if char in "\n\t" else printable(char) for char in text)
