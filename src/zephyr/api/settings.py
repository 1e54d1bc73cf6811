"""Keywords of the Python API as a recipe: every setting has the name it has there, and the same errors."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from os import PathLike, fspath
from typing import TypeAlias

from pydantic.fields import FieldInfo

from zephyr.errors import RecipeError
from zephyr.recipe.loading import recipe_of
from zephyr.recipe.outline import PLAIN, Keys, dotted, place_at, value_at
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain, Section
from zephyr.recipe.stage_sections import STAGE_NAMES

SettingValue: TypeAlias = (
    "str | int | float | bool | PathLike[str] | Section | Sequence[SettingValue] | Mapping[str, SettingValue] | None"
)


@dataclass(frozen=True)
class Keywords:
    """Where the keywords of a function belong in a recipe.

    `function` stands in messages. The fields of the sections in `homes` are keywords, the first home of a name wins;
    `data` are the settings that the function makes itself; their keys, and the sections they are in, are no keywords.
    """

    function: str
    homes: Sequence[Keys]
    data: Mapping[Keys, Plain]

    def known(self) -> dict[str, Keys]:
        """The keys of every keyword."""
        fixed = self._data()
        found: dict[str, Keys] = {}
        for home in self.homes:
            section = (place_at(home, fixed) or PLAIN).section(value_at(home, fixed))
            assert section is not None, home
            for name in section.model_fields:
                keys = (*home, name)
                if not any(keys == other[: len(keys)] for other in self.data):
                    found.setdefault(name, keys)
        return found

    def recipe(self, settings: Mapping[str, SettingValue]) -> Recipe:
        """The recipe of the function's own settings and of these keywords.

        A section is given as a mapping of its keys, and joined with the keywords of these keys; a key with dots is one
        of the recipe. Raises RecipeError with all problems at once, as for a file.
        """
        data, known = self._data(), self.known()
        places: dict[Keys, str] = {}
        for name, value in settings.items():
            keys = tuple(name.split(".")) if "." in name else known.get(name) or self._unknown(name, known)
            for path, one in leaves(keys, plain(value, f"zephyr.{self.function}({name}=...)")):
                _put(path, one, data)
                places[path] = f"keyword {name}"
        return recipe_of(data, f"zephyr.{self.function}", places)

    def signature(self, written: inspect.Signature) -> inspect.Signature:
        """The signature of the function as it is written, with these keywords instead of its settings."""
        own = [one for one in written.parameters.values() if one.name not in ("self", "settings")]
        fixed, named = self._data(), {one.name for one in own}
        settings = []
        for name, keys in self.known().items():
            section = (place_at(keys[:-1], fixed) or PLAIN).section(value_at(keys[:-1], fixed))
            assert section is not None, keys
            if name not in named and name not in STAGE_NAMES:
                settings.append(_parameter(name, section.model_fields[str(keys[-1])]))
        return inspect.Signature([*own, *settings])

    def _data(self) -> dict[str, Plain]:
        data: dict[str, Plain] = {}
        for keys, value in self.data.items():
            _put(keys, value, data)
        for home in self.homes:
            if home and value_at(home, data) is None:
                _put(home, {}, data)
        return data

    def _unknown(self, name: str, known: Mapping[str, Keys]) -> Keys:
        """Where an unknown keyword is put to be refused: beside the one that it resembles most."""
        nearest = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
        return (*(known[nearest[0]][:-1] if nearest else self.homes[0]), name)


def plain(value: SettingValue, where: str) -> Plain:
    """A keyword's value as it stands in a recipe. Raises RecipeError for what cannot stand there."""
    if isinstance(value, Section):
        dumped: Plain = value.model_dump(mode="json", exclude_unset=True)
        return dumped
    if isinstance(value, PathLike):
        return fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(one, where) for name, one in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(one, where) for one in value]
    item = getattr(value, "item", None)  # a number of numpy or torch
    if callable(item):
        return plain(item(), where)
    kind = type(value).__name__
    raise RecipeError(where, f"is no value of a recipe, got {kind}", "give text, a number, a list or a mapping")


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    # The name of a run is required in a recipe, and made here where none is given.
    default: object = ... if name == "name" else inspect.Parameter.empty
    if not field.is_required():
        default = field.get_default(call_default_factory=True, validated_data={})
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field.annotation)


def leaves(keys: Keys, value: Plain) -> list[tuple[Keys, Plain]]:
    """The values in nested mappings, each with its keys; an empty mapping is a value."""
    if not (isinstance(value, dict) and value):
        return [(keys, value)]
    return [leaf for name, one in value.items() for leaf in leaves((*keys, name), one)]


def _put(keys: Keys, value: Plain, data: Plain) -> None:
    """Put the value in its place; lists are made by the function. Raises RecipeError where a value is in the way."""
    for number, (key, following) in enumerate(pairwise(keys), 1):
        if isinstance(data, dict):
            data.setdefault(str(key), [{}] if isinstance(following, int) else {})
        data = value_at((key,), data)
        if not isinstance(data, dict | list):
            raise RecipeError(dotted(keys), f"{dotted(keys[:number])} is the value {data!r}", "give one of the two")
    assert isinstance(data, dict), keys
    data[str(keys[-1])] = value
