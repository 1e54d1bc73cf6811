"""The reference page of commands: `python -m zephyr.cli.command_reference > docs/commands.md`."""

from collections.abc import Iterator
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from types import FunctionType, NoneType, UnionType
from typing import Annotated, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from typer import Typer
from typer.models import ArgumentInfo, OptionInfo

from zephyr.cli.main import command_line

COMMANDS_INTRODUCTION = """\
# Commands

Every command that `zephyr --help` lists, with its arguments and options. This page is printed from the commands by
`python -m zephyr.cli.command_reference`, so it is complete; `zephyr COMMAND --help` says the same in the terminal.

`zephyr --version` prints the version. `--traceback`, anywhere on a line, prints the traceback of an error.
`zephyr --install-completion` lets bash, zsh or fish complete commands, options, recipes and the keys of their settings.

| exit code | |
|---|---|
| 0 | done |
| 1 | a bug in Zephyr, with a traceback: please report it |
| 2 | a mistake in the command, the recipe or the data, printed in one line |
| 130 | stopped by Ctrl-C; the printed line says how to continue |
"""
_WORDS = {str: "text", int: "whole number", float: "number", bool: "", Path: "path"}


def reference_page() -> str:
    """The page in Markdown: a section for every command, in the order of `zephyr --help`."""
    return "\n".join([COMMANDS_INTRODUCTION, *_sections(command_line(), "zephyr", level=2)])


def _sections(group: Typer, words: str, *, level: int) -> Iterator[str]:
    """The commands of a group, then the groups in it."""
    mark = "#" * level
    for command in group.registered_commands:
        assert isinstance(command.callback, FunctionType)
        name = command.name or command.callback.__name__.replace("_", "-")
        yield f"{mark} {words} {name}\n\n" + "\n".join(_section(f"{words} {name}", command.callback))
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        about = inner.typer_instance.info
        yield f"{mark} {words} {about.name}\n\n{about.help}\n"
        yield from _sections(inner.typer_instance, f"{words} {about.name}", level=level + 1)


def _section(words: str, function: FunctionType) -> Iterator[str]:
    hints: dict[str, object] = get_type_hints(function, include_extras=True)
    rows = [_row(name, hints[name], one) for name, one in signature(function).parameters.items()]
    typed = [words, *(row.shown for row in rows if not row.is_option)]
    # As in click, what follows a form feed is for readers of the code.
    yield f"{cleandoc(function.__doc__ or '').partition(chr(12))[0].rstrip()}\n"
    yield f"```text\n{' '.join([*typed, '[OPTIONS]'] if any(row.is_option for row in rows) else typed)}\n```\n"
    if rows:
        yield "| | value | default | |"
        yield "|---|---|---|---|"
        yield from (f"| `{row.shown}` | {row.value} | {row.default} | {row.said} |" for row in rows)
        yield ""


class _Row(NamedTuple):
    """A parameter of a command: how it is written, what it takes, what it is if left out, what it does."""

    shown: str
    is_option: bool
    value: str
    default: str
    said: str


def _row(name: str, hint: object, parameter: Parameter) -> _Row:
    assert get_origin(hint) is Annotated, hint
    plain, *marks = get_args(hint)
    (info,) = (mark for mark in marks if isinstance(mark, OptionInfo | ArgumentInfo))
    shown = _option(name, plain, info) if isinstance(info, OptionInfo) else info.metavar or name
    default: object = parameter.default
    if isinstance(info, ArgumentInfo) and default is not Parameter.empty and not shown.startswith("["):
        shown = f"[{shown}]"
    said = " ".join((info.help or "").split()).replace("|", "\\|")
    return _Row(shown, isinstance(info, OptionInfo), _value(plain, info), _default(default), said)


def _option(name: str, plain: object, info: OptionInfo) -> str:
    """How an option is written."""
    # typer reads the first argument of an annotation's Option(...) as the default.
    given = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    plainly = name.replace("_", "-")
    return ", ".join(given) or (f"--{plainly}/--no-{plainly}" if plain is bool else f"--{plainly}")


def _value(plain: object, info: OptionInfo | ArgumentInfo) -> str:
    repeated = get_origin(plain) is list or any(get_origin(part) is list for part in get_args(plain))
    limits = [f"from {info.min:g}" if info.min is not None else "", f"to {info.max:g}" if info.max is not None else ""]
    # The name of an argument is in the first column.
    is_named = isinstance(info, OptionInfo) and info.metavar is not None
    words = [f"`{info.metavar}`" if is_named else _type(plain), *limits]
    return " ".join(word for word in words if word) + (", may be repeated" if repeated else "")


def _type(plain: object) -> str:
    origin, inner = get_origin(plain), [part for part in get_args(plain) if part is not NoneType]
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, UnionType, list):
        return " or ".join(_type(part) for part in inner)
    return _WORDS[plain] if isinstance(plain, type) else str(plain)


def _default(default: object) -> str:
    if default is Parameter.empty:
        return "required"
    if isinstance(default, bool):
        return "on" if default else ""
    return "" if default in (None, "") else f"`{default}`"


if __name__ == "__main__":
    print(reference_page(), end="")
