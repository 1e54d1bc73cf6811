"""Nothing that a model, a file or a library reports can steer the terminal."""

import json
import logging
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from zephyr.cli.terminal import escape_reports

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r"


@pytest.fixture
def escaping(monkeypatch):
    """The command's escaping, taken back afterwards."""
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    escape_reports()


def test_log_records_warnings_and_tracebacks_are_escaped(escaping, capsys):
    log = logging.getLogger("somebody.else")
    handler = logging.StreamHandler()
    log.addHandler(handler)
    error = ValueError(HOSTILE)
    log.warning("it says %s", HOSTILE, exc_info=error)
    sys.excepthook(type(error), error, error.__traceback__)
    log.removeHandler(handler)
    written = capsys.readouterr().err + warnings.formatwarning(HOSTILE, UserWarning, "a", 1)
    assert written.count("owned") == 4
    assert all(character.isprintable() or character == "\n" for character in written)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [["chat"], ["serve", "--port", "0"]])
def test_names_of_weights_and_settings_are_escaped(tiny_folder, tmp_path, verb):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {HOSTILE: torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    for change in ({}, {"model_type": HOSTILE}, {"hidden_size": HOSTILE}):
        (folder / "config.json").write_text(json.dumps(config | change))
        command = [sys.executable, "-m", "zephyr", verb[0], str(folder), *verb[1:], "--offline"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            if verb[0] == "serve" and not change:
                head = process.stdout.readline() + process.stdout.readline()
                process.terminate()
                written = head + process.communicate(timeout=60)[0]
            else:
                written = process.communicate(timeout=120)[0]
            assert process.returncode in ((0, 143) if not change else (2,))
        assert "owned" in written.decode()
        assert b"\x1b" not in written
        assert "\x9b" not in written.decode()
