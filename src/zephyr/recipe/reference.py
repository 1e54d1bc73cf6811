"""The reference page of recipes, printed from the schema: `python -m zephyr.recipe.reference > docs/recipes.md`."""

from collections.abc import Iterator
from inspect import isclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from zephyr.recipe.outline import place_of_field
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Section
from zephyr.recipe.shipped import shipped_recipes
from zephyr.recipe.stage_sections import STAGE_NAMES

INTRODUCTION = """\
# Recipes

A recipe is one YAML file: a few keys for the whole run, and a section for every stage. A stage that is left out is not
run. The stages run in this order: {stages}.

This page is printed from the schema by `python -m zephyr.recipe.reference`, so it names every key there is.

```sh
zephyr recipes list                 # the recipes that come with Zephyr
zephyr recipes copy quickstart      # one of them into this folder
zephyr check quickstart.yaml        # validate it; count tokens, steps and cost; list the files it will write
zephyr run quickstart.yaml sft.train.learning_rate=1.0e-4 align.objective.name=orpo
```

**Overrides** are words of the form `key=value` after the file. Keys are joined by dots, items of lists are numbered
from 0 (`evaluate.tasks.0.num_prompts=10`), values are YAML (`align.train.report_to=[tensorboard]`, and `align=null`
leaves a stage out). An override of a `name` or `kind` chooses another variant of a section; keys that the new variant
does not know are left out, with a note.

**Mistakes** are reported all at once, with the line, the value and the nearest key, before anything runs.

**Old recipes**: a YAML of the alignment-handbook of 2023 to 2025 can be run as it is. Every key is translated and the
translation printed; what has no equivalent, such as `push_to_hub`, is left out with a note. The batch assumes the
handbook's 8 devices, or 1 for LoRA without 4-bit weights; `num_devices=N` says otherwise. A file whose training rows
include test rows is refused; under `dataset_mixture`, move them to a list `eval_datasets`.
"""
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", NoneType: "null"}


def reference_page() -> str:
    """The page in Markdown: a table for every section, in the order in which a recipe meets them."""
    parts = [INTRODUCTION.format(stages=", ".join(f"`{stage}`" for stage in STAGE_NAMES))]
    parts.append("\n".join(_shipped()))
    for section, uses in _sections().items():
        parts.append("\n".join(_table(section, uses)))
    return "\n".join(parts)


def _shipped() -> Iterator[str]:
    """The recipes that come with Zephyr, each by the first line of its header."""
    yield "**Recipes that come with Zephyr**; the header of each says what machine and how long it takes:\n"
    yield "| recipe | |"
    yield "|---|---|"
    for recipe in shipped_recipes():
        yield f"| `{recipe.name}` | {recipe.summary} |"
    yield ""


def _sections() -> dict[type[Section], list[str]]:
    """Every section, and its keys in the recipe."""
    found: dict[type[Section], list[str]] = {Recipe: []}
    waiting: list[tuple[type[Section], str]] = [(Recipe, "")]
    while waiting:
        section, prefix = waiting.pop(0)
        inner: list[tuple[type[Section], str]] = []
        for name, field in section.model_fields.items():
            place = place_of_field(field)
            for variant in (place.item or place).variants.values():
                key = f"{prefix}{name}{'[]' if place.item else ''}"
                found.setdefault(variant, []).append(key)
                inner.append((variant, f"{key}."))
        waiting = inner + waiting
    return found


def _table(section: type[Section], uses: list[str]) -> Iterator[str]:
    yield f"## {section.__name__}\n"
    yield f"{(section.__doc__ or '').strip()}\n"
    if uses:
        yield f"At {', '.join(f'`{key}`' for key in dict.fromkeys(uses))}.\n"
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    for name, field in section.model_fields.items():
        yield f"| `{name}` | {_value(field)} | {_default(field)} | {field.description or ''} |"
    yield ""


def _value(field: FieldInfo) -> str:
    limits = [_limit(entry) for entry in field.metadata]
    return " ".join([_type(field.annotation), *(limit for limit in limits if limit)])


def _limit(entry: object) -> str:
    match entry:
        case Gt(gt=bound):
            return f"above {bound}"
        case Ge(ge=bound):
            return f"from {bound}"
        case Lt(lt=bound):
            return f"below {bound}"
        case Le(le=bound):
            return f"up to {bound}"
        case MinLen(min_length=length):
            return f"of at least {length}"
    return ""


def _type(annotation: object) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if isclass(annotation) and issubclass(annotation, Section):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    texts = [_type(part) for part in (inner[:1] if origin is Annotated else inner)]
    if origin in (Union, UnionType, Annotated):
        return " or ".join(texts)
    if texts:
        return f"list: {texts[0]}" if origin is list else f"map from {texts[0]} to {texts[1]}"
    return _WORDS[annotation] if isclass(annotation) else str(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default: object = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, Section):
        named = [getattr(default, key) for key in ("name", "kind") if key in type(default).model_fields]
        return f"`{named[0]}`" if named else "its defaults"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "null" if default is None else f"`{default}`" if default not in ("", [], {}) else "empty"


if __name__ == "__main__":
    print(reference_page(), end="")
