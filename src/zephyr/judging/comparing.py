"""Comparisons of two assistants in our own wording: the fenced question, its inverse, and how replies are read.

A verdict counts only as the last line and the only one of its form, so that a quoted text cannot give it.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from zephyr.judging.aspects import RatingQuestion
from zephyr.judging.questions import TEMPLATE_VERSION, fence_word, fenced, template_text
from zephyr.judging.verdicts import Winner
from zephyr.records.messages import ROLES, Message, Messages

_WORDS: Mapping[str, Winner] = {"a": "first", "b": "second", "tie": "tie"}
_HEADER = re.compile(r"Comparing task (\w+)\. Fence word: ([0-9a-f]+)\.\n")
_VERDICT = re.compile(r"^[ \t]{0,8}[*_]{0,2}Verdict[*_]{0,2}[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_MARKUP = " \t\r\n*_`[]()\"'."


class Comparison(NamedTuple):
    """A user's turns, the answers of two assistants to each of them, and reference answers, if there are any.

    `context` was said before the first of the turns, to both alike.
    """

    turns: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    references: tuple[str, ...] = ()
    context: Messages = ()

    def conversation(self, answers: tuple[str, ...]) -> Messages:
        """The dialogue of the assistant with these answers, up to the last user turn."""
        said = [*self.context, Message("user", self.turns[0])]
        for answer, turn in zip(answers, self.turns[1:], strict=False):
            said += [Message("assistant", answer), Message("user", turn)]
        return tuple(said)


def ask_comparison(comparison: Comparison, *, seed: int) -> Messages:
    """The conversation that asks a judge which assistant was better; equal for equal seeds and texts."""
    if not len(comparison.turns) == len(comparison.first) == len(comparison.second) > 0:
        raise ValueError("each assistant needs one answer for every user turn")
    texts = (*comparison.first, *comparison.second, *comparison.references)
    users = tuple(Message("user", turn) for turn in comparison.turns)
    nonce = fence_word(RatingQuestion("comparison", (*comparison.context, *users), texts), seed=seed)
    earlier = [
        fenced(nonce, f"earlier {message.role} {number}", message.content)
        for number, message in enumerate(comparison.context, start=1)
    ]
    fields = {"version": TEMPLATE_VERSION, "fence": nonce}
    user = template_text("comparison.txt").substitute(
        fields,
        turns="\n\n".join([*earlier, _fenced_all(nonce, "user turn", comparison.turns)]),
        first=_fenced_all(nonce, "A answer", comparison.first),
        second=_fenced_all(nonce, "B answer", comparison.second),
        references=_fenced_all(nonce, "reference answer", comparison.references) or "None.",
    )
    return (Message("system", template_text("system.txt").substitute(fields)), Message("user", user))


def read_comparison(messages: Messages) -> Comparison:
    """The comparison that `ask_comparison` put into these messages, to the letter; ValueError if it did not."""
    user = messages[-1].content if messages else ""
    header = _HEADER.match(user)
    if header is None:
        raise ValueError("the messages do not begin with the header of a comparing task")
    nonce = header[2]
    found = re.findall(rf"<<<{nonce} (\w+) (\w+) \d+>>>\n(.*?)\n<<<{nonce} end>>>", user, flags=re.DOTALL)
    turns, first, second, references = (
        tuple(text for kind, _, text in found if kind == wanted) for wanted in ("user", "A", "B", "reference")
    )
    roles = {role: role for role in ROLES}
    context = tuple(Message(roles[role], text) for kind, role, text in found if kind == "earlier")
    return Comparison(turns, first, second, references, context)


def read_verdict(reply: str) -> Winner | None:
    """Who won by the reply's last line; None if no verdict stands there, or another one before it."""
    verdicts = list(_VERDICT.finditer(reply))
    if len(verdicts) != 1 or reply[verdicts[0].end() :].strip(_MARKUP):
        return None
    return _WORDS.get(verdicts[0][1].strip(_MARKUP).lower())


def write_verdict(winner: Winner, reason: str) -> str:
    """The reply that `read_verdict` reads as this winner; for judges that are rules."""
    word = {"first": "A", "second": "B", "tie": "tie"}[winner]
    quoted = "\n".join(f"> {line}" if _VERDICT.match(line) else line for line in reason.split("\n"))
    return f"{quoted}\n\nVerdict: {word}"


def _fenced_all(nonce: str, label: str, texts: tuple[str, ...]) -> str:
    return "\n\n".join(fenced(nonce, f"{label} {number}", text) for number, text in enumerate(texts, start=1))
