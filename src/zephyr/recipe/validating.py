"""From plain data to a recipe, or to everything that is wrong with it.

pydantic stops at the first layer: it looks for conflicts between settings in a recipe alone whose settings are
sound one by one, and below a misspelt key it does not look at all. So what was found is repaired in a copy, and
the copy is validated again.
"""

import copy
from collections.abc import Iterator
from typing import Literal, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from zephyr.recipe.conflicts import Conflict
from zephyr.recipe.outline import PLAIN, TOP, Keys, Place, dotted, place_at, place_of_field, value_at
from zephyr.recipe.problems import Problem, from_detail, quoted
from zephyr.recipe.schema import CONFLICTS, Recipe
from zephyr.recipe.section import Plain

# A misspelt section may hold misspelt keys, which show when the section is read.
MOST_LAYERS = 4


def validate(data: Plain) -> Recipe | list[Problem]:
    """The recipe, or all its problems."""
    problems: list[Problem] = []
    repaired = copy.deepcopy(data)
    renamed: dict[Keys, Keys] = {}
    for _ in range(MOST_LAYERS):
        details = _details(repaired)
        if details and details[0]["type"] == CONFLICTS:
            problems += _conflicts(details[0], [problem.keys for problem in problems])
            break
        layer = [*_truths_as_numbers(repaired, TOP, ()), *(from_detail(detail, repaired) for detail in details)]
        if not layer:
            break
        # All variants of a union report the same key; the first message is the clearest.
        layer = list({problem.keys: problem for problem in reversed(layer)}.values())[::-1]
        problems += without_twins([problem._replace(keys=_as_written(problem.keys, renamed)) for problem in layer])
        for problem in layer:
            renamed |= _repair(problem, repaired)
    return problems or Recipe.model_validate(data)


def _details(data: Plain) -> list[ErrorDetails]:
    try:
        Recipe.model_validate(data)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _conflicts(detail: ErrorDetails, repaired: list[Keys]) -> list[Problem]:
    """The conflicts, but for those with a part that had to be repaired and may have been different."""
    conflicts: list[Conflict] = detail["ctx"][CONFLICTS]
    touched = [f"{dotted(keys)}." for keys in repaired]
    problems = []
    for conflict in conflicts:
        parts = [f"{key}." for key in (conflict.key, *conflict.others)]
        if not any(part.startswith(other) or other.startswith(part) for part in parts for other in touched):
            keys = tuple(int(key) if key.isdecimal() else key for key in conflict.key.split("."))
            problems.append(Problem(keys, conflict.what, conflict.remedy))
    return problems


def _as_written(keys: Keys, renamed: dict[Keys, Keys]) -> Keys:
    for now, before in renamed.items():
        if keys[: len(now)] == now:
            return (*before, *keys[len(now) :])
    return keys


def without_twins(problems: list[Problem]) -> list[Problem]:
    """The problems without missing keys that are present under a misspelt name."""
    meant = {(*p.keys[:-1], name) for p in problems if (name := _meant(p)) is not None}
    return [problem for problem in problems if problem.what != "is missing" or problem.keys not in meant]


def _meant(problem: Problem) -> str | None:
    """The missing key that a misspelt one was meant to be."""
    found = problem.remedy.removeprefix("did you mean '").removesuffix("'?")
    return found if len(found) < len(problem.remedy) and "." not in found else None


def _repair(problem: Problem, data: Plain) -> dict[Keys, Keys]:
    """What was renamed: the keys now, and the keys before; `data` is changed so that the problem is gone."""
    *above, last = problem.keys
    holder, place = value_at(tuple(above), data), place_at(tuple(above), data) or PLAIN
    if place.tag == last or not isinstance(holder, dict):
        # A section without a sound tag, or an item of a list: the whole is exchanged.
        _put(tuple(above), _sample(place), data)
        return {}
    section = place.section(holder)
    field = section.model_fields.get(str(last)) if section is not None else None
    if field is None:
        value, meant = holder.pop(str(last), None), _meant(problem)
        if meant is None or meant in holder:
            return {}
        holder[meant] = value
        return {(*above, meant): problem.keys}
    if field.is_required():
        holder[str(last)] = sample_of(field)
    else:
        holder.pop(str(last), None)
    return {}


def _put(keys: Keys, value: Plain, data: Plain) -> None:
    holder = value_at(keys[:-1], data)
    if keys and isinstance(holder, dict):
        holder[str(keys[-1])] = value
    elif keys and isinstance(holder, list) and isinstance(keys[-1], int) and keys[-1] < len(holder):
        # A list that an earlier problem had exchanged may be shorter now: the item is gone, and its problem with it.
        holder[keys[-1]] = value


def _sample(place: Place) -> Plain:
    """A value that may stand at a place."""
    if place.item is not None:
        return [_sample(place.item)]
    if not place.variants:
        return []
    tag, section = next(iter(place.variants.items()))
    needed = {name: sample_of(field) for name, field in section.model_fields.items() if field.is_required()}
    return {**needed, place.tag: tag} if tag else needed


def sample_of(field: FieldInfo) -> Plain:
    """A value that a required field may have: its first example, or any where it names none."""
    if field.examples:
        return cast("Plain", field.examples[0])
    place = place_of_field(field)
    if place != PLAIN:
        return _sample(place)
    if get_origin(field.annotation) is Literal:
        return str(get_args(field.annotation)[0])
    return "x" if field.annotation is str else 1


def _truths_as_numbers(value: Plain, place: Place, keys: Keys) -> Iterator[Problem]:
    """Yes and no where a number belongs, which pydantic would take for 1 and 0."""
    if isinstance(value, list) and place.item is not None:
        for number, item in enumerate(value):
            yield from _truths_as_numbers(item, place.item, (*keys, number))
    section = place.section(value)
    if section is None or not isinstance(value, dict):
        return
    for key, item in value.items():
        field = section.model_fields.get(key)
        if field is None:
            continue
        kinds = {field.annotation, *get_args(field.annotation)}
        if isinstance(item, bool) and kinds & {int, float} and bool not in kinds:
            yield Problem((*keys, key), f"must be a number{quoted(item)}", field.description or "write a number")
        yield from _truths_as_numbers(item, place_of_field(field), (*keys, key))
