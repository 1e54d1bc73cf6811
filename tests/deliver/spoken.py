"""Speakers that say what a test tells them to, piece by piece."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message, Messages


@dataclass
class Scripted:
    """Answers with the pieces that `script` makes of the conversation; what it was asked stands in `heard`."""

    name: str
    script: Callable[[Messages], Sequence[str]]
    heard: list[tuple[Messages, SamplingSection]] = field(default_factory=list)
    closed: int = 0

    def answer(self, messages: Sequence[Message], sampling: SamplingSection) -> Generator[str, None, None]:
        """The pieces."""
        self.heard.append((tuple(messages), sampling))
        try:
            yield from self.script(tuple(messages))
        finally:
            self.closed += 1

    def num_tokens(self, text: str) -> int:
        """A token a word."""
        return len(text.split())
