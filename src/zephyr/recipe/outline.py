"""Which keys and sections a recipe may have where, read from the schema: for suggestions, overrides, the reference."""

from collections.abc import Iterator, Mapping
from inspect import isclass
from types import NoneType, UnionType
from typing import Annotated, NamedTuple, TypeAlias, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain, Section

Keys: TypeAlias = tuple[str | int, ...]


class Place(NamedTuple):
    """What may stand at a place: a section, one of several chosen by the key `tag`, or a list of these.

    All empty: a plain value.
    """

    variants: Mapping[str, type[Section]] = {}
    tag: str = ""
    item: "Place | None" = None

    def section(self, value: object) -> type[Section] | None:
        """The section for the value's tag; None if the tag is unknown."""
        if not self.tag:
            return self.variants.get("")
        chosen = value.get(self.tag) if isinstance(value, dict) else None
        return self.variants.get(chosen) if isinstance(chosen, str) else None


PLAIN = Place()
TOP = Place({"": Recipe})


def place_of_field(field: FieldInfo) -> Place:
    """What may stand in a field of a section."""
    return _place(field.annotation, field.discriminator if isinstance(field.discriminator, str) else "")


def _place(annotation: object, tag: str = "") -> Place:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        tags = [meta.discriminator for meta in inner[1:] if isinstance(meta, FieldInfo)]
        return _place(inner[0], next((name for name in tags if isinstance(name, str)), tag))
    if origin in (Union, UnionType):
        members = [member for member in inner if member is not NoneType]
        if tag:
            named = {value: member for member in members for value in get_args(member.model_fields[tag].annotation)}
            return Place(named, tag)
        return _place(members[0]) if len(members) == 1 else PLAIN
    if origin is list:
        item = _place(inner[0])
        return Place(item=item) if item != PLAIN else PLAIN
    return Place({"": annotation}) if isclass(annotation) and issubclass(annotation, Section) else PLAIN


def place_at(keys: Keys, data: Plain) -> Place | None:
    """What may stand at these keys of a recipe's data, whose tags choose the sections; None if they lead nowhere."""
    place, value = TOP, data
    for key in keys:
        if place.item is not None:
            place = place.item
        else:
            section = place.section(value)
            field = section.model_fields.get(str(key)) if section is not None else None
            if field is None:
                return None
            place = place_of_field(field)
        value = _child(value, key)
    return place


def _child(value: Plain, key: str | int) -> Plain:
    if isinstance(value, dict) and isinstance(key, str):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int) and -1 < key < len(value):
        return value[key]
    return None


def value_at(keys: Keys, data: Plain) -> Plain:
    """The value at these keys; None where there is none."""
    for key in keys:
        data = _child(data, key)
    return data


def dotted(keys: Keys) -> str:
    """The keys as they are written in an override."""
    return ".".join(map(str, keys))


def one_line(text: str) -> str:
    """The text without line breaks: what a message quotes must not break it."""
    return " ".join(text.split())


def all_keys(section: type[Section]) -> Iterator[str]:
    """Every dotted key below a section, through all variants; items of lists are not counted."""
    for name, field in section.model_fields.items():
        yield name
        for variant in place_of_field(field).variants.values():
            yield from (f"{name}.{below}" for below in all_keys(variant))


def fill_tags(value: Plain, place: Place = TOP) -> Plain:
    """The data, with the tag of a default written out where a section names only some of its other keys."""
    if isinstance(value, list) and place.item is not None:
        return [fill_tags(item, place.item) for item in value]
    section = place.section(value)
    if not isinstance(value, dict) or section is None:
        return value
    return {key: _fill_field(item, section.model_fields.get(key)) for key, item in value.items()}


def _fill_field(value: Plain, field: FieldInfo | None) -> Plain:
    if field is None:
        return value
    place = place_of_field(field)
    default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    if place.tag and isinstance(value, dict) and place.tag not in value:
        if isinstance(default, Section):
            value = {place.tag: getattr(default, place.tag), **value}
        elif not field.is_required():
            value = _usual_tag(place, value) | value
    return fill_tags(value, place)


def _usual_tag(place: Place, value: Mapping[str, Plain]) -> dict[str, Plain]:
    """The tag that the variant with these keys has by default; empty where none has one."""
    for section in place.variants.values():
        field = section.model_fields[place.tag]
        if not field.is_required() and value.keys() <= section.model_fields.keys():
            return {place.tag: str(field.default)}
    return {}
