"""What replies to the published judge prompts say: scores, winners, ranks and one-token preferences.

These are the published readings, kept as they are so that published numbers can be compared with. They take the first
mark in a reply, whoever put it there; our own wording is read more strictly, in `parsing` and `comparing`.
"""

import ast
import math
import re
from collections.abc import Mapping
from typing import Literal

Winner = Literal["first", "second", "tie"]

_SCORE = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_SCORE_IN_ONE_BRACKET = re.compile(r"\[(\d+\.?\d*)\]")
_WINNERS: Mapping[str, Winner] = {"[[A]]": "first", "[[B]]": "second", "[[C]]": "tie"}
_MAX_RANKS_CHARACTERS = 10_000


def published_score(reply: str) -> float | None:
    """The first number in double brackets, else the first in single ones, else None; never held to a scale.

    Source: FastChat, fastchat/llm_judge/common.py (which writes -1 for None).
    """
    found = _SCORE.search(reply) or _SCORE_IN_ONE_BRACKET.search(reply)
    return None if found is None else float(found[1])


def published_winner(reply: str) -> Winner | None:
    """Who won, by the first of [[A]], [[B]] and [[C]], in this order, that stands anywhere in the reply.

    Source: FastChat, fastchat/llm_judge/common.py.
    """
    return next((winner for mark, winner in _WINNERS.items() if mark in reply), None)


def ranked_preference(reply: str) -> float | None:
    """1.0 if the list of ranks puts the first output first, 2.0 if second, None if the reply is no such list.

    Source: AlpacaEval, alpaca_eval/completion_parsers.py, ranking_parser.
    """
    if len(reply) > _MAX_RANKS_CHARACTERS:
        return None
    try:
        ranks: object = ast.literal_eval(reply.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    for entry in ranks if isinstance(ranks, list | tuple) else ():
        if isinstance(entry, dict) and entry.get("model") == "model_1":
            rank = entry.get("rank")
            return float(rank) if isinstance(rank, int) and rank in (1, 2) else None
    return None


def token_preference(logprobs: Mapping[str, float]) -> float | None:
    """The preference from 1 (first output, "m") to 2 (second, "M") by the log-probs of the reply's one token.

    A token that is not among them has probability 0; None if neither is. Source: AlpacaEval, logprob_parser.
    """
    first, second = (math.exp(logprobs[name]) if name in logprobs else 0.0 for name in ("m", "M"))
    return 2 - first / (first + second) if first + second > 0 else None
