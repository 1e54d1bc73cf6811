"""How reliable a judge is, measured: consistency, biases, missing ratings, agreement with labels.

Every item is rated three times: in the given order, with its answers swapped, and in the given order with other seeds.
A verdict says which of the two answers got the better ratings. Intervals of shares are Wilson's, the others are
bootstrapped over items. Swapping answers to find position bias: arXiv 2306.05685.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zephyr.data.ratings import mean_rating
from zephyr.feedback.audit_items import EQUAL, FIRST_BETTER, SECOND_BETTER, AuditItem
from zephyr.feedback.judge import JudgedRow, Order, judge, wordings_of
from zephyr.intervals import bootstrap_interval, wilson
from zephyr.judging import OVERALL
from zephyr.recipe.feedback_section import JudgingSection
from zephyr.records.rows import Answer
from zephyr.teachers.protocol import Teacher

_Floats = NDArray[np.float64]
By = Literal["aspects", "overall"]  # the mean over aspects, or the overall score
_VERDICTS = (FIRST_BETTER, EQUAL, SECOND_BETTER)


class Measure(NamedTuple):
    """One line of an audit: a value with its 95 % interval; None where it is undefined.

    `num_items` counts the items that have the verdicts it needs.
    """

    name: str
    by: str
    value: float | None
    low: float | None
    high: float | None
    num_items: int


@dataclass
class Audit:
    """The result of an audit. `counts` are the judge's over all rounds, `sets` the number of items per set."""

    measures: list[Measure]
    counts: Counter[str]
    sets: Counter[str]


class _Rounds(NamedTuple):
    given: list[JudgedRow]
    swapped: list[JudgedRow]  # only the aspects: the overall score is asked about one answer at a time
    repeated: list[JudgedRow]


class _Columns(NamedTuple):
    """The items as columns; verdicts are NaN where ratings are missing."""

    given: _Floats
    swapped: _Floats
    repeated: _Floats
    labels: _Floats
    doublings: _Floats  # how many times longer the first answer is, as a power of two
    questions: _Floats
    failed: _Floats


def audit_judge(
    items: Sequence[AuditItem],
    teacher: Teacher,
    section: JudgingSection,
    *,
    seed: int = 0,
    on_item: Callable[[], None] = lambda: None,
) -> Audit:
    """The measures of a judge over labelled items. `on_item` is called after every item of every round."""
    rounds = _rounds(items, teacher, section, seed, on_item)
    counts: Counter[str] = Counter()
    for one in (*rounds.given, *rounds.swapped, *rounds.repeated):
        counts += one.counts
    measures: list[Measure] = []
    sets = [item.row.source for item in items]
    for by in _deciders(section):
        columns = _columns(items, rounds, by)
        measures += _measures_of(columns, by, seed)
        if len(set(sets)) > 1:
            measures += _by_set(columns, sets, by, seed)
    measures += _between_people(items, seed)
    return Audit(measures, counts, Counter(sets))


def num_rounds(section: JudgingSection) -> int:
    """How often every item is rated: the overall score, of one answer at a time, is not asked with answers swapped."""
    return 3 if _aspects(section) else 2


def _rounds(
    items: Sequence[AuditItem], teacher: Teacher, section: JudgingSection, seed: int, on_item: Callable[[], None]
) -> _Rounds:
    def judged(section: JudgingSection, seed: int, order: Order = "given") -> list[JudgedRow]:
        found = []
        for one in judge([item.row for item in items], teacher, section, seed=seed, order=order):
            on_item()
            found.append(one)
        return found

    swapped = judged(section, seed, "reversed") if _aspects(section) else []
    return _Rounds(judged(section, seed), swapped, judged(section, seed + 1))


def _aspects(section: JudgingSection) -> list[str]:
    return [aspect for aspect in wordings_of(section) if aspect != OVERALL]


def _deciders(section: JudgingSection) -> list[By]:
    deciders: list[By] = ["aspects"] if _aspects(section) else []
    return [*deciders, "overall"] if OVERALL in wordings_of(section) else deciders


def verdict(first: Answer, second: Answer, by: By) -> int | None:
    """Which answer has the better overall score, or mean over the aspects both have; None if a score is missing."""
    if by == "overall":
        scores = first.score, second.score
    else:
        common = [
            aspect
            for aspect, rating in first.ratings.items()
            if rating is not None and second.ratings.get(aspect) is not None
        ]
        one, other = ([answer.ratings[aspect] for aspect in common] for answer in (first, second))
        scores = mean_rating(one), mean_rating(other)
    if scores[0] is None or scores[1] is None:
        return None
    return FIRST_BETTER if scores[0] > scores[1] else SECOND_BETTER if scores[0] < scores[1] else EQUAL


def _columns(items: Sequence[AuditItem], rounds: _Rounds, by: By) -> _Columns:
    def verdicts(judged: Sequence[JudgedRow]) -> _Floats:
        found = [verdict(one.rated.answers[0], one.rated.answers[1], by) for one in judged]
        return np.array([np.nan if one is None else one for one in found], dtype=np.float64)

    every = [*zip(*(found for found in rounds if found), strict=True)]
    calls = [
        [call for one in row for call in one.calls if (call.aspect == OVERALL) == (by == "overall")] for row in every
    ]
    lengths = [[len(answer.text) + 1 for answer in item.row.answers] for item in items]
    return _Columns(
        given=verdicts(rounds.given),
        swapped=verdicts(rounds.swapped) if by != "overall" else np.full(len(items), np.nan),
        repeated=verdicts(rounds.repeated),
        labels=np.array([item.label for item in items], dtype=np.float64),
        doublings=np.array([np.log2(first / second) for first, second in lengths], dtype=np.float64),
        questions=np.array([len(some) for some in calls], dtype=np.float64),
        failed=np.array([sum(not call.ratings for call in some) for some in calls], dtype=np.float64),
    )


def _measures_of(columns: _Columns, by: By, seed: int) -> list[Measure]:
    shares = [_share(name, by, holds(columns)) for name, holds in SHARES.items()]
    missing = float(columns.failed.sum() / max(columns.questions.sum(), 1))
    # The questions about one item fail together, so items are what is counted.
    shares.append(Measure("missing ratings", by, missing, *_wilson(missing, len(columns.failed)), len(columns.failed)))
    others = [_statistic(name, by, columns, value, seed) for name, value in STATISTICS.items()]
    return [measure for measure in [*shares, *others] if by != "overall" or measure.name not in _OF_ORDER]


def _by_set(columns: _Columns, sets: Sequence[str], by: By, seed: int) -> list[Measure]:
    measures = []
    for name in dict.fromkeys(sets):
        chosen = np.array([one == name for one in sets])
        part = _Columns(*(column[chosen] for column in columns))
        measures.append(_statistic(f"kappa, {name}", by, part, _kappa_with_labels, seed))
    return measures


def _between_people(items: Sequence[AuditItem], seed: int) -> list[Measure]:
    """How well annotators agree with each other: what can be expected of a judge."""
    voted = [item.labels for item in items if len(item.labels) > 1]
    if not voted or len({len(labels) for labels in voted}) > 1:
        return []
    votes = np.array(voted, dtype=np.float64)

    def agreement(rows: _Floats) -> float:
        pairs = [(one, other) for other in range(rows.shape[1]) for one in range(other)]
        return float(np.mean([cohens_kappa(rows[:, one], rows[:, other]) for one, other in pairs]))

    low, high = bootstrap_interval(lambda index: agreement(votes[index]), len(votes), seed=seed) or (None, None)
    return [Measure("kappa between annotators", "people", agreement(votes), low, high, len(votes))]


def _same(one: _Floats, other: _Floats) -> _Floats:
    """1 where both are the same, 0 where not, NaN where one is missing."""
    return np.where(np.isnan(one) | np.isnan(other), np.nan, one == other)


def _position_bias(columns: _Columns) -> float:
    """How much more often the text shown first wins than the one shown last."""
    known = ~np.isnan(columns.given) & ~np.isnan(columns.swapped)
    return float(np.mean(columns.given[known] - columns.swapped[known]) / 2) if known.any() else np.nan


def _slope(verdicts: _Floats, doublings: _Floats) -> float:
    """By how much a verdict (from -1 to 1) rises if an answer is twice as long: least squares."""
    known = ~np.isnan(verdicts)
    lengths, won = doublings[known], verdicts[known]
    if len(lengths) < 2 or np.ptp(lengths) == 0:
        return np.nan
    centred = lengths - lengths.mean()
    return float(centred @ (won - won.mean()) / (centred @ centred))


def _kappa_with_labels(columns: _Columns) -> float:
    known = ~np.isnan(columns.given)
    return cohens_kappa(columns.given[known], columns.labels[known])


def cohens_kappa(one: _Floats, other: _Floats) -> float:
    """Agreement of two judges beyond chance: 1 is perfect, 0 what chance gives; NaN if chance alone agrees fully.

    Cohen, A Coefficient of Agreement for Nominal Scales, 1960
    """
    if not len(one):
        return np.nan
    observed = float(np.mean(one == other))
    expected = sum(float(np.mean(one == kind) * np.mean(other == kind)) for kind in _VERDICTS)
    return (observed - expected) / (1 - expected) if expected < 1 else np.nan


# True or false for every item; the measure is the share of true ones.
SHARES: Mapping[str, Callable[[_Columns], _Floats]] = {
    "same verdict when swapped": lambda columns: _same(columns.given, columns.swapped),
    "same verdict when repeated": lambda columns: _same(columns.given, columns.repeated),
    "ties": lambda columns: _same(columns.given, np.zeros(len(columns.given))),
    "agreement with labels": lambda columns: _same(columns.given, columns.labels),
}
# Measures that are defined over all items together.
STATISTICS: Mapping[str, Callable[[_Columns], float]] = {
    "position bias (first shown)": _position_bias,
    "length slope of the judge": lambda columns: _slope(columns.given, columns.doublings),
    "length slope of the labels": lambda columns: _slope(columns.labels, columns.doublings),
    "kappa with labels": _kappa_with_labels,
}
_OF_ORDER = {"same verdict when swapped", "position bias (first shown)"}


def _share(name: str, by: By, holds: _Floats) -> Measure:
    known = holds[~np.isnan(holds)]
    share = float(known.mean()) if len(known) else None
    return Measure(name, by, share, *_wilson(share, len(known)), len(known))


def _wilson(share: float | None, num_items: int) -> tuple[float | None, float | None]:
    """Wilson's interval of a share; unlike the bootstrap's it has a width where all items agree."""
    if share is None or not num_items:
        return None, None
    found = wilson(share * num_items, num_items)
    return found.low, found.high


def _statistic(name: str, by: By, columns: _Columns, value: Callable[[_Columns], float], seed: int) -> Measure:
    num_items = len(columns.labels)
    interval = bootstrap_interval(
        lambda index: value(_Columns(*(column[index] for column in columns))), num_items, seed=seed
    )
    low, high = interval or (None, None)
    num_known = int(np.sum(~np.isnan(columns.given)))
    return Measure(name, by, _known(value(columns)), low, high, num_known)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
