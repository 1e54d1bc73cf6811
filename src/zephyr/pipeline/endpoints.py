"""Teachers behind an address, from their section of a recipe; keys come from the environment and stay out of it."""

import os
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from zephyr.errors import RecipeError
from zephyr.recipe.teacher_section import EndpointSection, TeacherSection
from zephyr.teachers.endpoint.address import Address, is_loopback
from zephyr.teachers.endpoint.retrying_call import CallSettings
from zephyr.teachers.ledger.prices import Cap, Prices
from zephyr.teachers.protocol import Teacher

# Prompts that are asked about together where files of calls go out: a server may take a day for one.
PROMPTS_BY_FILES = 5_000
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def endpoint_teacher(section: EndpointSection, *, where: str, offline: bool) -> Teacher:
    """The teacher; RecipeError without its key, or if it is elsewhere and the recipe is offline."""
    from zephyr.teachers.endpoint.batch_file import BatchTeacher
    from zephyr.teachers.endpoint.teacher import EndpointTeacher

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
    if offline and not is_loopback(host):
        remedy = "set offline to false, or name a server on this machine"
        raise RecipeError(f"{where}.base_url", f"is at another machine, got {host}", remedy)
    key = os.environ.get(section.api_key_env, "")
    if not key and not is_loopback(host):
        raise RecipeError(f"{where}.api_key_env", f"{section.api_key_env} is not set", "export it, and run again")
    secrets: list[str] = []

    def value_of(variable: re.Match[str]) -> str:
        if variable[1] not in os.environ:
            raise RecipeError(f"{where}.headers", f"{variable[1]} is not set", "export it, and run again")
        secrets.append(os.environ[variable[1]])
        return secrets[-1]

    headers = {name: _VARIABLE.sub(value_of, text) for name, text in section.headers.items()}
    return Address(section.base_url, section.model, key, headers, tuple(secrets))


def prices_of(section: TeacherSection) -> Prices:
    """What the teacher's tokens cost; by files half."""
    if not isinstance(section, EndpointSection):
        return Prices()
    prices = Prices(section.prices.prompt, section.prices.completion)
    return prices.halved() if section.batch else prices


def asked_together(default: int, sections: Iterable[TeacherSection]) -> int:
    """How many prompts are asked about together: more where one of these teachers takes files of calls."""
    by_files = any(isinstance(section, EndpointSection) and section.batch for section in sections)
    return PROMPTS_BY_FILES if by_files else default


def cap_of(sections: Iterable[TeacherSection]) -> Cap:
    """The most that all calls of a ledger may cost: of the caps that these teachers' sections name, the lowest."""
    endpoints = [section for section in sections if isinstance(section, EndpointSection)]
    tokens = [one.max_total_tokens for one in endpoints if one.max_total_tokens is not None]
    prices = [one.max_total_price for one in endpoints if one.max_total_price is not None]
    return Cap(min(tokens, default=None), min(prices, default=None))
