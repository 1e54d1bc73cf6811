"""Principles: sentences that tell a model what to aim at, and how often each is used for which kind of prompt.

UltraFeedback put one of them into every model's system prompt, so that answers to a prompt differ in more than the
model. The sentences are our own; UltraFeedback published its proportions twice, and the two do not agree.
"""

import functools
import json
import random
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

from zephyr.recipe.feedback_section import CandidatesSection, PrincipleName

PRINCIPLES_VERSION = "v1"

PrincipleShares = Mapping[PrincipleName, float]

_ANY_SOURCE = ""
_GENERAL: PrincipleShares = {"helpfulness": 0.6, "truthfulness": 0.2, "honesty": 0.18, "calibration": 0.02}
_HELPFUL: PrincipleShares = {"helpfulness": 1.0}
_TRUTHFUL: PrincipleShares = {"truthfulness": 1.0}
_EVENLY: PrincipleShares = {
    "truthfulness": 0.5,
    "honesty": 0.45,
    "calibration": 0.05,
}  # honesty is replaced one time in ten

# By the source of a prompt; other sources are treated like sharegpt and ultrachat.
# UltraFeedback: arXiv 2310.01377; its README, and src/comparison_data_generation/main.py
MIXTURES: Mapping[str, Mapping[str, PrincipleShares]] = {
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
    """A principle by name, and one sentence that states it."""

    name: str
    sentence: str


@functools.cache
def sentences() -> Mapping[str, tuple[str, ...]]:
    """All sentences, by principle."""
    file = resources.files("zephyr.feedback").joinpath("principle_texts", f"{PRINCIPLES_VERSION}.json")
    by_name: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    return {name: tuple(texts) for name, texts in by_name.items()}


def shares_for(section: CandidatesSection, source: str) -> PrincipleShares | None:
    """How often each principle is used for prompts of a source; None for no principles at all."""
    if section.principle_shares:
        return section.principle_shares
    if section.principles == "none":
        return None
    by_source = MIXTURES[section.principles]
    # flan_v2_cot and the like count as flan.
    return by_source.get("flan" if source.startswith("flan") else source, by_source[_ANY_SOURCE])


def draw_principle(shares: PrincipleShares, *, seed: int) -> Principle:
    """A principle drawn by its share, and one of its sentences, drawn uniformly."""
    rng = random.Random(seed)
    names = sorted(shares)
    (name,) = rng.choices(names, [shares[one] for one in names])
    return Principle(name, rng.choice(sentences()[name]))


def without_example(sentence: str) -> str:
    """The part of a sentence before its example, which would steer the form of a judge's reply."""
    return sentence.partition("For instance, ")[0].strip()
