"""How verdicts of comparisons are read, ours and the published judges' marks; no reply raises an error.

A verdict of our own wording is the last line and the only one of its form. The published readings are those of FastChat
and AlpacaEval, so that published numbers can be compared with, but for what is no verdict: a number off the scale, or
a mark that the judge repeats from a text that it was shown.
"""

import ast
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from zephyr.judging.parsing import lines_with_word
from zephyr.judging.questions import VERDICT_LINE

Winner = Literal["first", "second", "tie"]

_WINNERS: Mapping[str, Winner] = {"a": "first", "b": "second", "tie": "tie"}
_VERDICTS = re.compile(f"^{VERDICT_LINE}(.*)$", re.IGNORECASE | re.MULTILINE)
_VERDICT = re.compile(VERDICT_LINE, re.IGNORECASE)
_VERDICT_MARKUP = " \t\r\n*_`[]()\"'."

_PUBLISHED_SCORE = re.compile(r"\[\[(\d{1,6}\.?\d{0,6})\]\]")
# In single brackets stand sources and lists too: a mark ends its line.
_PUBLISHED_SCORE_IN_ONE_BRACKET = re.compile(r"\[(\d{1,6}\.?\d{0,6})\](?=[\s*_.]*$)", re.MULTILINE)
_PUBLISHED_LOWEST, _PUBLISHED_HIGHEST = 1.0, 10.0
_PUBLISHED_MARKS: Mapping[str, Winner] = {"[[A]]": "first", "[[B]]": "second", "[[C]]": "tie"}
_PUBLISHED_MARK = re.compile(r"\[\[[ABC]\]\]")
_MAX_RANKS_CHARACTERS = 10_000
_LARGEST_LOGPROB = 0.001  # that of a probability of 1, rounded


def read_verdict(reply: str, *, word: str = "") -> Winner | None:
    """The winner by the reply's last line; None if it holds no verdict, or another verdict comes before it.

    `word`: what the line must carry to count, see `required_word`.
    """
    if word:
        reply = lines_with_word(reply, word, _VERDICT)
    verdicts = list(_VERDICTS.finditer(reply))
    if len(verdicts) != 1 or reply[verdicts[0].end() :].strip(_VERDICT_MARKUP):
        return None
    return _WINNERS.get(verdicts[0][1].strip(_VERDICT_MARKUP).lower())


def write_verdict(winner: Winner, reason: str, *, word: str = "") -> str:
    """The reply that `read_verdict` reads as this winner; for rule-based judges."""
    said = {"first": "A", "second": "B", "tie": "tie"}[winner]
    quoted = "\n".join(f"> {line}" if _VERDICT.match(line) else line for line in reason.split("\n"))
    return f"{quoted}\n\n{f'{word} ' if word else ''}Verdict: {said}"


def published_score(reply: str, shown: Iterable[str] = (), *, asked: str = "") -> float | None:
    """The first number in double brackets, else the first that ends a line in single ones; None off 1 to 10.

    `shown`: the texts to be rated; `asked`: the whole prompt. A mark in a line of theirs does not count, and where the
    texts hold marks at all, marks of the reply that differ give None.
    Source: FastChat, fastchat/llm_judge/common.py (which writes -1 for None).
    """
    for pattern in (_PUBLISHED_SCORE, _PUBLISHED_SCORE_IN_ONE_BRACKET):
        found = [float(mark) for mark in _own_marks(pattern, reply, tuple(shown), asked)]
        if found:
            return found[0] if _PUBLISHED_LOWEST <= found[0] <= _PUBLISHED_HIGHEST else None
    return None


def published_winner(reply: str, shown: Iterable[str] = (), *, asked: str = "") -> Winner | None:
    """The winner by the first of [[A]], [[B]] and [[C]], in this order, that occurs anywhere in the reply.

    `shown` and `asked` as for `published_score`. Source: FastChat, fastchat/llm_judge/common.py.
    """
    found = _own_marks(_PUBLISHED_MARK, reply, tuple(shown), asked)
    return next((winner for mark, winner in _PUBLISHED_MARKS.items() if mark in found), None)


def _own_marks(pattern: re.Pattern[str], reply: str, shown: Sequence[str], asked: str) -> list[str]:
    """The marks of a reply that neither a text shown to the judge nor its prompt holds in the same line."""
    texts = [text for text in shown if pattern.search(text)]
    asked_lines = {line.strip("> \t\r*_") for line in asked.split("\n")}
    found = []
    for mark in pattern.finditer(reply):
        line = reply[reply.rfind("\n", 0, mark.start()) + 1 : (reply + "\n").find("\n", mark.end())].strip("> \t\r*_")
        if line not in asked_lines and not any(line in text for text in texts):
            found.append(mark[1] if pattern.groups else mark[0])
    return found if not texts or len(set(found)) == 1 else []


def ranked_preference(reply: str, shown: Iterable[str] = ()) -> float | None:
    """1.0 if the list of ranks puts the first output first, 2.0 if second, None if the reply is no such list.

    Nor is one that names a model twice, or repeats a text that the judge was shown.
    Source: AlpacaEval, alpaca_eval/completion_parsers.py, ranking_parser.
    """
    if len(reply) > _MAX_RANKS_CHARACTERS or any(reply.strip() in text for text in shown):
        return None
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            ranks: object = ast.literal_eval(reply.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    entries = [entry for entry in ranks if isinstance(entry, dict)] if isinstance(ranks, list | tuple) else []
    by_model = {name: [one.get("rank") for one in entries if one.get("model") == name] for name in _RANKED}
    if [len(found) for found in by_model.values()] != [1, 1]:
        return None
    (first,), (second,) = by_model.values()
    return {(1, 2): 1.0, (2, 1): 2.0}.get((first, second)) if type(first) is type(second) is int else None


_RANKED = ("model_1", "model_2")


def token_preference(logprobs: Mapping[str, object]) -> float | None:
    """The preference from 1 (first output, "m") to 2 (second, "M") by the log-probs of the reply's one token.

    A missing token has probability 0, as has one whose log-prob is none; None if both are missing.
    Source: AlpacaEval, logprob_parser.
    """
    first, second = (_probability(logprobs.get(name)) for name in ("m", "M"))
    return 2 - first / (first + second) if first + second > 0 else None


def _probability(logprob: object) -> float:
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or not logprob <= _LARGEST_LOGPROB:
        return 0.0
    return math.exp(max(logprob, -1e6))
