import errno
import os
import subprocess
import sys

import pytest

from zephyr import __version__
from zephyr.cli import main as cli
from zephyr.errors import ModelError


@pytest.fixture
def add_verb(monkeypatch):
    """A function that adds a command for as long as the test runs."""

    def add(function) -> None:
        app = cli.command_line()
        app.command(function.__name__)(function)
        monkeypatch.setattr(cli, "command_line", lambda _only: app)

    return add


@pytest.fixture
def failing_verb(add_verb):
    """A verb that a user got wrong, for as long as the test runs."""

    def load() -> None:
        raise ModelError("tiny-model", "no weights, got \x1b[31mred", "download it first")

    add_verb(load)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return int(stop.value.code or 0)


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"zephyr {__version__}\n"


def test_mistake_is_one_line_without_traceback_or_terminal_codes(failing_verb, capsys):
    assert run("load") == 2
    printed = capsys.readouterr()
    assert printed.err == "error: tiny-model: no weights, got \\x1b[31mred; download it first\n"
    assert printed.out == ""


@pytest.mark.parametrize("arguments", [("--traceback", "load"), ("load", "--traceback")])
def test_traceback_shows_where_it_came_from(failing_verb, arguments):
    with pytest.raises(ModelError):
        cli.main(arguments)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "(No space left on device); make room, then try again"),
        (errno.EROFS, "(Read-only file system); choose a writable path"),
        (errno.EACCES, "(Permission denied); change its permissions, or choose another path"),
    ],
)
def test_what_a_disk_refuses_is_a_mistake_too(add_verb, capsys, number, remedy):
    def write() -> None:
        raise OSError(number, os.strerror(number), "report.html")

    add_verb(write)
    assert run("write") == 2
    assert capsys.readouterr().err == f"error: report.html: cannot be used {remedy}\n"
    with pytest.raises(OSError, match="report"):
        cli.main(["--traceback", "write"])


def test_what_no_file_is_to_blame_for_keeps_its_traceback(add_verb):
    def lose() -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    add_verb(lose)
    with pytest.raises(OSError, match="allocate"):
        cli.main(["lose"])


def test_unknown_verb_ends_with_two(capsys):
    assert run("lode") == 2
    assert "No such command" in capsys.readouterr().err


def test_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "zephyr", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"zephyr {__version__}\n"
