"""A person's ratings of answers, kept row by row: what is still to do, what was saved, how far two annotators agree.

The ratings go to one file, which `binarize` reads and a later start goes on with; the best and the worst answer of
each row go as a pair to a file beside it, which `align` reads.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zephyr.atomic import append_line, replace_text
from zephyr.errors import DataError
from zephyr.feedback.audit import cohens_kappa
from zephyr.feedback.binarize import binarize
from zephyr.intervals import Estimate, bootstrap_interval, bootstrap_mean
from zephyr.recipe.feedback_section import BinarizeSection
from zephyr.records.fields import printable
from zephyr.records.rows import Rated, Record, prompt_id
from zephyr.records.writing import to_fields

MOST_ANSWERS = 9
MOST_SCORE = 9
SOURCE = "zephyr annotate"
_PAIRS = BinarizeSection(output="pairs", rejected="worst")
_RowKey = tuple[str, frozenset[str]]


class Agreement(NamedTuple):
    """How far two annotators agree on which of two answers is better; ties are a verdict too.

    `kappa` is Cohen's, None where both gave one and the same verdict throughout.
    """

    share: Estimate
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    pairs: int


@dataclass
class Annotations:
    """The rows of a file with what one person has said of them, and the file that holds it.

    `shown` has for each row the order in which its answers are shown, drawn by chance; `scores` what was given to each
    answer, in the order of the row, None where nothing was.
    """

    rows: Sequence[Rated]
    path: Path
    shown: list[list[int]] = field(default_factory=list)
    scores: list[list[float] | None] = field(default_factory=list)

    @property
    def pairs_path(self) -> Path:
        """The file of the pairs."""
        return self.path.with_name(f"{self.path.stem}.pairs{self.path.suffix}")

    @property
    def num_done(self) -> int:
        """How many rows have been annotated."""
        return sum(scores is not None for scores in self.scores)

    @property
    def preferred(self) -> Iterator[bool]:
        """Of each row that has been annotated, whether the file itself rates two of its answers."""
        for row, scores in zip(self.rows, self.scores, strict=True):
            if scores is not None:
                yield len(_scores(row)) > 1

    def save(self, index: int, scores: Sequence[float]) -> None:
        """Keep the scores of a row, given in the order shown; on the disk when this returns.

        Raises ValueError for scores that do not fit the row, OSError where they cannot be written.
        """
        if not 0 <= index < len(self.rows):
            raise ValueError(f"there is no row {index + 1}")
        shown = self.shown[index]
        if len(scores) != len(shown) or not all(1 <= score <= MOST_SCORE for score in scores):
            raise ValueError(f"{len(shown)} scores from 1 to {MOST_SCORE} are needed")
        before = self.scores[index]
        by_place = dict(zip(shown, scores, strict=True))
        self.scores[index] = [by_place[place] for place in range(len(shown))]
        try:
            if before is None:
                self._append(index)
            else:
                self.rewrite()
        except OSError:
            self.scores[index] = before
            raise

    def _append(self, index: int) -> None:
        append_line(self.path, _line(self._rated(index)))
        for pair in self._pairs([index]):
            append_line(self.pairs_path, pair)

    def rewrite(self) -> None:
        """Write both files anew, each complete at any time. Raises OSError."""
        done = [index for index, scores in enumerate(self.scores) if scores is not None]
        replace_text(self.path, "".join(f"{_line(self._rated(index))}\n" for index in done))
        replace_text(self.pairs_path, "".join(f"{pair}\n" for pair in self._pairs(done)))

    def _rated(self, index: int) -> Rated:
        scores = self.scores[index]
        assert scores is not None
        row = self.rows[index]
        answers = tuple(
            answer._replace(score=score, ratings={}, rationale="")
            for answer, score in zip(row.answers, scores, strict=True)
        )
        return row._replace(answers=answers, source=SOURCE)

    def _pairs(self, indices: Iterable[int]) -> list[str]:
        made = binarize([self._rated(index) for index in indices], _PAIRS)
        return [_line(pair) for pair in made.rows]


def begin(rows: Sequence[Rated], path: Path, saved: Sequence[Rated]) -> Annotations:
    """The annotations of the rows, with those that are saved in `path` already.

    Raises DataError where a row cannot be annotated, or `path` holds rows that are not among them.
    """
    if not rows:
        raise DataError(printable(path.name), "would stay empty: there is no row to annotate", "name other rows")
    for row in rows:
        if len(row.answers) > MOST_ANSWERS:
            what = f"has {len(row.answers)} answers, but at most {MOST_ANSWERS} can be compared"
            raise DataError(row.name, what, "leave the row out, or some of its answers")
    places: dict[_RowKey, list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(_key(row), []).append(index)
    found = Annotations(rows, path)
    # Nobody can guess from earlier draws, as with a seed they could.
    draw = random.SystemRandom()
    found.shown = [draw.sample(range(len(row.answers)), len(row.answers)) for row in rows]
    found.scores = [None] * len(rows)
    for row in saved:
        free = places.get(_key(row), [])
        scores = {answer.text: answer.score for answer in row.answers}
        if not free or None in scores.values():
            raise DataError(row.name, "holds no annotation of these rows", "name another --out")
        index = free.pop(0)
        found.scores[index] = [float(scores[answer.text] or 0) for answer in rows[index].answers]
    return found


def agreement_of(one: Sequence[Rated], other: Sequence[Rated], *, seed: int = 0) -> Agreement:
    """How far two annotations agree, over all pairs of answers of the rows that both have.

    Raises DataError where they share no pair. Intervals are over rows, of which each may have several pairs.
    """
    theirs = {_key(row): row for row in other}
    verdicts = []
    for number, row in enumerate(one):
        scores, others = (_scores(found) for found in (row, theirs.get(_key(row))))
        texts = sorted(scores.keys() & others.keys())
        for place, first in enumerate(texts):
            for second in texts[place + 1 :]:
                mine = np.sign(scores[first] - scores[second])
                verdicts.append((number, mine, np.sign(others[first] - others[second])))
    if not verdicts:
        where = printable(one[0].name.partition(" row ")[0]) if one else "--agreement"
        raise DataError(where, "shares no rated answers with the other file", "name two annotations of the same rows")
    array = np.array(verdicts, dtype=np.float64)
    groups, mine, yours = array[:, 0].astype(int), array[:, 1], array[:, 2]
    rows = [np.flatnonzero(groups == group) for group in np.unique(groups)]

    def kappa_of(drawn: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> float:
        chosen = np.concatenate([rows[index] for index in drawn])
        return cohens_kappa(mine[chosen], yours[chosen])

    kappa = cohens_kappa(mine, yours)
    low, high = bootstrap_interval(kappa_of, len(rows), seed=seed) or (None, None)
    share = bootstrap_mean([float(same) for same in mine == yours], seed=seed, groups=[int(one) for one in groups])
    return Agreement(share, None if np.isnan(kappa) else kappa, low, high, len(array))


def _scores(row: Rated | None) -> dict[str, float]:
    answers = row.answers if row is not None else ()
    return {answer.text: answer.score for answer in answers if answer.score is not None}


def _key(row: Rated) -> _RowKey:
    return prompt_id(row.prompt), frozenset(answer.text for answer in row.answers)


def _line(record: Record) -> str:
    return json.dumps(to_fields(record), ensure_ascii=False, allow_nan=False)
