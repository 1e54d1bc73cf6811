"""The page on judges of your own keeps its word: its commands run, its table comes out, its recipe is sound."""

import re
import shlex

import pytest
import yaml

from tests.mini import mini_fields
from zephyr.cli import main as cli
from zephyr.recipe.schema import Recipe


@pytest.fixture
def blocks(repository):
    """The fenced blocks of the page, by language."""
    page = (repository / "docs" / "how-to" / "own-judge.md").read_text()
    found: dict[str, list[str]] = {}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        found.setdefault(language, []).append(text)
    return found


def test_its_commands_run_and_print_its_table(blocks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    first, audit, _ = blocks["sh"]
    for line in (first + audit).splitlines():
        with pytest.raises(SystemExit) as stop:
            cli.main(shlex.split(line)[1:])
        assert not stop.value.code
    assert (tmp_path / "pairs.jsonl").stat().st_size
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    (table,) = blocks["text"]
    for line in table.splitlines():
        if "aspects" in line:
            assert line.split() in shown


def test_its_recipes_are_sound(blocks, tmp_path):
    mixed, asked = (Recipe.model_validate(mini_fields(tmp_path) | yaml.safe_load(text)) for text in blocks["yaml"])
    assert mixed.feedback.recorded
    assert mixed.feedback.prompts
    assert asked.feedback.candidates.teachers[0].model == "big-model"
