"""Training rows from rated answers: pairs, ranked lists, or labelled completions.

Every random choice depends on the seed and the prompt alone, so that rows do not depend on the order of prompts.
Nothing is left out silently: a prompt is used or dropped for a reason, and so is an answer.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from zephyr.data.ratings import mean_rating, repair_overall_score
from zephyr.errors import DataError, NothingToPreferError, did_you_mean
from zephyr.judging import ASPECTS, OVERALL
from zephyr.recipe.feedback_section import BinarizeSection
from zephyr.records.rows import Answer, Preference, Rated, prompt_id
from zephyr.teachers.protocol import seed_for


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


_Group = Sequence[_Scored]


def gather(rows: Iterable[Rated]) -> list[Rated]:
    """The rows with all answers to equal prompts merged, at the place of the first."""
    by_prompt: dict[str, list[Rated]] = {}
    for row in rows:
        by_prompt.setdefault(prompt_id(row.prompt), []).append(row)
    return [
        group[0]._replace(answers=tuple(answer for row in group for answer in row.answers))
        for group in by_prompt.values()
    ]


def binarize(rows: Iterable[Rated], section: BinarizeSection, *, seed: int = 0) -> Binarized:
    """Training rows of every prompt that has answers rated differently enough.

    Raises DataError where answers are to be chosen by an aspect of a user's own that none of them is rated by.
    Zephyr chose by the overall score and drew the rejected answer from the rest: arXiv 2310.16944, section 4.1
    """
    rule = rule_of(section, seed)
    rated = {OVERALL, "mean", *ASPECTS}
    made: list[Preference] = []
    dropped: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    prompts = 0
    for row in rows:
        prompts += 1
        rated.update(aspect for answer in row.answers for aspect in answer.ratings)
        scored = _scored(row.answers, section, left_out)
        # Shuffled first, so that sorting, which is stable, leaves equal ratings in random order.
        random.Random(seed_for(seed, "binarize", prompt_id(row.prompt))).shuffle(scored)
        groups = OUTPUTS[section.output](scored, section)
        made += [_preference(row, group, rule) for group in groups]
        if not groups:
            dropped[_why_dropped(scored, section)] += 1
    if section.chosen not in rated:
        what = f"no answer has a rating of {section.chosen!r}"
        raise DataError("chosen", what, did_you_mean(section.chosen, rated).removeprefix("; "))
    return Binarized(tuple(made), rule, prompts, prompts - dropped.total(), dropped, left_out)


def rule_of(section: BinarizeSection, seed: int) -> str:
    """The settings that make a row, on one line, to be recorded in every row."""
    parts = [section.output, f"chosen={section.chosen}"]
    if section.output == "kto":
        parts.append(f"threshold={section.kto_threshold:g}")
    else:
        parts += [f"min_gap={section.min_gap:g}", f"ties={section.ties}"]
    if section.output == "pairs":
        parts += [f"rejected={section.rejected}", f"max_pairs={section.max_pairs_per_prompt}"]
    if section.chosen == "overall":
        parts.append(f"repair_overall={'yes' if section.repair_overall else 'no'}")
    return " ".join([*parts, f"seed={seed}"])


def repair_where_published(section: BinarizeSection, shapes: Collection[str]) -> BinarizeSection:
    """The section, with `repair_overall` only for rows in UltraFeedback's own format, which alone have the fault."""
    return section.model_copy(update={"repair_overall": section.repair_overall and "ultrafeedback" in shapes})


def nothing_made(made: Binarized, where: str, output: str, remedy: str) -> NothingToPreferError:
    """The error for ratings of which no row can be made, with the reasons."""
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in made.dropped.items())
    return NothingToPreferError(where, f"no {output} can be made of {made.prompts:,} prompts ({reasons})", remedy)


def _scored(answers: Sequence[Answer], section: BinarizeSection, left_out: Counter[str]) -> list[_Scored]:
    """The answers that can take part; of equal texts the first that is rated."""
    kept: dict[str, _Scored] = {}
    for answer in answers:
        value = _value(answer, section)
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


def _value(answer: Answer, section: BinarizeSection) -> float | str:
    """The number an answer is chosen by, or why it has none."""
    if section.chosen == "mean":
        value = mean_rating(answer.ratings.values())
    elif section.chosen != "overall":
        value = answer.ratings.get(section.chosen)
    elif section.repair_overall and mean_rating(answer.ratings.values()) is not None:
        value, needs_judge = repair_overall_score(answer.score, answer.ratings.values())
        if needs_judge:
            return "answer with an overall 10 in doubt"
    else:
        value = answer.score
    return value if value is not None and math.isfinite(value) else "answer without a score"


def _pairs(scored: Sequence[_Scored], section: BinarizeSection) -> list[_Group]:
    """The best answer with each of the rejected ones."""
    if not scored:
        return []
    best, *others = sorted(scored, key=lambda one: -one.value)
    eligible = [other for other in others if _is_lower(other, best, section)]
    rejected = REJECTED[section.rejected](eligible, scored)[: section.max_pairs_per_prompt]
    return [(best, other) for other in rejected]


def _is_lower(other: _Scored, best: _Scored, section: BinarizeSection) -> bool:
    gap = best.value - other.value
    return gap >= section.min_gap and (gap > 0 or section.ties == "keep")


# The order in which eligible answers are rejected, given them best first, and all answers in random order.
REJECTED: dict[str, Callable[[list[_Scored], Sequence[_Scored]], list[_Scored]]] = {
    "random": lambda eligible, shuffled: [one for one in shuffled if one in eligible],
    "worst": lambda eligible, _: eligible[::-1],
    "next": lambda eligible, _: eligible,
}


def _list(scored: Sequence[_Scored], section: BinarizeSection) -> list[_Group]:
    """All answers, best first, each low enough below the one before it."""
    kept: list[_Scored] = []
    for one in sorted(scored, key=lambda one: -one.value):
        if not kept or _is_lower(one, kept[-1], section):
            kept.append(one)
    return [kept] if len(kept) > 1 else []


def _labels(scored: Sequence[_Scored], section: BinarizeSection) -> list[_Group]:
    """Every answer in a row of its own, rated 1 if it is good enough and else 0."""
    return [(one._replace(value=float(one.value >= section.kto_threshold)),) for one in scored]


# The answers of every row of a prompt, best first.
OUTPUTS: dict[str, Callable[[Sequence[_Scored], BinarizeSection], list[_Group]]] = {
    "pairs": _pairs,
    "listwise": _list,
    "kto": _labels,
}


def _preference(row: Rated, best_first: _Group, rule: str) -> Preference:
    texts = tuple(one.answer.text for one in best_first)
    models = tuple(one.answer.model for one in best_first)
    ratings = tuple(one.value for one in best_first)
    thoughts = tuple(one.answer.reasoning for one in best_first)
    made = Preference(row.name, row.prompt, texts, ratings, row.source, models if any(models) else (), rule)
    return made._replace(reasoning=thoughts) if any(thoughts) else made


def _why_dropped(scored: Sequence[_Scored], section: BinarizeSection) -> str:
    if section.output == "kto":
        return "prompt without a rated answer"
    if len(scored) < 2:
        return "prompt with fewer than two rated answers"
    gap = max(one.value for one in scored) - min(one.value for one in scored)
    return "prompt with all ratings equal" if gap == 0 else "prompt with all gaps below min_gap"
