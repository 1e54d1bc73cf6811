"""A translation under way: old keys are taken, new ones put, and every step is noted."""

import re
from pathlib import Path

from zephyr.recipe.outline import Keys
from zephyr.recipe.problems import Problem, quoted
from zephyr.recipe.section import Plain


class Translation:
    """The old recipe, the stage it is for, and what has been made of it.

    `rendered`: until 2024 the handbook's scripts rendered dialogues to text; since 2025 TRL does.
    `names`: the names of the run and its file, in which people say what it is.
    """

    def __init__(self, old: dict[str, Plain], file: Path) -> None:
        self.old = old
        self.data: dict[str, Plain] = {}
        self.origins: dict[Keys, str] = {}
        self.notes: list[str] = []
        self.problems: list[Problem] = []
        self.stage = ""
        self.rendered = all(old.get(key) is None for key in ("dataset_mixture", "dataset_name", "datasets"))
        words = [str(old.get(key) or "") for key in ("output_dir", "hub_model_id", "run_name")]
        self.names = " ".join([*words, file.parent.name, file.stem]).lower()

    def named(self, words: str) -> bool:
        """Whether one of the words, separated by |, stands in the run's names."""
        return re.search(rf"(?<![a-z])({words})(?![a-z])", self.names) is not None

    def put(self, key: str, value: Plain, old_key: str, why: str = "") -> None:
        """Set a key of the recipe and note it; one that begins with a dot belongs to the stage."""
        keys = tuple((self.stage + key if key.startswith(".") else key).split("."))
        holder = self.data
        for name in keys[:-1]:
            inner = holder.setdefault(name, {})
            assert isinstance(inner, dict), f"{name} of {key} holds a value"
            holder = inner
        holder[keys[-1]] = value
        self.origins[keys] = old_key
        shown = "" if isinstance(value, list | dict) else f" {value}"
        self.notes.append(f"{old_key} -> {'.'.join(keys)}{shown}{f' ({why})' if why else ''}")

    def leave(self, old_key: str, why: str) -> None:
        """Note that an old key, if it is there, is left out."""
        if old_key in self.old:
            self.notes.append(f"{old_key} is left out: {why}")

    def get(self, *names: str) -> Plain:
        """The value of the first of these old keys that has one."""
        return next((self.old[name] for name in names if self.old.get(name) is not None), None)

    def number(self, name: str, default: int) -> int:
        """A whole number of the old recipe."""
        value = self.get(name)
        text = str(default if value is None else value)
        if isinstance(value, bool) or not re.fullmatch("[1-9][0-9]{0,8}", text):
            self.problems.append(Problem((name,), f"must be a whole number above 0{quoted(value)}", "correct it"))
            return default
        return int(text)

    def default_of(self, key: str) -> str:
        """Why a key that is not there has the value it has."""
        return "" if key in self.old else "TRL's default of that time"
