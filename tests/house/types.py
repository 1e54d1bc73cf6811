"""A small type inference over the source: enough to say which class an attribute is read from and what a call calls.

It follows annotations, constructors, literal tables, return types and `isinstance`; the rest it leaves out.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property

from tests.house.source import FunctionNode, Source, walk

_CONTAINERS = {
    "list", "tuple", "set", "frozenset", "dict", "Sequence", "Iterable", "Iterator", "Collection", "Mapping",
    "Generator",
}  # fmt: skip
_PASSES_ITEMS = {
    "list", "tuple", "sorted", "reversed", "set", "frozenset", "islice", "iter", "chain", "filter", "next", "max",
    "min",
}  # fmt: skip
_SAME_TYPE = {"model_copy", "_replace", "replace", "copy"}
_ONE_OF_ITEMS = {"next", "max", "min"}


@dataclass(frozen=True)
class Type:
    """What a value may be: instances of classes, functions, a class itself; `items`: what it holds."""

    classes: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    themselves: frozenset[str] = frozenset()
    items: "Type | None" = None

    def __or__(self, other: "Type") -> "Type":
        items = self.items if other.items is None else other.items if self.items is None else self.items | other.items
        return Type(
            self.classes | other.classes,
            self.functions | other.functions,
            self.themselves | other.themselves,
            items,
        )


NOTHING = Type()


def union(types: Iterable[Type]) -> Type:
    found = NOTHING
    for one in types:
        found = found | one
    return found


@dataclass
class Scope:
    """The names that are known in a function, and the module it stands in."""

    module: str
    names: dict[str, Type] = field(default_factory=dict)


class Inference:
    """Types of expressions in the functions of a source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.classes = {
            f"{module.name}:{node.name}": (module.name, node)
            for module in source.modules.values()
            for node in walk(module.tree)
            if isinstance(node, ast.ClassDef)
        }
        self._values: dict[tuple[str, str], Type] = {}
        self._stored: dict[ast.Assign, Type] = {}
        self._bases: dict[str, list[str]] = {}
        self._members: dict[tuple[str, str], tuple[str, ast.AST] | None] = {}

    @cached_property
    def subclasses(self) -> dict[str, set[str]]:
        """The classes below each class."""
        found: dict[str, set[str]] = {}
        for key in self.classes:
            for base in self.bases(key):
                if base != key:
                    found.setdefault(base, set()).add(key)
        return found

    def bases(self, key: str) -> list[str]:
        """The class and the package's own classes above it."""
        if key not in self._bases:
            module, node = self.classes[key]
            above = [one for base in node.bases for one in self.annotated(base, module).classes]
            self._bases[key] = [key, *(more for one in above for more in self.bases(one))]
        return self._bases[key]

    def annotated(self, node: ast.AST | None, module: str, depth: int = 0) -> Type:
        """The type that an annotation names."""
        if node is None or depth > 8:
            return NOTHING
        if isinstance(node, ast.Constant):
            try:
                parsed = ast.parse(node.value, mode="eval").body if isinstance(node.value, str) else None
            except SyntaxError:
                return NOTHING
            return self.annotated(parsed, module, depth + 1)
        if isinstance(node, ast.BinOp):
            return self.annotated(node.left, module, depth + 1) | self.annotated(node.right, module, depth + 1)
        if isinstance(node, ast.Subscript):
            return self._generic(node, module, depth)
        return self._named(node, module, depth)

    def _generic(self, node: ast.Subscript, module: str, depth: int) -> Type:
        base = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        arguments = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        types = [self.annotated(one, module, depth + 1) for one in arguments]
        if base in _CONTAINERS:
            last = types[-1:] if base in {"dict", "Mapping"} else types
            return self._named(node.value, module, depth) | Type(items=union(last))
        if base in {"Annotated", "type", "ClassVar", "Optional", "Union", "Final"}:
            return union(types[:1] if base == "Annotated" else types)
        if base in {"Callable", "Literal"}:
            return NOTHING
        return self._named(node.value, module, depth) | Type(items=union(types))

    def _named(self, node: ast.AST, module: str, depth: int) -> Type:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            inner = self.source.module_called(module, node.value.id)
            return NOTHING if inner is None else self.annotated(ast.Name(node.attr), inner, depth + 1)
        if not isinstance(node, ast.Name):
            return NOTHING
        found = self.source.find(module, node.id)
        if found is None:
            return NOTHING
        if isinstance(found.node, ast.ClassDef):
            return Type(classes=frozenset({found.key}))
        if isinstance(found.node, ast.Assign | ast.AnnAssign):
            return self.annotated(found.node.value, found.module, depth + 1)
        return NOTHING

    def member(self, key: str, name: str) -> tuple[str, ast.AST] | None:
        """An attribute's definition and the class it stands in: this one or the first of its bases that has it."""
        if (key, name) not in self._members:
            found = ((one, self._own_members(one).get(name)) for one in self.bases(key))
            self._members[key, name] = next(((one, node) for one, node in found if node is not None), None)
        return self._members[key, name]

    @cache  # noqa: B019 - one inference a process
    def _own_members(self, key: str) -> dict[str, ast.AST]:
        """What a class defines: methods, fields, and attributes that its methods assign: `self.name = value`."""
        found: dict[str, ast.AST] = {}
        for node in walk(self.classes[key][1]):
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    found.setdefault(target.attr, node)
        for node in self.classes[key][1].body:
            if isinstance(node, FunctionNode):
                found[node.name] = node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = node
        return found

    def attribute(self, value: Type, name: str) -> Type:
        """The type of an attribute of a value; of a method the method itself."""
        found = NOTHING
        for key in value.classes | value.themselves:
            member = self.member(key, name)
            if member is None:
                continue
            owner, node = member
            module = self.classes[owner][0]
            if isinstance(node, FunctionNode):
                is_property = any("property" in ast.unparse(one) for one in node.decorator_list)
                method = Type(functions=frozenset({f"{owner}.{name}"}))
                found |= self.annotated(node.returns, module) if is_property else method
            elif isinstance(node, ast.AnnAssign):
                found |= self.annotated(node.annotation, module)
            elif isinstance(node, ast.Assign):
                found |= self._stored_type(owner, node)
        return found

    def _stored_type(self, owner: str, node: ast.Assign) -> Type:
        """The type of what a method assigns to an attribute; of one that is made from itself, nothing."""
        if node not in self._stored:
            self._stored[node] = NOTHING
            self._stored[node] = self._assigned_type(owner, node)
        return self._stored[node]

    def _assigned_type(self, owner: str, node: ast.Assign) -> Type:
        module, cls = self.classes[owner]
        for method in cls.body:
            if isinstance(method, FunctionNode) and node in walk(method):
                scope = Scope(module, {"self": Type(classes=frozenset({owner}))})
                every = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
                scope.names |= {one.arg: self.annotated(one.annotation, module) for one in every if one.annotation}
                return self.infer(node.value, scope)
        return NOTHING

    def function(self, key: str) -> tuple[str, FunctionNode] | None:
        """The module and node of a function or method by its key."""
        module, _, name = key.partition(":")
        owner, _, method = name.rpartition(".")
        if not owner:
            found = self.source.modules[module].names.get(method)
            return (module, found) if isinstance(found, FunctionNode) else None
        node = self.classes[f"{module}:{owner}"][1]
        return next(((module, one) for one in node.body if isinstance(one, FunctionNode) and one.name == method), None)

    def returned(self, value: Type) -> Type:
        """What calling a value gives."""
        found = Type(classes=value.themselves)
        for key in value.functions:
            function = self.function(key)
            if function is None:
                continue
            module, node = function
            kind = self.annotated(node.returns, module)
            if any("contextmanager" in ast.unparse(one) for one in node.decorator_list):
                kind = kind.items or NOTHING
            if node.returns is not None and ast.unparse(node.returns).strip("\"'") == "Self":
                kind = Type(classes=frozenset({key.rpartition(".")[0]}))
            found |= kind
        return found

    def value(self, module: str, name: str) -> Type:
        """The type of a module's own top-level name."""
        if (module, name) in self._values:
            return self._values[module, name]
        self._values[module, name] = NOTHING
        node, key = self.source.modules[module].names[name], f"{module}:{name}"
        if isinstance(node, ast.ClassDef):
            found = Type(themselves=frozenset({key}))
        elif isinstance(node, FunctionNode):
            found = Type(functions=frozenset({key}))
        else:
            found = self.infer(node.value, Scope(module))
            if isinstance(node, ast.AnnAssign):
                found |= self.annotated(node.annotation, module)
        self._values[module, name] = found
        return found

    def infer(self, node: ast.AST | None, scope: Scope) -> Type:  # noqa: C901, PLR0911, PLR0912 - one case a kind of node
        """The type of an expression."""
        match node:
            case ast.Name(id=name):
                if name in scope.names:
                    return scope.names[name]
                found = self.source.find(scope.module, name)
                return NOTHING if found is None else self.value(found.module, found.name)
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name not in scope.names:
                inner = self.source.module_called(scope.module, name)
                if inner is not None:
                    found = self.source.find(inner, attr)
                    return NOTHING if found is None else self.value(found.module, found.name)
                return self.attribute(self.infer(node.value, scope), attr)
            case ast.Attribute(value=value, attr=attr):
                return self.attribute(self.infer(value, scope), attr)
            case ast.Call():
                return self._call(node, scope)
            case ast.Subscript(value=value):
                return self.infer(value, scope).items or NOTHING
            case ast.IfExp(body=body, orelse=orelse):
                return self.infer(body, scope) | self.infer(orelse, scope)
            case ast.BoolOp(values=values):
                return union(self.infer(one, scope) for one in values)
            case ast.NamedExpr(value=value) | ast.Await(value=value) | ast.Starred(value=value):
                return self.infer(value, scope)
            case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
                return Type(items=union(self._element(one, scope) for one in elements))
            case ast.Dict(values=values):
                return Type(items=union(self.infer(one, scope) for one in values))
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element) | ast.SetComp(elt=element):
                return Type(items=self.infer(element, scope))
            case ast.DictComp(value=value):
                return Type(items=self.infer(value, scope))
            case ast.BinOp(left=left, right=right):
                return self.infer(left, scope) | self.infer(right, scope)
        return NOTHING

    def _element(self, node: ast.AST, scope: Scope) -> Type:
        found = self.infer(node, scope)
        return found.items or NOTHING if isinstance(node, ast.Starred) else found

    def _call(self, node: ast.Call, scope: Scope) -> Type:
        func = node.func
        name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
        if name in _SAME_TYPE:
            owner = node.args[0] if isinstance(func, ast.Name) and node.args else getattr(func, "value", None)
            return self.infer(owner, scope)
        if name == "cast" and node.args:
            return self.annotated(node.args[0], scope.module)
        if name == "partial" and node.args:
            return self.infer(node.args[0], scope)
        if isinstance(func, ast.Name) and name in _PASSES_ITEMS and node.args and name not in scope.names:
            items = union(self.infer(one, scope).items or NOTHING for one in node.args)
            return items if name in _ONE_OF_ITEMS else Type(items=items)
        if isinstance(func, ast.Attribute) and name in {"values", "get", "pop", "items"}:
            held = self.infer(func.value, scope).items
            if held is not None:
                return held if name in {"get", "pop"} else Type(items=held)
        return self.returned(self.infer(func, scope))
