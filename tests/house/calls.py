"""Who calls whom: from a function to those that it calls, and the shortest way from a command to the loss."""

import ast
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from tests.house.source import FunctionNode, Module, Source, calls_in, walk
from tests.house.types import NOTHING, Inference, Scope, Type, union

STATIC, DYNAMIC = "static", "dynamic"


class Edge(NamedTuple):
    """A call; dynamic: of a method of a subclass that no table lists, or of a function that was handed over."""

    target: str
    kind: str


class CallGraph:
    """The calls of all functions of a source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.types = Inference(source)
        self.nodes: dict[str, tuple[Module, FunctionNode]] = {}
        self.owners: dict[str, str | None] = {}
        for module, owner, node in source.functions():
            key = f"{module.name}:{owner.name + '.' if owner else ''}{node.name}"
            self.nodes[key] = (module, node)
            self.owners[key] = f"{module.name}:{owner.name}" if owner else None
        self._scopes: dict[str, Scope] = {}
        self._handed: dict[str, dict[str, Type]] = {}
        self._fields: dict[tuple[str, str], set[str]] = {}
        self._listed: set[str] = set()
        for _ in range(3):  # as often as a function is handed on
            self._handed = self._find_handed()
            self._scopes = {key: scope for key, scope in self._scopes.items() if key not in self._handed}
        self._fields = self._function_fields()
        self._listed = self._listed_classes()

    def scope(self, key: str) -> Scope:
        """The names known in a function."""
        if key not in self._scopes:
            module, node = self.nodes[key]
            scope = self._scopes[key] = Scope(module.name)
            owner = self.owners[key]
            first = node.args.args[0].arg if node.args.args else ""
            if owner is not None and first == "self":
                scope.names["self"] = Type(classes=frozenset({owner}))
            elif owner is not None and first == "cls":
                scope.names["cls"] = Type(themselves=frozenset({owner}))
            scope.names |= self._handed.get(key, {})
            for _ in range(2):  # so that what is known late reaches what stands before
                self._bind(node, scope)
        return self._scopes[key]

    def _bind(self, function: ast.AST, scope: Scope) -> None:  # noqa: C901, PLR0912 - one branch a kind of binding
        """Learn the names of a function from its parameters and statements."""
        infer = self.types.infer
        for node in _binding(function):
            if isinstance(node, FunctionNode | ast.Lambda):
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                for argument in every:
                    if argument.annotation is not None:
                        declared = self.types.annotated(argument.annotation, scope.module)
                        scope.names[argument.arg] = scope.names.get(argument.arg, NOTHING) | declared
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    _put(scope, target, infer(node.value, scope), node.value, self)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                declared = self.types.annotated(node.annotation, scope.module)
                _put(scope, node.target, declared | infer(node.value, scope), None, self)
            elif isinstance(node, ast.NamedExpr):
                _put(scope, node.target, infer(node.value, scope), node.value, self)
            elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
                _put_items(scope, node.target, node.iter, self)
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                _put(scope, node.optional_vars, infer(node.context_expr, scope), None, self)
            elif isinstance(node, ast.Call):
                _narrow(scope, node.args[0], node.args[1], self)
            elif isinstance(node, ast.Match):
                for case in node.cases:
                    if isinstance(case.pattern, ast.MatchClass):
                        _narrow(scope, node.subject, case.pattern.cls, self)

    def calls(self, key: str) -> Iterator[Edge]:
        """The functions that a function calls, or hands over to a library that calls them."""
        _, function = self.nodes[key]
        scope = self.scope(key)
        handed = self._handed.get(key, {})
        seen = set()
        for node in walk(function):
            if isinstance(node, ast.Call):
                root = next(one for one in walk(node.func) if not isinstance(one, ast.Attribute | ast.Subscript))
                is_handed = isinstance(root, ast.Name) and root.id in handed
                edges = list(self._call(node, scope))
                yield from (Edge(edge.target, DYNAMIC) if is_handed else edge for edge in edges)
                seen.add(id(node.func))
                if edges:
                    seen |= {id(one) for argument in _arguments(node) for one in walk(argument)}
            elif isinstance(node, ast.Name | ast.Attribute) and id(node) not in seen:
                if isinstance(node, ast.Attribute):
                    yield from (Edge(member, STATIC) for member in self._properties(node, scope))
                yield from (Edge(one, DYNAMIC) for one in self.types.infer(node, scope).functions)

    def _blocks(self) -> Iterator[tuple[Scope, Sequence[ast.Call]]]:
        """The calls of every function, and those of every module outside of functions, with the names known there."""
        for key, (_, function) in self.nodes.items():
            yield self.scope(key), calls_in(function)
        for module in self.source.modules.values():
            outside = [one for one in module.tree.body if not isinstance(one, FunctionNode | ast.ClassDef)]
            yield Scope(module.name), [node for one in outside for node in calls_in(one)]

    def _find_handed(self) -> dict[str, dict[str, Type]]:
        """Functions, and tables of them, that are given as arguments, by function and parameter."""
        found: dict[str, dict[str, Type]] = {}
        for scope, calls in self._blocks():
            for node in calls:
                for target in self.types.infer(node.func, scope).functions:
                    for name, argument in self._parameters(target, node):
                        value = self.types.infer(argument, scope)
                        items = Type(functions=value.items.functions) if value.items else NOTHING
                        if value.functions or items.functions:
                            names = found.setdefault(target, {})
                            given = Type(functions=value.functions, items=items)
                            names[name] = names.get(name, NOTHING) | given
        return found

    def _parameters(self, target: str, node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
        """The arguments of a call by the names of the function's parameters."""
        if target not in self.nodes:
            return
        arguments = self.nodes[target][1].args
        names = [one.arg for one in [*arguments.posonlyargs, *arguments.args]]
        if names[:1] in (["self"], ["cls"]):
            names = names[1:]
        yield from zip(names, node.args, strict=False)
        yield from ((one.arg, one.value) for one in node.keywords if one.arg)

    def _call(self, node: ast.Call, scope: Scope) -> Iterator[Edge]:
        value = self.types.infer(node.func, scope)
        for function in value.functions:
            yield Edge(function, STATIC)
            owner, _, method = function.rpartition(".")
            if owner in self.types.classes:
                for below in self.types.subclasses.get(owner, ()):
                    if f"{below}.{method}" in self.nodes:
                        yield Edge(f"{below}.{method}", STATIC if below in self._listed else DYNAMIC)
        for cls in value.themselves:
            yield from (Edge(one, STATIC) for one in self._methods(cls, ("__init__", "__post_init__")))
        for cls in value.classes:
            yield from (Edge(one, STATIC) for one in self._methods(cls, ("__call__", "forward")))
        if isinstance(node.func, ast.Attribute):
            for cls in self.types.infer(node.func.value, scope).classes:
                for function in self._fields.get((cls, node.func.attr), ()):
                    yield Edge(function, STATIC)

    def _properties(self, node: ast.Attribute, scope: Scope) -> Iterator[str]:
        for cls in self.types.infer(node.value, scope).classes:
            member = self.types.member(cls, node.attr)
            if member is not None and isinstance(member[1], FunctionNode) and member[1].decorator_list:
                yield f"{member[0]}.{node.attr}"

    def _methods(self, cls: str, names: tuple[str, ...]) -> Iterator[str]:
        for name in names:
            member = self.types.member(cls, name)
            if member is not None and isinstance(member[1], FunctionNode):
                yield f"{member[0]}.{name}"

    def _function_fields(self) -> dict[tuple[str, str], set[str]]:
        """The functions that records hold, by class and field: `Stage(run=make_sft)`."""
        found: dict[tuple[str, str], set[str]] = {}
        for scope, calls in self._blocks():
            for node in calls:
                for cls in self.types.infer(node.func, scope).themselves:
                    for name, value in _given(node, self.types.classes[cls][1]):
                        functions = self.types.infer(value, scope).functions
                        if functions:
                            found.setdefault((cls, name), set()).update(functions)
        return found

    def _listed_classes(self) -> set[str]:
        """The classes that a literal table at the top of a module lists: `OBJECTIVES = {"dpo": Dpo}`."""
        tables = [
            (module.name, node.value)
            for module in self.source.modules.values()
            for node in module.names.values()
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        ]
        held = (self.types.infer(value, Scope(module)).items or NOTHING for module, value in tables)
        return {cls for one in held for cls in one.themselves}

    def way(self, start: str, ends: set[str], *, kinds: tuple[str, ...]) -> list[str]:
        """The shortest way from a function to one of the others by edges of these kinds; empty if there is none."""
        before: dict[str, str | None] = {start: None}
        queue = deque([start])
        while queue:
            here = queue.popleft()
            if here in ends:
                way = [here]
                while (above := before[way[-1]]) is not None:
                    way.append(above)
                return way[::-1]
            for edge in sorted(self.calls(here), key=lambda edge: edge.target):
                if edge.kind in kinds and edge.target in self.nodes and edge.target not in before:
                    before[edge.target] = here
                    queue.append(edge.target)
        return []

    def containing(self, package: str, called: str) -> set[str]:
        """The functions of a package in which a method or function of this name is called."""
        return {
            key
            for key, (module, node) in self.nodes.items()
            if module.name.startswith(package)
            and any(
                isinstance(one, ast.Call) and getattr(one.func, "attr", getattr(one.func, "id", "")) == called
                for one in walk(node)
            )
        }


def way_to_the_loss(graph: CallGraph, *, dynamic: bool) -> list[str]:
    """The shortest way from `zephyr run` to the function of DPO's sigmoid loss, past the one that calls backward."""
    kinds = (STATIC, DYNAMIC) if dynamic else (STATIC,)
    commands = ("zephyr.cli.", "zephyr.verbs.")
    (start,) = (key for key in graph.nodes if key.startswith(commands) and key.endswith(":run"))
    losses = _entries(graph, "sigmoid") or graph.containing("zephyr.train", "logsigmoid")
    ways = []
    for step in graph.containing("zephyr.train", "backward"):
        down, on = graph.way(start, {step}, kinds=kinds), graph.way(step, losses, kinds=kinds)
        if down and on:
            ways.append(down + on[1:])
    return min(sorted(ways), key=len, default=[])


def _entries(graph: CallGraph, name: str) -> set[str]:
    """The functions that the largest literal table of losses holds under a name."""
    tables = [
        (len(node.keys), value, module.name)
        for module in graph.source.modules.values()
        if module.name.startswith("zephyr.train")
        for node in walk(module.tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == name
    ]
    if not tables:
        return set()
    _, value, module = max(tables, key=lambda table: table[0])
    parts = [part for part in walk(value) if isinstance(part, ast.Name)]
    return {function for part in parts for function in graph.types.infer(part, Scope(module)).functions}


_BINDS = (
    FunctionNode, ast.Lambda, ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.For, ast.AsyncFor, ast.comprehension,
    ast.withitem, ast.Match,
)  # fmt: skip


@cache
def _binding(function: ast.AST) -> tuple[ast.AST, ...]:
    """The nodes of a function from which `_bind` learns."""
    return tuple(
        node
        for node in walk(function)
        if isinstance(node, _BINDS) or (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance")
    )


def _put(scope: Scope, target: ast.AST, value: Type, written: ast.AST | None, graph: CallGraph) -> None:
    """Bind a name, or the names of a tuple as far as their values are written out or belong to a named tuple."""
    if isinstance(target, ast.Name):
        scope.names[target.id] = scope.names.get(target.id, NOTHING) | value
    elif isinstance(target, ast.Tuple):
        if isinstance(written, ast.Tuple) and len(written.elts) == len(target.elts):
            for one, part in zip(target.elts, written.elts, strict=True):
                _put(scope, one, graph.types.infer(part, scope), part, graph)
            return
        for one in target.elts:
            _put(scope, one, value.items or NOTHING, None, graph)


def _put_items(scope: Scope, target: ast.AST, iterated: ast.AST, graph: CallGraph) -> None:
    """Bind the names of a loop."""
    name = ""
    if isinstance(iterated, ast.Call):
        name = getattr(iterated.func, "attr", getattr(iterated.func, "id", ""))
    if name == "zip" and isinstance(target, ast.Tuple):
        for one, argument in zip(target.elts, iterated.args, strict=False):
            _put(scope, one, graph.types.infer(argument, scope).items or NOTHING, None, graph)
    elif name == "enumerate" and isinstance(target, ast.Tuple):
        _put(scope, target.elts[1], graph.types.infer(iterated.args[0], scope).items or NOTHING, None, graph)
    elif name == "items" and isinstance(target, ast.Tuple) and isinstance(iterated.func, ast.Attribute):
        held = graph.types.infer(iterated.func.value, scope).items or NOTHING
        _put(scope, target.elts[1], held, None, graph)
    else:
        items = graph.types.infer(iterated, scope).items or NOTHING
        _put(scope, target, Type(items=items) if isinstance(target, ast.Tuple) else items, None, graph)


def _narrow(scope: Scope, subject: ast.AST, classes: ast.AST, graph: CallGraph) -> None:
    """Learn from `isinstance` of a name."""
    if isinstance(subject, ast.Name):
        named = classes.elts if isinstance(classes, ast.Tuple) else [classes]
        found = union(graph.types.annotated(one, scope.module) for one in named)
        if not scope.names.get(subject.id, NOTHING).classes & found.classes:
            scope.names[subject.id] = scope.names.get(subject.id, NOTHING) | found


def _arguments(node: ast.Call) -> list[ast.expr]:
    return [*node.args, *(one.value for one in node.keywords)]


def _given(node: ast.Call, cls: ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
    """The values of a constructor's call by field."""
    fields = [one.target.id for one in cls.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    yield from zip(fields, node.args, strict=False)
    yield from ((one.arg, one.value) for one in node.keywords if one.arg)
