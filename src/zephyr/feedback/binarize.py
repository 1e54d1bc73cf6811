"""Training rows from rated answers: pairs, ranked lists, or labelled completions.

Every choice of chance is drawn from the seed and the prompt alone, so that rows do not depend on the order of
prompts. Nothing is left out in silence: a prompt is used or dropped for a reason, and so is an answer.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from zephyr.data.overall_score import mean_rating, repair_overall_score
from zephyr.records.rows import Answer, Preference, Rated, prompt_id
from zephyr.teachers.protocol import seed_for

ChosenBy = Literal["overall", "mean", "instruction_following", "honesty", "truthfulness", "helpfulness"]


@dataclass(frozen=True)
class BinarizeSettings:
    """Which answers make a row.

    An answer is eligible to be rejected if it is rated lower than the chosen one, by at least `min_gap`; with
    ties "keep" an equal rating is low enough. Of answers that share the best rating, chance chooses.
    """

    output: Literal["pairs", "listwise", "kto"] = "pairs"
    chosen: ChosenBy = "overall"
    rejected: Literal["random", "worst", "next"] = "random"
    min_gap: float = 0.0
    ties: Literal["drop", "keep"] = "drop"
    max_pairs_per_prompt: int = 1
    kto_threshold: float = 5.0
    repair_overall: bool = True  # UltraFeedback's 10s that were 1s; touches answers with aspect ratings only
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no rule has."""
        if self.chosen not in get_args(ChosenBy) or self.output not in OUTPUTS or self.rejected not in REJECTED:
            raise ValueError(f"no such rule: {self}")
        if not self.min_gap >= 0 or self.max_pairs_per_prompt < 1:
            raise ValueError(f"min_gap must be 0 or more and max_pairs_per_prompt 1 or more: {self}")

    @property
    def rule(self) -> str:
        """The settings on one line, to be recorded in every row."""
        parts = [self.output, f"chosen={self.chosen}"]
        if self.output == "kto":
            parts.append(f"threshold={self.kto_threshold:g}")
        else:
            parts += [f"min_gap={self.min_gap:g}", f"ties={self.ties}"]
        if self.output == "pairs":
            parts += [f"rejected={self.rejected}", f"max_pairs={self.max_pairs_per_prompt}"]
        if self.chosen == "overall":
            parts.append(f"repair_overall={'yes' if self.repair_overall else 'no'}")
        return " ".join([*parts, f"seed={self.seed}"])


class Binarized(NamedTuple):
    """The rows, and the accounts: prompts = used + the sum of dropped."""

    rows: tuple[Preference, ...]
    rule: str  # by which all of the rows were made
    prompts: int
    used: int
    dropped: Counter[str]  # prompts without a row, by reason
    left_out: Counter[str]  # answers that could not take part, by reason


class _Scored(NamedTuple):
    answer: Answer
    value: float


def gather(rows: Iterable[Rated]) -> list[Rated]:
    """The rows with all answers to equal prompts put together, where the prompt came first."""
    by_prompt: dict[str, list[Rated]] = {}
    for row in rows:
        by_prompt.setdefault(prompt_id(row.prompt), []).append(row)
    return [
        group[0]._replace(answers=tuple(answer for row in group for answer in row.answers))
        for group in by_prompt.values()
    ]


def binarize(rows: Iterable[Rated], settings: BinarizeSettings) -> Binarized:
    """Preference rows of every prompt that has answers rated differently enough.

    Zephyr chose by the overall score and drew the rejected one from the rest: arXiv 2310.16944, section 4.1
    """
    made: list[Preference] = []
    dropped: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    prompts = 0
    for row in rows:
        prompts += 1
        scored = _scored(row.answers, settings, left_out)
        # Shuffled first, so that sorting, which is stable, leaves equal ratings in an order of chance.
        random.Random(seed_for(settings.seed, "binarize", prompt_id(row.prompt))).shuffle(scored)
        new = OUTPUTS[settings.output](row, scored, settings)
        made += new
        if not new:
            dropped[_why_dropped(scored, settings)] += 1
    return Binarized(tuple(made), settings.rule, prompts, prompts - dropped.total(), dropped, left_out)


def _scored(answers: Sequence[Answer], settings: BinarizeSettings, left_out: Counter[str]) -> list[_Scored]:
    """The answers that can take part; of equal texts the first that is rated."""
    kept: dict[str, _Scored] = {}
    for answer in answers:
        value = _value(answer, settings)
        text = answer.text.strip()
        if isinstance(value, str):
            left_out[value] += 1
        elif not text:
            left_out["empty answer"] += 1
        elif text in kept:
            left_out["repeated answer"] += 1
        else:
            kept[text] = _Scored(answer, value)
    return list(kept.values())


def _value(answer: Answer, settings: BinarizeSettings) -> float | str:
    """The number an answer is chosen by, or why it has none."""
    if settings.chosen == "mean":
        value = mean_rating(answer.ratings.values())
    elif settings.chosen != "overall":
        value = answer.ratings.get(settings.chosen)
    elif settings.repair_overall and mean_rating(answer.ratings.values()) is not None:
        value, needs_judge = repair_overall_score(answer.score, answer.ratings.values())
        if needs_judge:
            return "answer with an overall 10 in doubt"
    else:
        value = answer.score
    return value if value is not None and math.isfinite(value) else "answer without a score"


def _pairs(row: Rated, scored: Sequence[_Scored], settings: BinarizeSettings) -> list[Preference]:
    if not scored:
        return []
    best, *others = sorted(scored, key=lambda one: -one.value)
    eligible = [other for other in others if _is_lower(other, best, settings)]
    rejected = REJECTED[settings.rejected](eligible, scored)[: settings.max_pairs_per_prompt]
    return [_preference(row, (best, other), settings) for other in rejected]


def _is_lower(other: _Scored, best: _Scored, settings: BinarizeSettings) -> bool:
    gap = best.value - other.value
    return gap >= settings.min_gap and (gap > 0 or settings.ties == "keep")


# How the eligible answers, best first, are ordered before the first ones are taken; with all answers in an order
# of chance.
REJECTED: dict[str, Callable[[list[_Scored], Sequence[_Scored]], list[_Scored]]] = {
    "random": lambda eligible, shuffled: [one for one in shuffled if one in eligible],
    "worst": lambda eligible, _: eligible[::-1],
    "next": lambda eligible, _: eligible,
}


def _list(row: Rated, scored: Sequence[_Scored], settings: BinarizeSettings) -> list[Preference]:
    """All answers, best first, each low enough below the one before it."""
    kept: list[_Scored] = []
    for one in sorted(scored, key=lambda one: -one.value):
        if not kept or _is_lower(one, kept[-1], settings):
            kept.append(one)
    return [_preference(row, kept, settings)] if len(kept) > 1 else []


def _labels(row: Rated, scored: Sequence[_Scored], settings: BinarizeSettings) -> list[Preference]:
    """Every answer as a row, rated 1 if it is good enough and else 0."""
    labelled = [one._replace(value=float(one.value >= settings.kto_threshold)) for one in scored]
    return [_preference(row, (one,), settings) for one in labelled]


OUTPUTS: dict[str, Callable[[Rated, Sequence[_Scored], BinarizeSettings], list[Preference]]] = {
    "pairs": _pairs,
    "listwise": _list,
    "kto": _labels,
}


def _preference(row: Rated, best_first: Sequence[_Scored], settings: BinarizeSettings) -> Preference:
    texts = tuple(one.answer.text for one in best_first)
    models = tuple(one.answer.model for one in best_first)
    ratings = tuple(one.value for one in best_first)
    named = models if any(models) else ()
    return Preference(row.name, row.prompt, texts, ratings, row.source, named, settings.rule)


def _why_dropped(scored: Sequence[_Scored], settings: BinarizeSettings) -> str:
    if settings.output == "kto":
        return "prompt without a rated answer"
    if len(scored) < 2:
        return "prompt with fewer than two rated answers"
    gap = max(one.value for one in scored) - min(one.value for one in scored)
    return "prompt with all ratings equal" if gap == 0 else "prompt with all gaps below min_gap"
