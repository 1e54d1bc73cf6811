"""The house rules as numbers: settings, stages, imports, names, docstrings and sizes of a source tree."""

import ast
import re
from collections import Counter
from collections.abc import Iterator

from tests.house.calls import CallGraph
from tests.house.source import STAGES, FunctionNode, Module, Source, walk
from tests.house.types import Type

SCHEMA = "zephyr.recipe"
SMALL_LINES = 60
SHARED_FIELDS = 3
_SHAPE = re.compile(
    r"\(\w{1,12}(, ?[\w+*/ -]{1,16})*,?\)|\bshape\b|\bscalar\b|\bone-dimensional\b|\[\w+\]", re.IGNORECASE
)
_SECTION = re.compile(r"(Section|Task|Filter|Objective|Model|Synth|Source)$")


def in_schema(module: str) -> bool:
    """Whether a module belongs to the recipe's schema."""
    return module == SCHEMA or module.startswith(f"{SCHEMA}.")


def sections(graph: CallGraph) -> dict[str, list[str]]:
    """The recipe's sections with their fields."""
    classes = graph.types.classes
    return {
        key: list(_fields(node))
        for key, (module, node) in classes.items()
        if in_schema(module) and any(one.endswith(":Section") for one in graph.types.bases(key)[1:])
    }


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for one in node.body:
        is_field = isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        if is_field and "ClassVar" not in ast.unparse(one.annotation):
            yield one.target.id


def _is_record(node: ast.ClassDef) -> bool:
    decorated = any("dataclass" in ast.unparse(one) for one in node.decorator_list)
    return decorated or any(ast.unparse(base).endswith(("NamedTuple", "TypedDict")) for base in node.bases)


def records_on(graph: CallGraph, way: list[str]) -> list[str]:
    """The records that the functions of a way build or take, the recipe's own left out."""
    found: set[str] = set()
    for key in way:
        module, node = graph.nodes[key]
        scope = graph.scope(key)
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            found |= graph.types.annotated(argument.annotation, module.name).classes
        for one in walk(node):
            if isinstance(one, ast.Call):
                found |= graph.types.infer(one.func, scope).themselves
    return sorted(
        key.partition(":")[2]
        for key in found
        if not in_schema(key.partition(":")[0]) and _is_record(graph.types.classes[key][1])
    )


def declared_twice(graph: CallGraph) -> list[str]:
    """Records below the schema that repeat three or more fields of one section."""
    found = []
    declared = sections(graph)
    for key, (module, node) in graph.types.classes.items():
        if in_schema(module) or not _is_record(node):
            continue
        own = set(_fields(node))
        section, shared = max(
            ((name, own & set(fields)) for name, fields in declared.items()), key=lambda one: len(one[1])
        )
        if len(shared) >= SHARED_FIELDS:
            found.append(f"{key} repeats {section.partition(':')[2]}: {', '.join(sorted(shared))}")
    return found


def unread_fields(graph: CallGraph) -> list[str]:
    """Fields of the schema that no code below it reads.

    A read counts where the section's class is known. Where the type of what is read from is not known, it counts if
    no other class of the package has a field or method of that name.
    """
    declared = sections(graph)
    readers = _readers(graph)
    names = Counter(field for fields in declared.values() for field in fields)
    for module, node in graph.types.classes.values():
        if not in_schema(module):
            names.update({*_fields(node), *(one.name for one in node.body if isinstance(one, FunctionNode))})
    return [
        f"{key.partition(':')[2]}.{field}"
        for key, fields in declared.items()
        for field in fields
        if (key, field) not in readers.known
        and not (names[field] == 1 and field in readers.unknown)
        and not _is_tag(graph, key, field)
    ]


class _Readers:
    """Attributes that are read: of known classes, and by name alone."""

    def __init__(self) -> None:
        self.known: set[tuple[str, str]] = set()
        self.unknown: set[str] = set()


def _readers(graph: CallGraph) -> _Readers:
    """What is read outside the schema, and in those methods of sections that are called there."""
    found = _Readers()
    pending = [key for key in graph.nodes if not in_schema(graph.nodes[key][0].name)]
    seen = set(pending)
    while pending:
        key = pending.pop()
        _, node = graph.nodes[key]
        scope = graph.scope(key)
        for one in walk(node):
            if isinstance(one, ast.Attribute):
                _note(graph, found, graph.types.infer(one.value, scope), one.attr)
        for edge in graph.calls(key):
            if edge.target in graph.nodes and edge.target not in seen:
                seen.add(edge.target)
                pending.append(edge.target)
    return found


def _note(graph: CallGraph, found: _Readers, value: Type, field: str) -> None:
    if not value.classes:
        found.unknown.add(field)
    for cls in value.classes:
        member = graph.types.member(cls, field)
        if member is not None:
            found.known.add((member[0], field))


def _is_tag(graph: CallGraph, key: str, field: str) -> bool:
    """Whether a field only names its section: `name: Literal["dpo"]`."""
    member = graph.types.member(key, field)
    assert member is not None
    annotation = ast.unparse(getattr(member[1], "annotation", ast.Constant(0)))
    return re.fullmatch(r"Literal\['[^',]*'\]", annotation) is not None


def stage_literals(source: Source) -> dict[str, list[str]]:
    """Stages' names as literals outside the schema and the stage's own file, by file."""
    found: dict[str, list[str]] = {}
    for module in source.modules.values():
        if in_schema(module.name):
            continue
        own = module.name.rpartition(".")[2] if module.name.startswith("zephyr.stages.") else ""
        for node in _literals(module):
            if node.value in STAGES and node.value != own:
                found.setdefault(module.name, []).append(f"{node.lineno} {node.value}")
    return found


def _literals(module: Module) -> Iterator[ast.Constant]:
    return (node for node in walk(module.tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def section_checks(graph: CallGraph) -> dict[str, int]:
    """`isinstance` on sections of the recipe outside the schema and the stages' files, by module."""
    declared = set(sections(graph))
    found: Counter[str] = Counter()
    for module in graph.source.modules.values():
        if in_schema(module.name) or module.name.startswith("zephyr.stages."):
            continue
        for node in walk(module.tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                named = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
                classes = {key for one in named for key in graph.types.annotated(one, module.name).classes}
                found[module.name] += bool(classes & declared)
    return {name: count for name, count in found.items() if count}


def importers(source: Source) -> dict[str, set[str]]:
    """The modules that import each module."""
    found: dict[str, set[str]] = {name: set() for name in source.modules}
    for name, imported in source.graph.items():
        for one in imported:
            found[one].add(name)
    return found


def with_one_importer(source: Source) -> list[str]:
    """Modules that a single other module imports."""
    return [
        name for name, above in importers(source).items() if len(above) == 1 and not source.modules[name].is_package
    ]


def small_with_one_importer(source: Source) -> list[str]:
    """Those of them that are under 60 lines."""
    return [name for name in with_one_importer(source) if source.modules[name].num_lines < SMALL_LINES]


def import_cycles(source: Source) -> list[list[str]]:
    """Groups of modules that import each other, lazy and TYPE_CHECKING imports included."""
    reach = {name: _reachable(source.graph, name) for name in source.modules}
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other])) for name in reach if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    pending = list(graph[start])
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += graph[name]
    return found


def shared_names(source: Source) -> dict[str, list[str]]:
    """Public top-level names that modules of two or more packages define.

    Left out: the functions of commands and of the Python API, whose names are those of the commands, type variables,
    and `logger`.
    """
    found: dict[str, set[str]] = {}
    for module in source.modules.values():
        is_command_file = module.name.startswith(("zephyr.cli.", "zephyr.api."))
        for name, node in module.names.items():
            is_command = is_command_file and (isinstance(node, FunctionNode) or name.islower())
            if not (name.startswith("_") or name == "logger" or is_command or len(name) == 1):
                found.setdefault(name, set()).add(module.package)
    return {name: sorted(packages) for name, packages in sorted(found.items()) if len(packages) > 1}


def begins_with_nothing(source: Source) -> list[str]:
    """Functions whose docstring begins with "Nothing"."""
    return [
        _place(module, node)
        for module, node in _every_function(source)
        if (ast.get_docstring(node) or "").startswith("Nothing")
    ]


def silent_raises(source: Source) -> list[str]:
    """Public functions that raise an error of their own without saying so."""
    return [
        _place(module, node)
        for module, _, node in source.functions()
        if not node.name.startswith("_")
        and any(isinstance(one, ast.Raise) and _is_error(one) for one in _own(node))
        and not re.search(r"\braises?\b", ast.get_docstring(node) or "", re.IGNORECASE)
    ]


def _is_error(node: ast.Raise) -> bool:
    """A new error; no `raise` that passes one on, none that a command ends with, none of an abstract method."""
    written = "" if node.exc is None else ast.unparse(node.exc)
    return bool(written) and not written.startswith(("NotImplementedError", "typer.", "SystemExit"))


def shapeless(source: Source) -> list[str]:
    """Public functions on tensors or arrays whose docstring, or whose class's, gives no shape."""
    found = []
    for module, cls, node in source.functions():
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        annotations = [ast.unparse(one.annotation) for one in every if one.annotation is not None]
        takes = any(re.search(r"\b(Tensor|ndarray|NDArray)\b", one) for one in annotations)
        private = node.name.startswith("_") or (cls is not None and cls.name.startswith("_"))
        said = (ast.get_docstring(node) or "") + (ast.get_docstring(cls) or "" if cls is not None else "")
        if takes and not private and not _SHAPE.search(said):
            found.append(_place(module, node))
    return found


def _own(function: FunctionNode) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions within."""
    pending = list(ast.iter_child_nodes(function))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, FunctionNode | ast.Lambda):
            pending += ast.iter_child_nodes(node)


def _every_function(source: Source) -> Iterator[tuple[Module, FunctionNode]]:
    for module in source.modules.values():
        yield from ((module, node) for node in walk(module.tree) if isinstance(node, FunctionNode))


def _place(module: Module, node: FunctionNode) -> str:
    return f"{module.name}:{node.lineno} {node.name}"
