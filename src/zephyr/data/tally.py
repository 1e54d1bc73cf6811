"""Rows counted with a few examples that are safe to print: one line, shortened, control characters escaped."""

from dataclasses import dataclass, field
from typing import NamedTuple

from zephyr.records.fields import printable

MOST_EXAMPLES = 5
SHOWN_CHARACTERS = 160


class Example(NamedTuple):
    """A row by its name, and what about it caught the eye."""

    row: str
    text: str


@dataclass
class Tally:
    """How often something was seen, and the first few times."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, row: str, text: str) -> None:
        """Nothing; afterwards one more is counted, and kept as an example if there is room."""
        self.count += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(Example(shortened(row), shortened(text)))


def shortened(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """`text` on one line of at most `limit` characters, with everything escaped that a terminal could obey."""
    # A long text is cut before it is walked through; escapes lengthen it, so it is cut again after.
    escaped = printable(" ".join(text[: 8 * limit].split()))
    return escaped if len(escaped) <= limit and len(text) <= 8 * limit else escaped[: limit - 1].rstrip() + "…"
