"""Jinja templates of strangers, compiled and rendered in a process of their own with limits on time and memory.

Jinja's sandbox keeps a template from Python's objects, not from endless loops or a text of many gigabytes, which begin
while it is compiled. This file is run as that process too: there it imports Jinja and nothing of this package.
"""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from threading import Lock
from typing import IO, NamedTuple

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_SECONDS = 2  # of the processor, for one rendering
MOST_BYTES = 1 << 30  # of address space
MOST_RENDERED_CHARACTERS = 50_000_000
_KEPT_TEMPLATES = 16
_LENGTH = struct.Struct(">Q")


class LimitError(Exception):
    """A template that took too much time or memory, or wrote too much; the text says which."""


class TemplateFaultError(Exception):
    """A template that is none, or that refuses what it is given; the text says why."""


class SandboxProcess:
    """The process, started when it is first needed, and again when a template has ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._busy = Lock()

    def variables(self, source: str) -> list[str]:
        """The names that a template reads and does not set. Raises TemplateFaultError, LimitError."""
        found = self._asked({"source": source})
        assert isinstance(found, list)
        return [str(name) for name in found]

    def render(self, source: str, values: Mapping[str, object]) -> str:
        """What a template makes of JSON values. Raises TemplateFaultError, LimitError."""
        found = self._asked({"source": source, "values": dict(values)})
        assert isinstance(found, str)
        return found

    def _asked(self, request: dict[str, object]) -> object:
        with self._busy:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                _write(process.stdin, request)
                answer = _read(process.stdout)
            except (BrokenPipeError, EOFError):
                self._process = None
                raise LimitError(_why(process.wait())) from None
        assert isinstance(answer, dict)
        if "limit" in answer:
            raise LimitError(answer["limit"])
        if "fault" in answer:
            raise TemplateFaultError(answer["fault"])
        return answer["found"]

    def _running(self) -> "subprocess.Popen[bytes]":
        # A fork must not answer into the pipes of its parent.
        if self._process is None or self._process.poll() is not None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(  # noqa: S603 - this file, by the interpreter that runs already
                # With the same modules, and without those that lie beside this file.
                [sys.executable, "-S", "-P", __file__],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


@cache
def sandbox_process() -> SandboxProcess:
    """The one process that this program renders with."""
    return SandboxProcess()


def _why(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"takes over {MOST_SECONDS} seconds"
    return f"ends the process that renders it (exit code {code})"


def _write(stream: IO[bytes], value: object) -> None:
    # ASCII, so that halves of characters come through.
    body = json.dumps(value).encode()
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def _read(stream: IO[bytes]) -> object:
    """The next value. Raises EOFError where none comes."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    if len(body) < length:
        raise EOFError
    return json.loads(body)


# ---- in the process ----


class _GenerationTag(Extension):
    """Ignores `{% generation %}`, with which some templates mark the assistant's text."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Compiled(NamedTuple):
    template: jinja2.Template
    variables: list[str]


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja's sandbox, with the names that transformers gives to templates."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = _now
    return made


def _to_json(value: object, indent: int | None = None) -> str:
    # Jinja's own filter escapes characters of HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _compiled(source: str) -> _Compiled:
    sandbox = environment()
    unknown = find_undeclared_variables(sandbox.parse(source))
    return _Compiled(sandbox.from_string(source), sorted(unknown - set(sandbox.globals)))


def _joined(blocks: Iterable[str]) -> str:
    kept: list[str] = []
    room = MOST_RENDERED_CHARACTERS
    for block in blocks:
        room -= len(block)
        if room < 0:
            raise LimitError(f"writes over {MOST_RENDERED_CHARACTERS:,} characters")
        kept.append(block)
    return "".join(kept)


def _answer(request: dict[str, object], known: dict[str, _Compiled]) -> dict[str, object]:
    source, values = request["source"], request.get("values")
    assert isinstance(source, str)
    try:
        if source not in known:
            while len(known) >= _KEPT_TEMPLATES:
                known.pop(next(iter(known)))
            known[source] = _compiled(source)
        if not isinstance(values, dict):
            return {"found": known[source].variables}
        return {"found": _joined(known[source].template.generate(values))}
    except LimitError as error:
        return {"limit": str(error)}
    except MemoryError:
        return {"limit": f"takes over {MOST_BYTES >> 20} MB of memory"}
    except jinja2.TemplateSyntaxError as error:
        return {"fault": f"is not a valid Jinja template ({error})"}
    except Exception as error:  # noqa: BLE001 - the boundary: a template of a stranger raises whatever it likes
        return {"fault": f"refuses these messages ({str(error)[:500] or type(error).__name__})"}


def _serve() -> None:
    """Answer requests until there are no more."""
    if sys.platform != "win32":
        import resource  # not on Windows, where only the process that waits limits the time

        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C is for whoever asks; when that ends, so does this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known: dict[str, _Compiled] = {}
    with suppress(EOFError, BrokenPipeError):
        while True:
            request = _read(sys.stdin.buffer)
            assert isinstance(request, dict)
            # Not handled in Python: it ends the process also inside of one long operation.
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            answer = _answer(request, known)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(sys.stdout.buffer, answer)


if __name__ == "__main__":
    _serve()
