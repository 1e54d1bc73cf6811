"""`zephyr serve`: a model over HTTP as OpenAI's clients know it, by vLLM or `transformers serve` behind a guard.

The engine's server listens on this machine alone, on a port of its own; clients reach the guard.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NoReturn

from zephyr.errors import ResourceError
from zephyr.teachers.endpoint.address import is_loopback

ServingEngine = Literal["auto", "vllm", "transformers"]
LOOPBACK = "127.0.0.1"
MAX_SECONDS_TO_START = 900.0
LAST_LINES = 5
MAX_BODY_BYTES = 1 << 20


@dataclass(frozen=True)
class ServeSettings:
    """The model and the address. `token`: what clients must send; without one only this machine may connect."""

    model: str
    host: str = LOOPBACK
    port: int = 8000
    token: str | None = None
    engine: ServingEngine = "auto"
    offline: bool = False
    body_bytes: int = MAX_BODY_BYTES

    @property
    def name(self) -> str:
        """What clients call the model: the name of its folder, or its hub id."""
        folder = Path(self.model)
        return folder.resolve().name if folder.is_dir() else self.model


def run_server(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Serve the model until stopped. Raises ResourceError where that cannot be, ModelError for what is no model."""
    check_access(settings)
    import torch

    from zephyr.models.source import Source, check_source

    check_source(Source(settings.model, offline=settings.offline))
    has_gpu = torch.cuda.is_available()
    try:
        import uvicorn

        from zephyr.deliver.serving_guard import Guarded, guard
    except ImportError as error:
        raise ResourceError("zephyr serve", f"needs {error.name}", 'pip install "zephyr-align[serve]"') from error
    # So that the server behind ends too.
    signal.signal(signal.SIGTERM, _end)
    with bound_socket(settings.host, settings.port) as listening, running(settings, has_gpu=has_gpu) as backend:
        guarded = Guarded(backend.url, backend.model, settings.name, settings.token, backend.token, settings.body_bytes)
        config = uvicorn.Config(guard(guarded), log_level="warning", server_header=False)
        port = listening.getsockname()[1]
        say(f"{settings.name} by {backend.engine} at http://{settings.host}:{port}/v1, until Ctrl-C")
        uvicorn.Server(config).run(sockets=[listening])


def check_access(settings: ServeSettings) -> None:
    """Check that no other machine can connect without a token. Raises ResourceError."""
    if settings.token is not None and not settings.token.strip():
        raise ResourceError("the token", "is empty", "set its environment variable to a long random text")
    if settings.token is None and not is_loopback(settings.host):
        raise ResourceError(
            f"--host {settings.host}",
            "would let other machines connect without a token",
            "set ZEPHYR_SERVE_TOKEN to a long random text, or leave --host out",
        )


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ResourceError where the address is taken or not allowed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        where = f"{host}:{port}"
        raise ResourceError(
            where, f"cannot listen on this address ({error.strerror})", "give another --port or --host"
        ) from error
    return listening


@dataclass(frozen=True)
class EngineServer:
    """A running server: its engine, its address, its name for the model, and its token."""

    engine: str
    url: str
    model: str
    token: str | None


@contextlib.contextmanager
def running(settings: ServeSettings, *, has_gpu: bool) -> Iterator[EngineServer]:
    """The engine's server, running as long as the block. Raises ResourceError if it does not start."""
    with bound_socket(LOOPBACK, 0) as free:
        port = free.getsockname()[1]
    engine = _engine(settings.engine, has_gpu=has_gpu)
    token = secrets.token_urlsafe() if engine == "vllm" else None
    command = [_program(engine), "serve", settings.model, "--host", LOOPBACK, "--port", str(port)]
    if engine == "vllm":
        command += ["--served-model-name", settings.name]
    else:
        command += ["--log-level", "error", *(["--continuous-batching"] if has_gpu else ["--device", "cpu"])]
    backend = EngineServer(engine, f"http://{LOOPBACK}:{port}", settings.name if token else settings.model, token)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603  # our own engines, and a model's name as one word
            command, env=_environment(settings, token), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_up(backend, process, log)
            yield backend
        finally:
            _stop(process)


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _engine(wanted: ServingEngine, *, has_gpu: bool) -> str:
    if wanted != "auto":
        return wanted
    return "vllm" if has_gpu and shutil.which("vllm") else "transformers"


def _program(engine: str) -> str:
    beside = Path(sys.executable).with_name(engine)
    found = str(beside) if beside.exists() else shutil.which(engine)
    if found is None:
        extra = "vllm" if engine == "vllm" else "run_server"
        raise ResourceError("zephyr serve", f"there is no program {engine}", f'pip install "zephyr-align[{extra}]"')
    return found


def _environment(settings: ServeSettings, token: str | None) -> dict[str, str]:
    """The environment of the server: no telemetry, offline no hub; the token is never on a command line."""
    added = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
    if settings.offline or Path(settings.model).is_dir():
        added |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if token is not None:
        added["VLLM_API_KEY"] = token
    return os.environ | added


def _wait_until_up(backend: EngineServer, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    give_up = time.monotonic() + MAX_SECONDS_TO_START
    while time.monotonic() < give_up:
        if process.poll() is not None:
            log.seek(0)
            last = log.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:]
            raise ResourceError(f"{backend.engine} serve", f"stopped: {' '.join(last)}", "try another --engine")
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"{backend.url}/health", timeout=5),  # noqa: S310  # our own address
        ):
            return
        time.sleep(0.2)
    raise ResourceError(f"{backend.engine} serve", "does not start", "try another --engine, or a smaller model")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
