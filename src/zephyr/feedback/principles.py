"""Principles: sentences that tell a model what to aim at, and how often each is given for which kind of prompt.

UltraFeedback told every model one of them in its system prompt, so that answers to a prompt differ in more than
the model. The sentences are our own; its shares are published twice, and the two do not agree.
"""

import functools
import json
import random
from collections.abc import Mapping
from importlib import resources
from typing import Literal, NamedTuple

PRINCIPLES_VERSION = "v1"

MixtureName = Literal["readme", "code"]
Shares = Mapping[str, float]

_ANY_SOURCE = ""
_GENERAL = {"helpfulness": 0.6, "truthfulness": 0.2, "honesty": 0.18, "calibration": 0.02}
_HELPFUL = {"helpfulness": 1.0}
_TRUTHFUL = {"truthfulness": 1.0}
_EVENLY = {"truthfulness": 0.5, "honesty": 0.45, "calibration": 0.05}  # honesty gives way one time in ten

# By the source of a prompt; what is not named here is treated as sharegpt and ultrachat are.
# UltraFeedback: arXiv 2310.01377; its README, and src/comparison_data_generation/main.py
MIXTURES: Mapping[MixtureName, Mapping[str, Shares]] = {
    "readme": {
        "evol_instruct": _HELPFUL,
        "false_qa": _TRUTHFUL,
        "truthful_qa": _TRUTHFUL,
        "flan": {"helpfulness": 0.6, "truthfulness": 0.2, "calibration": 0.2},
        _ANY_SOURCE: _GENERAL,
    },
    "code": {
        "evol_instruct": _HELPFUL,
        "false_qa": _EVENLY,
        "truthful_qa": _EVENLY,
        "flan": {"helpfulness": 0.8, "calibration": 0.2},
        _ANY_SOURCE: _GENERAL,
    },
}


class Principle(NamedTuple):
    """A principle by name, and the sentence that tells it."""

    name: str
    sentence: str


@functools.cache
def sentences() -> Mapping[str, tuple[str, ...]]:
    """All sentences, by principle."""
    file = resources.files("zephyr.feedback").joinpath("principle_texts", f"{PRINCIPLES_VERSION}.json")
    by_name: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    return {name: tuple(texts) for name, texts in by_name.items()}


def shares_for(mixture: MixtureName, source: str) -> Shares:
    """How often each principle is given to prompts of a source; flan_v2_cot and the like count as flan."""
    by_source = MIXTURES[mixture]
    named = "flan" if source.startswith("flan") else source
    return by_source.get(named, by_source[_ANY_SOURCE])


def draw_principle(shares: Shares, *, seed: int) -> Principle:
    """A principle drawn by its share, and one of its sentences, all as likely as each other."""
    dice = random.Random(seed)
    names = sorted(shares)
    (name,) = dice.choices(names, [shares[one] for one in names])
    return Principle(name, dice.choice(sentences()[name]))


def told_in_short(sentence: str) -> str:
    """What a judge is told of a sentence: the part before its example, which would steer the verdict's form."""
    return sentence.partition("For instance, ")[0].strip()
