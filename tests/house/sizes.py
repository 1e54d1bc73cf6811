"""Sizes of functions and repetition between files, counted in lines of code."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from tests.house.source import FunctionNode, parsed, walk

BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
WINDOW = 8


class Function(NamedTuple):
    name: str
    code_lines: int
    parameters: int
    nesting: int


@cache
def code_lines(text: str) -> frozenset[int]:
    """Numbers of the lines that hold code: no comment, no docstring, no blank line outside of a string."""
    written = enumerate(text.splitlines(), start=1)
    lines = {number for number, line in written if line.strip() and not line.lstrip().startswith("#")}
    docstrings = set()
    for node in walk(parsed(text)):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            lines.update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, FunctionNode | ast.ClassDef | ast.Module) and ast.get_docstring(node, clean=False):
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return frozenset(lines - docstrings)


def nesting(node: ast.AST) -> int:
    """How deep blocks stand in each other; `elif` opens no new depth, and a function within starts anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.ClassDef):
            continue
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not chained))
    return deepest


def count_parameters(node: FunctionNode) -> int:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    return sum(argument.arg not in ("self", "cls") for argument in every)


@cache
def functions(text: str, where: str) -> tuple[Function, ...]:
    return tuple(_functions(text, where))


def _functions(text: str, where: str) -> Iterator[Function]:
    written, lines = text.splitlines(), code_lines(text)
    for node in walk(parsed(text)):
        if isinstance(node, FunctionNode):
            size = len(lines.intersection(range(node.lineno, node.end_lineno + 1)))
            # Another library's interface can ask for more than we would: its head then says so and why.
            foreign = re.search(r"# noqa: PLR0913 - \w", written[node.lineno - 1])
            parameters = 0 if foreign else count_parameters(node)
            yield Function(f"{where}:{node.lineno} {node.name}", size, parameters, nesting(node))


def windows(text: str) -> Iterator[tuple[str, ...]]:
    """Every run of eight code lines, without indentation, imports and the heads of functions.

    Functions that can stand for each other have the same head, and should.
    """
    kept = set(code_lines(text))
    for node in walk(parsed(text)):
        if isinstance(node, FunctionNode):
            kept.difference_update(range(node.lineno, node.body[0].lineno))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            kept.difference_update(range(node.lineno, node.end_lineno + 1))
    lines = [line.strip() for number, line in enumerate(text.splitlines(), start=1) if number in kept]
    return (tuple(lines[start : start + WINDOW]) for start in range(len(lines) - WINDOW + 1))


def repeated_windows(texts: dict[str, str]) -> list[str]:
    seen: dict[tuple[str, ...], str] = {}
    return [
        f"{seen[window]} and {where}: {window[0]}"
        for where, text in texts.items()
        for window in windows(text)
        if seen.setdefault(window, where) != where
    ]
