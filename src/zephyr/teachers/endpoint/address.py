"""The server behind an endpoint's section: whose answers it gives, and what the environment adds (key, headers).

Keys and other secrets exist only here: nothing that is written down may hold them.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from zephyr.errors import RecipeError
from zephyr.recipe.teacher_section import EndpointSection

HIDDEN = "[hidden]"
SHORTEST_SECRET = 6  # hiding a shorter one would hide parts of innocent texts
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Address:
    """An endpoint's section with the values that the environment holds for it.

    `secrets`: further texts to hide, beside the key and the password in the URL.
    """

    section: EndpointSection
    api_key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def identity(self) -> str:
        """The model and its address, without anything secret: the name of its answers in a ledger."""
        parts = urlsplit(self.section.base_url)
        place = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        return f"{self.section.model} at {place}"

    def hide(self, text: str) -> str:
        """The text with every secret replaced."""
        parts = urlsplit(self.section.base_url)
        basic = base64.b64encode(parts.netloc.rpartition("@")[0].encode()).decode()  # sent as basic authentication
        for secret in (self.api_key, parts.password or "", basic, *self.secrets):
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, HIDDEN)
        return text


def resolve_address(section: EndpointSection, *, where: str, offline: bool) -> Address:
    """The address with its key and headers from the environment.

    Raises RecipeError, under the key `where`, for a missing variable and for another machine's server if `offline`.
    """
    host = urlsplit(section.base_url).hostname
    if offline and not is_loopback(host):
        remedy = "set offline to false (drop --offline), or name a server on this machine"
        raise RecipeError(f"{where}.base_url", f"is on another machine, got {host}", remedy)
    key = os.environ.get(section.api_key_env, "") if section.api_key_env else ""
    if section.api_key_env and not key and not is_loopback(host):
        raise RecipeError(f"{where}.api_key_env", f"{section.api_key_env} is not set", "export it, and run again")
    secrets: list[str] = []

    def value_of(variable: re.Match[str]) -> str:
        if variable[1] not in os.environ:
            raise RecipeError(f"{where}.headers", f"{variable[1]} is not set", "export it, and run again")
        secrets.append(os.environ[variable[1]])
        return secrets[-1]

    headers = {name: _VARIABLE.sub(value_of, text) for name, text in section.headers.items()}
    return Address(section, key, headers, tuple(secrets))


def is_loopback(host: str | None) -> bool:
    """Whether the host, without brackets or a port, is this machine alone."""
    if host is None or host == "localhost":
        return host is not None
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
