"""`python -m tests.house [PATH] [--list]`: the measures of a source tree as a table; with --list, every case."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.house import measures
from tests.house.calls import CallGraph, way_to_the_loss
from tests.house.check_imports import imported_by_check
from tests.house.sizes import functions
from tests.house.source import Source, read_source


def rows(source: Source) -> list[tuple[str, str, Sequence[str]]]:
    """What is measured, its number, and the cases."""
    graph = CallGraph(source)
    static, dynamic = (way_to_the_loss(graph, dynamic=one) for one in (False, True))
    literals = measures.stage_literals(source)
    checks = measures.section_checks(graph)
    light = imported_by_check(source.root)
    shared = measures.shared_names(source)
    sizes = [
        function.code_lines for module in source.modules.values() for function in functions(module.text, module.name)
    ]
    num_literals = sum(map(len, literals.values()))
    unread = measures.unread_fields(graph)
    twice = measures.declared_twice(graph)
    one_importer, small = measures.with_one_importer(source), measures.small_with_one_importer(source)
    records = measures.records_on(graph, dynamic)
    return [
        ("calls from `zephyr run` to the loss line, static", str(len(static) - 1) if static else "no way", static),
        ("the same with calls that are decided at run time", str(len(dynamic) - 1) if dynamic else "no way", dynamic),
        ("records on that way", str(len(records)), records),
        ("records that repeat three or more fields of a section", str(len(twice)), twice),
        (
            "stages' names as literals outside their home; files",
            f"{num_literals}; {len(literals)}",
            [f"{name}: {', '.join(found)}" for name, found in literals.items()],
        ),
        (
            "isinstance on sections outside schema and stages; files",
            f"{sum(checks.values())}; {len(checks)}",
            [f"{name}: {count}" for name, count in checks.items()],
        ),
        ("fields of the schema that nobody reads", str(len(unread)), unread),
        ("zephyr's modules imported by `zephyr check`", str(len(light.ours)), light.ours),
        ("of the training loop, peft and openai among all imported", str(len(light.heavy)), light.heavy),
        ("modules with exactly one importer", str(len(one_importer)), one_importer),
        ("modules with exactly one importer, under 60 lines", str(len(small)), small),
        *_plain(source, shared),
        ("functions over 40 code lines; over 60", _over(sizes), []),
        ("modules; lines", _volume(source), []),
    ]


def _plain(source: Source, shared: dict[str, list[str]]) -> list[tuple[str, str, Sequence[str]]]:
    cycles = measures.import_cycles(source)
    lists = {
        "import cycles, lazy and TYPE_CHECKING imports included": [" <-> ".join(cycle) for cycle in cycles],
        "public names defined in two packages": [f"{name}: {', '.join(where)}" for name, where in shared.items()],
        "docstrings that begin with Nothing": measures.begins_with_nothing(source),
        "public functions that raise without saying so": measures.silent_raises(source),
        "public functions on tensors or arrays without shapes": measures.shapeless(source),
    }
    return [(title, str(len(found)), found) for title, found in lists.items()]


def _over(sizes: list[int]) -> str:
    return f"{sum(size > 40 for size in sizes)} of {len(sizes):,}; {sum(size > 60 for size in sizes)}"


def _volume(source: Source) -> str:
    return f"{len(source.modules)}; {sum(module.num_lines for module in source.modules.values()):,}"


def main(words: list[str]) -> None:
    """Print the table."""
    paths = [word for word in words if word != "--list"]
    for title, number, cases in rows(read_source(Path(paths[0] if paths else ".").resolve())):
        print(f"{title:<60} {number}")
        if "--list" in words:
            print("".join(f"    {case}\n" for case in cases), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
