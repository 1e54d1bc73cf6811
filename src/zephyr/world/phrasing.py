"""Ways to put a question: text with slots, which can be filled and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from zephyr.records.messages import Message, Messages

Slots = Mapping[str, str]

# What may stand in a slot of this name; in any other, one word.
_PATTERNS = {
    "a": r"\d+",
    "b": r"\d+",
    "n": r"\d+",
    "words": r"[a-z]+(?:, [a-z]+)+",
    "kind": r"an? [a-z]+",
    "closing": r".+",
}


@dataclass(frozen=True)
class Phrasing:
    """A question, and what the user told in an earlier turn if it is about that, with the reply to the telling."""

    asks: str
    tells: str = ""
    reply: str = ""

    def write(self, slots: Slots) -> Messages:
        """The user's turns with the slots filled, and the reply between them."""
        question = Message("user", self.asks.format_map(slots))
        if not self.tells:
            return (question,)
        told = Message("user", self.tells.format_map(slots))
        return (told, Message("assistant", self.reply.format_map(slots)), question)

    def read(self, messages: Messages) -> dict[str, str] | None:
        """The slots, if the last turn asks this and, where something must have been told, an earlier one told it."""
        asked = self._asking.fullmatch(messages[-1].content)
        if asked is None:
            return None
        slots = asked.groupdict()
        if not self.tells:
            return slots
        earlier = (self._telling.fullmatch(one.content) for one in messages[:-1] if one.role == "user")
        for told in earlier:
            # A word that both turns name must be the same one.
            if told and all(slots.get(name, value) == value for name, value in told.groupdict().items()):
                return slots | told.groupdict()
        return None

    @cached_property
    def _asking(self) -> re.Pattern[str]:
        return _reader(self.asks)

    @cached_property
    def _telling(self) -> re.Pattern[str]:
        return _reader(self.tells)


def _reader(template: str) -> re.Pattern[str]:
    """The pattern of all texts that the template can become."""
    parts = re.split(r"\{(\w+)\}", template)
    seen: set[str] = set()
    pattern = ""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            pattern += re.escape(part)
        elif part in seen:
            pattern += f"(?P={part})"
        else:
            pattern += f"(?P<{part}>{_PATTERNS.get(part, '[A-Za-z]+')})"
            seen.add(part)
    return re.compile(pattern)
