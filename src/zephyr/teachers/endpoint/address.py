"""Where a server is and what it wants to see; and the secrets in that, which nothing written may hold."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "[hidden]"
SHORTEST_SECRET = 6  # a shorter one would hide parts of innocent texts


@dataclass(frozen=True)
class Address:
    """Where a server is, and what it wants to see.

    `secrets` are texts that nothing written may hold; the key is one anyway.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def identity(self) -> str:
        """Whose answers these are: the model at the address, without anything secret in it."""
        parts = urlsplit(self.base_url)
        place = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        return f"{self.model} at {place}"

    def hide(self, text: str) -> str:
        """The text without secrets."""
        parts = urlsplit(self.base_url)
        # So is who stands in the address sent to it.
        basic = base64.b64encode(parts.netloc.rpartition("@")[0].encode()).decode()
        for secret in (self.api_key, parts.password or "", basic, *self.secrets):
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, HIDDEN)
        return text


def is_loopback(host: str | None) -> bool:
    """Whether the host, without brackets or a port, is this machine alone."""
    if host is None or host == "localhost":
        return host is not None
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
