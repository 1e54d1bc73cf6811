"""Settings from the command line, `align.train.learning_rate=1.0e-6`: parsed, and put into the recipe's data."""

from collections.abc import Sequence
from typing import NamedTuple

from zephyr.errors import RecipeError
from zephyr.recipe.outline import PLAIN, Keys, dotted, one_line, place_at, value_at
from zephyr.recipe.section import Plain
from zephyr.recipe.yaml_text import read_yaml


class Override(NamedTuple):
    """A value and the keys it is for, as text until it is known what they lead into."""

    path: str
    value: Plain

    @property
    def names(self) -> list[str]:
        """The keys one by one."""
        return self.path.split(".")


class Overridden(NamedTuple):
    """The data with overrides in it, the keys that were given so, and what was left out for their sake."""

    data: Plain
    keys: tuple[Keys, ...]
    notes: list[str]


def parse_overrides(given: "Sequence[str | Override]") -> list[Override]:
    """The overrides in texts of the form key=value, values in YAML. Raises RecipeError with all malformed ones."""
    parsed, faults = [], []
    for text in given:
        if isinstance(text, Override):
            parsed.append(text)
            continue
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or not all(path.split(".")):
            faults.append(f"'{text}' is not key=value")
        else:
            parsed.append(Override(path, read_yaml(value, one_line(f"override {path}")).value))
    if faults:
        raise RecipeError("overrides", one_line("; ".join(faults)), "write them like align.train.learning_rate=1.0e-6")
    return parsed


def apply_overrides(data: Plain, overrides: Sequence[Override]) -> Overridden:
    """The data with the overrides applied in order; `data` itself is changed.

    An override that selects another variant, such as `align.objective.name=orpo`, drops the keys of the old variant
    that the new one does not have, unless an override sets them too. Raises RecipeError for keys that do not exist.
    """
    before: dict[Keys, Plain] = {}
    given: list[Keys] = []
    faults: list[str] = []
    for override in overrides:
        keys = _keys(override, data)
        if isinstance(keys, str):
            faults.append(keys)
            continue
        before.setdefault(keys, value_at(keys, data))
        _set(keys, override.value, data)
        given.append(keys)
    if faults:
        raise RecipeError("overrides", one_line("; ".join(faults)), "correct these keys")
    notes = [note for keys, old in before.items() for note in _drop_foreign(keys, old, data, given)]
    return Overridden(data, tuple(given), notes)


def _keys(override: Override, data: Plain) -> Keys | str:
    """The keys that lead to an override's place, or what keeps them from it."""
    keys: list[str | int] = []
    value = data
    for name in override.names:
        if isinstance(value, list):
            index = int(name) if name.isdecimal() and len(name) < 6 else -1
            if not 0 <= index < len(value):
                known = f"0 to {len(value) - 1}" if value else "none"
                return f"{override.path}: {dotted(tuple(keys))} has {len(value)} items, numbered {known}, got {name}"
            keys.append(index)
        elif value is None or isinstance(value, dict):
            keys.append(name)
        else:
            return f"{override.path}: {dotted(tuple(keys))} is the value {value!r} and has no key '{name}'"
        value = value_at((keys[-1],), value)
    return tuple(keys)


def _set(keys: Keys, value: Plain, data: Plain) -> None:
    """Put the value in its place, in sections that are made where there are none."""
    for key, following in zip(keys, (*keys[1:], None), strict=True):
        if isinstance(data, dict):
            if following is None:
                data[str(key)] = value
            elif data.get(str(key)) is None:
                data[str(key)] = {}
        elif isinstance(data, list) and isinstance(key, int):
            if following is None:
                data[key] = value
            elif data[key] is None:
                data[key] = {}
        data = value_at((key,), data)


def _drop_foreign(keys: Keys, old: Plain, data: Plain, given: Sequence[Keys]) -> list[str]:
    """A note for every key dropped because the variant now chosen does not know it."""
    holder_keys = keys[:-1]
    place, holder = place_at(holder_keys, data) or PLAIN, value_at(holder_keys, data)
    section = place.section(holder)
    if not place.tag or keys[-1] != place.tag or section is None or not isinstance(holder, dict):
        return []
    foreign = [
        key
        for key in holder
        if key not in section.model_fields and not any(other[: len(keys)] == (*holder_keys, key) for other in given)
    ]
    for key in foreign:
        del holder[key]
    choice = f"{dotted(keys)}={holder[place.tag]}"
    return [f"{dotted((*holder_keys, key))} is left out: {choice} does not know it, {old} did" for key in foreign]
