"""The page of commands names what the commands take, and what the pages tell people to type can be typed."""

import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from zephyr.cli.command_reference import reference_page
from zephyr.cli.main import command_line

APP = command_line()
SECTION = re.compile(r"^#{2,3} zephyr ([\w -]+)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"^(?: {4})?(?:.*\| |torchrun .*-m )?(zephyr(?:\.cli)? \w.*)$", re.MULTILINE)
# Where a page stands for something to be filled in, or quotes what a command prints.
NO_COMMAND = ("COMMAND", "...")


def test_the_page_is_the_one_that_is_printed(repository):
    page = (repository / "docs" / "commands.md").read_text()
    assert page == reference_page(), "print it anew: python -m zephyr.cli.command_reference > docs/commands.md"


def test_every_option_in_the_help_of_a_command_is_on_its_page_and_no_other():
    sections = {words: text for words, text in SECTION.findall(reference_page()) if "```text" in text}
    assert len(sections) >= 22
    for words, text in sections.items():
        done = CliRunner().invoke(APP, [*words.split(), "--help"], env={"COLUMNS": "400", "TERM": "dumb"})
        assert done.exit_code == 0
        cells = re.findall(r"[│|] [* ]*(--[\w,-]+)", done.output)
        shown = {name for cell in cells for name in cell.split(",")} - {"--help"}
        told = {name for cell in re.findall(r"(?m)^\| `([^`]+)`", text) for name in re.findall(r"--[\w-]+", cell)}
        negated = {name for name in told if name.startswith(("--no-", "--one-"))}
        assert told - negated == shown, words


def commands_of(page):
    """The lines of a page that run zephyr, those that go on joined, each once."""
    return list(dict.fromkeys(TYPED.findall(page.replace("\\\n", " "))))


def pages(repository):
    """README and every page but that of this reference, and that of mistakes."""
    every = [repository / "README.md", *sorted((repository / "docs").rglob("*.md"))]
    return [page for page in every if page.name not in ("commands.md", "mistakes.md")]


def test_every_command_in_the_pages_parses(repository):
    group = typer.main.get_command(APP)
    wrong, seen = [], 0
    for path in pages(repository):
        for line in commands_of(path.read_text()):
            if any(mark in line for mark in NO_COMMAND):
                continue
            words = shlex.split(line, comments=True)[1:]
            words = words[: next((at for at, word in enumerate(words) if word in ("<", ">", "2>&1", "|", "&")), None)]
            seen += 1
            problem = fault(group, words)
            if problem:
                wrong.append(f"{path.relative_to(repository)}: {line}: {problem}")
    assert not wrong, "\n".join(wrong)
    assert seen > 40


def fault(command, words):
    """What is wrong with a command line, which is parsed and not run; empty if nothing is."""
    context = None
    try:
        context = command.make_context("zephyr", list(words))
        while hasattr(command, "commands"):
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, list(rest), parent=context)
    except Exception as error:  # noqa: BLE001 - the classes of usage errors move between versions of typer
        return str(error) or type(error).__name__
    return ""


@pytest.mark.parametrize("words", [["run"], ["run", "x.yaml", "--ofline"], ["recipes", "cpy", "x", "."], ["judge"]])
def test_a_line_that_cannot_be_typed_is_found(words):
    assert fault(typer.main.get_command(APP), words)
