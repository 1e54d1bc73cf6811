"""Teachers behind an address, from their section of a recipe; keys come from the environment and stay out of it."""

import os
import re
from urllib.parse import urlsplit

from zephyr.errors import RecipeError
from zephyr.recipe.feedback_section import EndpointTeacher as EndpointSection
from zephyr.recipe.feedback_section import Teacher as TeacherSection
from zephyr.teachers.address import Address
from zephyr.teachers.calling import CallSettings
from zephyr.teachers.prices import Cap, Prices
from zephyr.teachers.protocol import Teacher

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def endpoint_teacher(section: EndpointSection, *, where: str, offline: bool) -> Teacher:
    """The teacher; RecipeError without its key, or if it is elsewhere and the recipe is offline."""
    from zephyr.teachers.batch_file import BatchTeacher
    from zephyr.teachers.endpoint import EndpointTeacher

    address = address_of(section, where=where, offline=offline)
    settings = CallSettings(
        concurrency=section.concurrency,
        requests_per_minute=section.requests_per_minute,
        tokens_per_minute=section.tokens_per_minute,
        deadline_seconds=section.deadline_seconds,
        max_tries=section.max_tries,
        left_out=tuple(section.left_out),
        max_tokens_field=section.max_tokens_field,
        structured=section.structured,
        prices=Prices(section.prices.prompt, section.prices.completion),
    )
    return BatchTeacher(address, settings) if section.batch else EndpointTeacher(address, settings)


def address_of(section: EndpointSection, *, where: str, offline: bool) -> Address:
    """Where the server is and what it wants to see, with the environment's values in it."""
    host = urlsplit(section.base_url).hostname
    if offline and host not in LOOPBACK:
        remedy = "set offline to false, or name a server on this machine"
        raise RecipeError(f"{where}.base_url", f"is at another machine, got {host}", remedy)
    key = os.environ.get(section.api_key_env, "")
    if not key and host not in LOOPBACK:
        raise RecipeError(f"{where}.api_key_env", f"{section.api_key_env} is not set", "export it, and run again")
    secrets: list[str] = []

    def value_of(variable: re.Match[str]) -> str:
        if variable[1] not in os.environ:
            raise RecipeError(f"{where}.headers", f"{variable[1]} is not set", "export it, and run again")
        secrets.append(os.environ[variable[1]])
        return secrets[-1]

    headers = {name: _VARIABLE.sub(value_of, text) for name, text in section.headers.items()}
    return Address(section.base_url, section.model, key, headers, tuple(secrets))


def cap_of(section: TeacherSection) -> Cap:
    """The most that all calls of a ledger may cost, as this teacher's section has it."""
    if isinstance(section, EndpointSection):
        return Cap(section.max_total_tokens, section.max_total_price)
    return Cap()
