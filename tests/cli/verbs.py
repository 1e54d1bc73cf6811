"""Commands run inside the test process, and what they print or write."""

import json

import pytest

from zephyr.cli import main as cli


def zephyr(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


def printed_json(capsys, *words: object) -> dict:
    assert zephyr(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
