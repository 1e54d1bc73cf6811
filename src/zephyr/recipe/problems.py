"""A problem of a recipe, and the one message that lists all of them, in five lines at most."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic_core import ErrorDetails

from zephyr.errors import RecipeError, did_you_mean
from zephyr.recipe.handbook.keys import habit
from zephyr.recipe.outline import PLAIN, TOP, Keys, Place, all_keys, dotted, one_line, place_at, place_of_field
from zephyr.recipe.section import Plain, Section

MOST_LINES = 5
GENERAL_REMEDY = "see docs/recipes.md"
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 48
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxlevel = 2


class Problem(NamedTuple):
    """What is wrong at a key of a recipe, and what to do about it."""

    keys: Keys
    what: str
    remedy: str


class BrokenRecipeError(RecipeError):
    """All problems of one recipe; `what` holds them line by line, each with its remedy."""

    def __str__(self) -> str:
        """The message, in five lines at most."""
        return f"{self.where}: {self.what}"


def broken(where: str, problems: Sequence[Problem], places: Mapping[Keys, str]) -> BrokenRecipeError:
    """The error that lists all problems; `places` has where keys were written, such as `line 7`."""
    lines = [_line(problem, places) for problem in problems]
    if len(lines) == 1:
        return BrokenRecipeError(where, lines[0], "fix it")
    if len(lines) >= MOST_LINES:
        rest = problems[MOST_LINES - 2 :]
        named = ", ".join(f"{dotted(problem.keys)} ({problem.what.partition(',')[0]})" for problem in rest)
        lines = [*lines[: MOST_LINES - 2], one_line(f"and {len(rest)} more: {named}")]
    return BrokenRecipeError(where, "\n  ".join([f"{len(problems)} problems", *lines]), "fix them")


def _line(problem: Problem, places: Mapping[Keys, str]) -> str:
    # A missing key has no line: the line of its section is given.
    above = (problem.keys[:end] for end in range(len(problem.keys), 0, -1))
    place = next((f"{places[keys]}, " for keys in above if keys in places), "")
    text = f"{place}{dotted(problem.keys)}: {problem.what}; {problem.remedy}"
    return one_line(text)


def quoted(value: object) -> str:
    """The tail of a message that quotes a value, cut short."""
    return f", got {_SHORT.repr(value)}"


def from_detail(detail: ErrorDetails, data: Plain, top: Place = TOP) -> Problem:
    """The problem that pydantic found in the data of a recipe, or of another file with `top`, in our words."""
    keys, owner = _locate(detail["loc"], top)
    field = owner.model_fields.get(str(keys[-1])) if owner is not None and keys else None
    given, context = detail["input"], detail.get("ctx", {})
    what = detail["msg"].replace("Input should", "must").replace("String should", "must") + quoted(given)
    remedy = (field.description if field is not None else None) or GENERAL_REMEDY
    match detail["type"]:
        case "extra_forbidden" if owner is not None:
            what, remedy = f"there is no such key{quoted(given)}", _nearest_key(keys, owner, data)
        case "missing":
            what = "is missing"
        case "union_tag_not_found" | "union_tag_invalid":
            return _wrong_choice(keys, context.get("tag"), data)
        case "literal_error":
            choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
            what, remedy = f"there is no such choice{quoted(given)}", _nearest(str(given), choices)
        case "value_error":
            what, _, advice = str(context["error"]).partition(": ")
            remedy = advice or remedy
        case "string_type" if isinstance(given, bool | int | float):
            what, remedy = f"must be text{quoted(given)}", "put it in quotes"
    return Problem(keys, what, remedy)


def _wrong_choice(keys: Keys, given: object, data: Plain) -> Problem:
    place = place_at(keys, data) or PLAIN
    what = "is missing" if given is None else f"there is no such choice{quoted(given)}"
    hints = dict.fromkeys(variant.choice_hint for variant in place.variants.values() if variant.choice_hint)
    return Problem((*keys, place.tag), what, "; ".join([_nearest(str(given or ""), place.variants), *hints]))


def _locate(location: Keys, top: Place) -> tuple[Keys, type[Section] | None]:
    """The keys in pydantic's location, which names variants too, and the section that owns the last of them."""
    place, owner = top, None
    keys: list[str | int] = []
    for step in location:
        if place.tag and isinstance(step, str) and step in place.variants:
            place = Place({"": place.variants[step]})
            continue
        if place.item is not None:
            place, owner = place.item, None
        elif "" in place.variants:
            owner = place.variants[""]
            field = owner.model_fields.get(str(step))
            place = place_of_field(field) if field is not None else PLAIN
        else:
            break
        keys.append(step)
    return tuple(keys), owner


def _nearest_key(keys: Keys, owner: type[Section], data: Plain) -> str:
    """A suggestion for an unknown key: a key of the same section, of one below it, or of another variant."""
    name = str(keys[-1])
    place = place_at(keys[:-1], data) or PLAIN
    others = [tag for tag, variant in place.variants.items() if name in variant.model_fields]
    if others:
        return f"it belongs to {place.tag} {' or '.join(others)}"
    below = next((key for key in all_keys(owner) if key.endswith(f".{name}")), None)
    if below is not None:
        return f"did you mean '{below}'?"
    return habit(name) or _nearest(name, owner.model_fields)


def _nearest(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    return did_you_mean(name, known).removeprefix("; ")
