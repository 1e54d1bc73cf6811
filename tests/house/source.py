"""The package's source as syntax trees: modules, what they define, and what they import."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
STAGES = ("synth", "pretrain", "sft", "feedback", "align", "evaluate", "deliver")


@cache
def parsed(text: str) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(text)


@cache
def walk(node: ast.AST) -> tuple[ast.AST, ...]:
    """A node and all nodes below it but `Load` and `Store`, level by level, kept for the next time."""
    found = [node]
    for one in found:  # which grows meanwhile
        for name in one._fields:
            value = getattr(one, name, None)
            if isinstance(value, list):
                found += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and name != "ctx":
                found.append(value)
    return tuple(found)


@cache
def calls_in(node: ast.AST) -> tuple[ast.Call, ...]:
    """The calls below a node."""
    return tuple(one for one in walk(node) if isinstance(one, ast.Call))


@dataclass(frozen=True)
class Definition:
    """A function, class or value by its place: `zephyr.train.step:Engine.run`."""

    module: str
    name: str
    node: ast.AST

    @property
    def key(self) -> str:
        return f"{self.module}:{self.name}"


@dataclass
class Module:
    """One source file. `imports`: names bound by imports anywhere in it, as (module, name) or (module, "")."""

    name: str
    path: Path
    text: str
    tree: ast.Module
    is_package: bool
    names: dict[str, ast.AST] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def package(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]

    @property
    def num_lines(self) -> int:
        return len(self.text.splitlines())

    def assigned(self) -> Iterator[tuple[str, ast.AST]]:
        for node in self.tree.body:
            if isinstance(node, FunctionNode | ast.ClassDef):
                yield node.name, node
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    elements = target.elts if isinstance(target, ast.Tuple) else [target]
                    yield from ((one.id, node) for one in elements if isinstance(one, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id, node


@dataclass
class Source:
    """All modules of `zephyr` under a repository's root."""

    root: Path
    modules: dict[str, Module]

    @cached_property
    def graph(self) -> dict[str, set[str]]:
        """The modules that each module imports, lazy and TYPE_CHECKING imports included."""
        return {module.name: set(self._imported(module)) - {module.name} for module in self.modules.values()}

    def _imported(self, module: Module) -> Iterator[str]:
        for node in walk(module.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name in self.modules)
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "zephyr":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found = inner if inner in self.modules else node.module
                    if found in self.modules:
                        yield found

    def find(self, module: str, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> Definition | None:
        """What a name means in a module, imports followed; None for what is not the package's own."""
        here = self.modules.get(module)
        if here is None or (module, name) in seen:
            return None
        if name in here.names:
            return Definition(module, name, here.names[name])
        target = here.imports.get(name)
        if target is None or not target[1]:
            return None
        return self.find(*target, seen | {(module, name)})

    def module_called(self, module: str, name: str) -> str | None:
        """The package's module that a name stands for in a module."""
        target = self.modules[module].imports.get(name)
        if target is None:
            return None
        whole = f"{target[0]}.{target[1]}" if target[1] else target[0]
        return whole if whole in self.modules else None

    def functions(self) -> Iterator[tuple[Module, ast.ClassDef | None, FunctionNode]]:
        """Top-level functions and methods, with their module and class."""
        for module in self.modules.values():
            for node in module.tree.body:
                if isinstance(node, FunctionNode):
                    yield module, None, node
                elif isinstance(node, ast.ClassDef):
                    yield from ((module, node, one) for one in node.body if isinstance(one, FunctionNode))


def read_source(root: Path) -> Source:
    """The modules of `src/zephyr` under the root, parsed."""
    base = root / "src"
    source = Source(root, {})
    for path in sorted((base / "zephyr").rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        text = path.read_text(encoding="utf-8")
        source.modules[name] = Module(name, path, text, parsed(text), is_package)
    for module in source.modules.values():
        module.names = dict(module.assigned())
        for node in walk(module.tree):
            if isinstance(node, ast.Import):
                module.imports |= {alias.asname or alias.name.split(".")[0]: (alias.name, "") for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                module.imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return source
