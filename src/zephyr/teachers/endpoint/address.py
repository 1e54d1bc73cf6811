"""The server behind an endpoint's section: whose answers it gives, and what the environment adds (key, headers).

Keys and other secrets exist only here: nothing that is written down may hold them.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from zephyr.errors import RecipeError
from zephyr.recipe.teacher_section import EndpointSection

HIDDEN = "[hidden]"
SHORTEST_SECRET = 6  # hiding a shorter one would hide parts of innocent texts
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_SECRET_NAME = re.compile(r"key|token|secret|sig|code|pass|auth", re.IGNORECASE)


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

    @property
    def base_url(self) -> str:
        """The section's URL without its query."""
        parts = urlsplit(self.section.base_url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the URL, which belong behind the path of every call (Azure's api-version)."""
        return dict(parse_qsl(urlsplit(self.section.base_url).query, keep_blank_values=True))

    def hide(self, text: str) -> str:
        """The text with every secret replaced, also where it is written in JSON's escapes. Hide first, then cut."""
        plain = _ESCAPE.sub(lambda code: chr(int(code[1], 16)), text) if "\\u" in text else text
        for secret in self._secrets():
            if secret in plain:
                text = plain = plain.replace(secret, HIDDEN)
        return text

    def _secrets(self) -> list[str]:
        parts = urlsplit(self.section.base_url)
        basic = base64.b64encode(parts.netloc.rpartition("@")[0].encode()).decode()  # sent as basic authentication
        of_query = [value for name, value in self.query.items() if _SECRET_NAME.search(name)]
        known = [self.api_key, parts.password or "", basic, *of_query, *self.secrets]
        known += [quote(secret, safe="") for secret in known]
        return sorted({one for one in known if len(one) >= SHORTEST_SECRET}, key=len, reverse=True)


def resolve_address(section: EndpointSection, *, where: str, offline: bool) -> Address:
    """The address with its key and headers from the environment.

    Raises RecipeError, under the key `where`, for a missing variable, a value that no header can hold, and for another
    machine's server if `offline`.
    """
    host = urlsplit(section.base_url).hostname
    if offline and not is_loopback(host):
        remedy = "set offline to false (drop --offline), or name a server on this machine"
        raise RecipeError(f"{where}.base_url", f"is on another machine, got {host}", remedy)
    key = _value_of(section.api_key_env, f"{where}.api_key_env") if section.api_key_env else ""
    if section.api_key_env and not key and not is_loopback(host):
        raise RecipeError(f"{where}.api_key_env", f"{section.api_key_env} is not set", "export it, and run again")
    secrets: list[str] = []

    def value_of(variable: re.Match[str]) -> str:
        if variable[1] not in os.environ:
            raise RecipeError(f"{where}.headers", f"{variable[1]} is not set", "export it, and run again")
        secrets.append(_value_of(variable[1], f"{where}.headers"))
        return secrets[-1]

    headers = {name: _VARIABLE.sub(value_of, text).strip() for name, text in section.headers.items()}
    for name, text in headers.items():
        if _foreign(f"{name}{text}") is not None:
            raise RecipeError(f"{where}.headers", f"'{name}' has a character that no header can hold", "use ASCII")
    return Address(section, key, headers, tuple(secrets))


def _value_of(variable: str, where: str) -> str:
    """The variable's value without blanks and line breaks around it; empty if it is not set. Raises RecipeError."""
    value = os.environ.get(variable, "").strip()
    foreign = _foreign(value)
    if foreign is not None:
        what = f"{variable} has a character that no header can hold, U+{ord(value[foreign]):04X} at place {foreign + 1}"
        raise RecipeError(where, what, f"set {variable} again: copy the value without what stands around it")
    return value


def _foreign(text: str) -> int | None:
    """The place of the first character that is not printable ASCII."""
    return next((place for place, one in enumerate(text) if not " " <= one <= "~"), None)


def is_loopback(host: str | None) -> bool:
    """Whether the host, without brackets or a port, is this machine alone."""
    if host is None or host == "localhost":
        return host is not None
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
