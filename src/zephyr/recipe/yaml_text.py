"""YAML as plain values, with the line of every key: nothing is run, nothing is guessed, nothing is lost.

The same reader serves files and the values of overrides. Keys are text whatever they look like, a date is text,
and a duplicate key is an error, which PyYAML would accept silently.
"""

from typing import NamedTuple

import yaml

from zephyr.errors import RecipeError
from zephyr.recipe.outline import Keys, dotted, one_line
from zephyr.recipe.section import Plain

# Aliases repeat other values; nested ones can make a small file expand without bound.
MAX_VALUES = 20_000
_MAPPING, _LIST = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"


class Document(NamedTuple):
    """A YAML document: its value, and the 1-based line of every key and list item."""

    value: Plain
    lines: dict[Keys, int]


class _Reader:
    """Builds plain values from nodes, and collects what is wrong with them."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.loader = loader
        self.lines: dict[Keys, int] = {}
        self.faults: list[str] = []
        self.num_values = 0

    def build(self, node: yaml.Node, keys: Keys) -> Plain:
        """The value of a node at `keys`. Raises yaml.YAMLError if the document has too many values."""
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise yaml.YAMLError(f"holds more than {MAX_VALUES} values")
        if isinstance(node, yaml.MappingNode) and node.tag == _MAPPING:
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode) and node.tag == _LIST:
            return [self._entry(item, item, (*keys, number)) for number, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self.faults.append(f"line {_line(node)}: the tag {node.tag} has no place in a recipe")
        return None

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> Plain:
        built: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(f"line {_line(key_node)}: a key must be a word")
                continue
            key = str(key_node.value)
            if key in built:
                first = self.lines[(*keys, key)]
                self.faults.append(f"line {_line(key_node)}: '{dotted((*keys, key))}' is already set in line {first}")
            built[key] = self._entry(key_node, value_node, (*keys, key))
        return built

    def _entry(self, marked: yaml.Node, node: yaml.Node, keys: Keys) -> Plain:
        self.lines.setdefault(keys, _line(marked))
        return self.build(node, keys)

    def _scalar(self, node: yaml.ScalarNode) -> Plain:
        try:
            value: object = self.loader.construct_object(node)
        except (ValueError, yaml.YAMLError):
            self.faults.append(f"line {_line(node)}: cannot be read as {node.tag}, got {node.value[:40]!r}")
            return None
        # What is none of these is a date or bytes; the commit 2024-01-01 is text to us.
        return value if value is None or isinstance(value, bool | int | float | str) else str(node.value)


def read_yaml(text: str, where: str) -> Document:
    """The YAML document in a text. Raises RecipeError with the line of each fault."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        reader = _Reader(loader)
        value = reader.build(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        raise RecipeError(where, one_line(_yaml_fault(error)), "fix the YAML") from error
    except RecursionError as error:
        raise RecipeError(
            where, "is nested too deeply, or an alias contains itself", "write it out without aliases"
        ) from error
    if reader.faults:
        raise RecipeError(where, one_line("; ".join(reader.faults)), "fix the YAML")
    return Document(value, reader.lines)


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    line = f"line {mark.line + 1}: " if mark is not None else ""
    if "'\\t'" in reason:
        return f"{line}indentation must be spaces, not tabs"
    return f"{line}{reason}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
