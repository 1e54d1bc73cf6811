"""The state of a conversation on the page: messages, answers side by side, which model is on which side, votes.

With two models every question is a comparison: the sides are drawn again, the names are shown after the vote, and the
better answer becomes part of both conversations. So every vote is blind, and its two answers have one prompt.
"""

import contextlib
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol

from zephyr.deliver.ui.votes import Choice
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Answer


class Speaks(Protocol):
    """Whatever answers conversations under a name."""

    @property
    def name(self) -> str:
        """What people call it."""

    def answer(self, messages: Sequence[Message], sampling: SamplingSection) -> Generator[str, None, None]:
        """The answer in pieces."""

    def num_tokens(self, text: str) -> int:
        """How many tokens an answer has."""


@dataclass
class Talk:
    """A conversation: the finished turns in `said`, and the newest question with its answers, the left one first."""

    num_models: int
    system: str = ""
    said: list[Message] = field(default_factory=list)
    asked: str = ""
    answers: list[str] = field(default_factory=list)
    sides: list[int] = field(default_factory=list)
    is_writing: bool = False
    is_whole: bool = False
    is_stopped: bool = False
    is_left: bool = False  # the visitor has started another conversation
    choice: Choice | None = None
    seconds: float = 0.0  # that the newest answers took

    @property
    def prompt(self) -> Messages:
        """What the newest answers answer."""
        system = [Message("system", self.system)] if self.system else []
        return (*system, *self.said, Message("user", self.asked))

    @property
    def can_vote(self) -> bool:
        """Whether there are two whole answers, and no vote yet. Nobody can learn from an answer without text."""
        whole = self.num_models == 2 and self.is_whole and all(answer.strip() for answer in self.answers)
        return whole and self.choice is None

    @property
    def can_prefer(self) -> bool:
        """Whether a vote can be anything but a tie."""
        return self.can_vote and self.answers[0] != self.answers[1]

    @property
    def can_ask(self) -> bool:
        """Whether the next question may come: not while one is answered, nor before the vote on its answers."""
        return not self.is_writing and not self.can_vote

    @property
    def can_regenerate(self) -> bool:
        """Whether the newest question may be answered again; after a vote its names are known."""
        return bool(self.asked) and not self.is_writing and self.choice is None

    def ask(self, text: str, system: str) -> None:
        """Take the next question; the answer kept of the last one becomes part of the conversation."""
        self._keep_answer()
        self.asked, self.system = _encodable(text.strip()), _encodable(system.strip())
        # Nobody can guess from earlier draws, as with a seed they could.
        self.sides = random.SystemRandom().sample(range(self.num_models), self.num_models)
        self._begin()

    def regenerate(self, system: str) -> None:
        """Ask the newest question again."""
        self.system = _encodable(system.strip())
        self._begin()

    def write(self, speakers: Sequence[Speaks], sampling: SamplingSection) -> Generator[None, None, None]:
        """Write the answers piece by piece, yielding None after each: in step, so that speed reveals no model."""
        with contextlib.ExitStack() as stack:
            streams = [speakers[side].answer(self.prompt, sampling) for side in self.sides]
            for stream in streams:
                stack.callback(stream.close)
            self.is_writing = True
            stack.callback(self._rest)
            began = time.monotonic()
            for pieces in zip_longest(*streams, fillvalue=""):
                self.answers = [answer + piece for answer, piece in zip(self.answers, pieces, strict=True)]
                self.seconds = time.monotonic() - began
                yield
                if self.is_stopped:
                    return
            self.is_whole = True

    def judged(self, speakers: Sequence[Speaks]) -> tuple[Answer, Answer]:
        """The two answers with the names of who wrote them, the left one first."""
        left, right = (Answer(text, speakers[side].name) for text, side in zip(self.answers, self.sides, strict=True))
        return left, right

    def _begin(self) -> None:
        self.answers = [""] * self.num_models
        self.is_whole = self.is_stopped = False
        self.choice = None
        self.seconds = 0.0

    def _rest(self) -> None:
        self.is_writing = False

    def _keep_answer(self) -> None:
        """Of two that were called equal the left one, which chance has put there; a question without an answer goes."""
        kept = self.answers[1 if self.choice == "right" else 0] if self.answers else ""
        is_undecided = self.num_models == 2 and self.choice is None
        if kept.strip() and not is_undecided:
            self.said += [Message("user", self.asked), Message("assistant", kept)]
        self.asked, self.answers = "", []


def _encodable(text: str) -> str:
    """The text without what no file can hold: halves of characters."""
    return text.encode("utf-8", "replace").decode()
