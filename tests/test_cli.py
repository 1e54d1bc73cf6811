import subprocess
import sys

import pytest
import torch

from zephyr import __version__, cli
from zephyr.errors import ModelError


@pytest.fixture
def failing_verb(monkeypatch):
    """A verb that a user got wrong, for as long as the test runs."""

    def load() -> None:
        raise ModelError("tiny-model", "no weights, got \x1b[31mred", "download it first")

    monkeypatch.setattr(cli.app, "registered_commands", [*cli.app.registered_commands])
    cli.app.command("load")(load)


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


def test_unknown_verb_ends_with_two(capsys):
    assert run("lode") == 2
    assert "No such command" in capsys.readouterr().err


def test_environment_names_versions_and_devices(capsys):
    assert run("env") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["zephyr"] == __version__
    assert rows["torch"] == torch.__version__
    assert int(rows["cores"]) >= 1
    assert rows["memory"].endswith("GiB free")
    assert "device" in rows


def test_accelerators_are_named(monkeypatch):
    class Backend:
        @staticmethod
        def get_device_name(index: int) -> str:
            return f"Card {index}"

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda device: Backend)
    assert cli.list_devices()[1:] == ["cuda:0, Card 0", "cuda:1, Card 1"]


def test_missing_package_is_said():
    assert cli.installed_version("no-such-package-anywhere") == "not installed"


def test_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "zephyr.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"zephyr {__version__}\n"
