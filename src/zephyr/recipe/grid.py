"""The values of a sweep, `align.objective.beta=0.01,0.05,0.1`: which overrides make each combination."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zephyr.errors import RecipeError
from zephyr.recipe.outline import one_line
from zephyr.recipe.overrides import Override, parse_overrides
from zephyr.recipe.section import Plain

_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "\"'"
# What is written in the name of a folder as it is.
_PLAIN_NAME = re.compile(r"[^A-Za-z0-9=,._+-]+")
_LONGEST_NAME = 80
_EXAMPLE = "align.objective.beta=0.01,0.05,0.1"
_OF_THE_FOLDER = ("name", "output_dir")


class Combination(NamedTuple):
    """One value of every setting: all overrides, and those that differ between combinations by their short names."""

    overrides: tuple[Override, ...]
    swept: dict[str, Plain]

    @property
    def label(self) -> str:
        """Its own values in words: `beta=0.01, learning_rate=5e-07`."""
        return ", ".join(f"{name}={_text(value)}" for name, value in self.swept.items())

    @property
    def folder_name(self) -> str:
        """The name of its folder, made of its values; with a hash where these are no names of files."""
        plain = self.label.replace(", ", ",")
        name = _PLAIN_NAME.sub("_", plain)[:_LONGEST_NAME]
        return name if name == plain else f"{name}-{hashlib.sha256(self.label.encode()).hexdigest()[:6]}"


def read_grid(given: Sequence[str]) -> list[Combination]:
    """The combinations of all values, the last setting changing fastest.

    Values are separated by commas, YAML each; commas within brackets or quotes separate none. Raises RecipeError for
    malformed settings, for one that is given twice, and where nothing has several values.
    """
    settings = [_values(text) for text in given]
    paths = [values[0].path for values in settings]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise RecipeError(one_line(twice), "is given twice", f"give all values at once, such as {_EXAMPLE}")
    swept = [values[0].path for values in settings if len(values) > 1]
    if not swept:
        raise RecipeError("sweep", "no setting has several values", f"write {_EXAMPLE}, or use zephyr run")
    fixed = next((path for path in swept if path in _OF_THE_FOLDER), None)
    if fixed is not None:
        raise RecipeError(fixed, "cannot be swept: a sweep is in one run folder", "give it one value")
    names = _short_names(swept)
    return [
        Combination(chosen, {names[one.path]: one.value for one in chosen if one.path in names})
        for chosen in itertools.product(*settings)
    ]


def _values(text: str) -> list[Override]:
    """The overrides in a setting with one value or more. Raises RecipeError."""
    path, equals, values = text.partition("=")
    if not equals:
        raise RecipeError("sweep", one_line(f"'{text}' is not key=value,value"), f"write {_EXAMPLE}")
    parts = list(_split(values))
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise RecipeError(one_line(path), one_line(f"has an empty value in '{values}'"), "write null for no value")
    found = parse_overrides([f"{path}={part}" for part in parts])
    texts = [_text(one.value) for one in found]
    same = next((value for value in texts if texts.count(value) > 1), None)
    if same is not None:
        raise RecipeError(one_line(path), one_line(f"has the value {same} twice"), "give each value once")
    return found


def _split(values: str) -> Iterator[str]:
    """The parts between commas that are in no brackets and no quotes."""
    depth, quote, begin = 0, "", 0
    for place, sign in enumerate(values):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in _QUOTES and not values[begin:place].strip(" [{(,:"):
            quote = sign
        elif sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth -= 1
        elif sign == "," and depth <= 0:
            yield values[begin:place]
            begin = place + 1
    yield values[begin:]


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last word of every path; the whole path where two would have the same."""
    last = [path.rpartition(".")[2] for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def _text(value: Plain) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
