"""Checks of an objective's plain options, written beside each option as ``Annotated[type, Range(...)]``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import NamedTuple, get_type_hints

from zephyr.errors import did_you_mean

Option = float | int | bool | str | None


class Range(NamedTuple):
    """The numbers an option may be; ``whole`` for integers."""

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    whole: bool = False

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, or None."""
        fits = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        if fits and isinstance(value, int | float) and self._contains(value):
            return None
        return f"must be {self}, got {value!r}"

    def _contains(self, value: float) -> bool:
        # A NaN fails every comparison, an infinity the outer ones.
        return self.above < value < self.below and self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        named = zip(("above", "at least", "below", "at most"), self[:4], strict=True)
        limits = " and ".join(f"{word} {limit:g}" for word, limit in named if math.isfinite(limit))
        return f"{'a whole' if self.whole else 'a finite'} number {limits}".rstrip()


class OneOf(NamedTuple):
    """The names an option may be."""

    names: tuple[str, ...]

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, or None."""
        if value in self.names:
            return None
        return f"has no choice {value!r}" + did_you_mean(str(value), self.names).replace("; ", ", ")


class Flag(NamedTuple):
    """An option that is true or false."""

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, or None."""
        return None if isinstance(value, bool) else f"must be true or false, got {value!r}"


def option_fields(kind: type) -> dict[str, Field[object]]:
    """The options of an objective, by name."""
    assert is_dataclass(kind), kind
    return {field.name: field for field in fields(kind)}


def option_problems(kind: type, given: Mapping[str, Option]) -> list[str]:
    """What is wrong with the options given to an objective: unknown, missing, or out of range."""
    known = option_fields(kind)
    unknown = [f"it has no option {name!r}" + _near(name, known) for name in given if name not in known]
    missing = [f"{name} is missing" for name, field in known.items() if field.default is MISSING and name not in given]
    hints = get_type_hints(kind, include_extras=True)
    wrong = [
        f"{name} {problem}"
        for name, value in given.items()
        if name in known and not (value is None and known[name].default is None)
        for check in getattr(hints[name], "__metadata__", ())
        if (problem := check.problem(value))
    ]
    return unknown + missing + wrong


def _near(name: str, known: Iterable[str]) -> str:
    return did_you_mean(name, known).replace("; ", ", ")
