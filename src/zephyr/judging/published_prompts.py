"""The published judge prompts of MT-Bench and AlpacaEval, read from the files their authors distribute.

Texts are put in by name in one pass, so a text that itself holds `{answer_a}` stays as it is; unlike our own wording
nothing fences them. Their replies are read in `parsing`.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import DataError
from zephyr.records.messages import PLAIN_ROLES, Message, Messages
from zephyr.records.reading import read_rows

_PLACE = re.compile(r"\{(\w+)\}")
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


class JudgePrompt(NamedTuple):
    """One prompt: the system message, and the question with named places for texts."""

    name: str
    system: str
    template: str

    def messages(self, texts: Mapping[str, str]) -> Messages:
        """The messages with the texts filled in."""
        return (Message("system", self.system), Message("user", _filled(self.template, texts)))


class JudgePrompts(NamedTuple):
    """The prompts of a file by name; `version` names the file's content."""

    version: str
    by_name: Mapping[str, JudgePrompt]


def _filled(template: str, texts: Mapping[str, str]) -> str:
    """The template with every `{name}` of `texts` replaced; other braces stay."""
    return _PLACE.sub(lambda place: texts.get(place[1], place[0]), template)


def read_judge_prompts(path: Path, needed: tuple[str, ...]) -> JudgePrompts:
    """The judge prompts of FastChat's judge_prompts.jsonl. Raises DataError if a needed one is missing."""
    found: dict[str, JudgePrompt] = {}
    for row in read_rows(path):
        name, system, template = (row.fields.get(key) for key in ("name", "system_prompt", "prompt_template"))
        if isinstance(name, str) and isinstance(system, str) and isinstance(template, str):
            found[name] = JudgePrompt(name, system, template)
    absent = [name for name in needed if name not in found]
    if absent:
        remedy = "use FastChat's fastchat/llm_judge/data/judge_prompts.jsonl"
        raise DataError(path.name, f"has no judge prompt '{absent[0]}'", remedy)
    return JudgePrompts(f"{path.name} {_digest(path)}", found)


class TurnsPrompt(NamedTuple):
    """A prompt of AlpacaEval's form: turns between <|im_start|> and <|im_end|>, with named places."""

    version: str
    turns: Messages

    def messages(self, texts: Mapping[str, str]) -> Messages:
        """The messages with the texts filled in."""
        return tuple(Message(turn.role, _filled(turn.content, texts)) for turn in self.turns)


def read_turns_prompt(path: Path) -> TurnsPrompt:
    """The prompt in a text file of AlpacaEval's evaluators_configs. Raises DataError if it compares no two outputs."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), "cannot be read as text", "name one of AlpacaEval's prompt files") from error
    known = {role: role for role in PLAIN_ROLES}
    turns = tuple(Message(known[role], content.strip()) for role, content in _TURN.findall(text) if role in known)
    places = set(_PLACE.findall(text))
    if not turns or not {"instruction", "output_1", "output_2"} <= places:
        what = "is no prompt with <|im_start|> turns and places for {instruction}, {output_1} and {output_2}"
        raise DataError(path.name, what, "name one of AlpacaEval's prompt files")
    return TurnsPrompt(f"{path.name} {_digest(path)}", turns)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
