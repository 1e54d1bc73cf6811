"""What is served, at which address, and who may connect."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zephyr.errors import ResourceError
from zephyr.teachers.endpoint.address import is_loopback

ServingEngine = Literal["auto", "vllm", "transformers"]
LOOPBACK = "127.0.0.1"
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
