"""Defects of preference data, per row and overall, found before training.

Checks: scores that contradict their ratings or rationale, UltraFeedback's 10s that were 1s, ties, equal and nearly
equal answers, preferred refusals, empty and failed answers, repeated prompts, and overlap with evaluation sets or with
another split. The scanner only reports: filters drop rows, and the feedback stage repairs scores.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from zephyr.data.filters.near_duplicates import jaccard, normalized, shingles_of
from zephyr.data.filters.ngrams import words
from zephyr.data.filters.refusals import find_refusal
from zephyr.data.filters.report import Tally, short_line
from zephyr.data.filters.row_filter import all_texts
from zephyr.data.ratings import FAULTY_SCORE, mean_rating, repair_overall_score, stated_rating, tone_of
from zephyr.intervals import Estimate, wilson
from zephyr.records.fields import Json
from zephyr.records.messages import Messages
from zephyr.records.rows import Answer, Preference, Rated

if TYPE_CHECKING:
    from zephyr.data.filters.decontamination import BenchmarkIndex

BEST_SCORE = 10.0
BEST_RATING = 5.0
# As fractions of the way from the worst to the best score, for any scale.
FAR_APART = 0.5
HIGH = 0.75
LOW = 0.25
NEARLY_EQUAL = 0.9
_NGRAM = 3
_FAILED = frozenset(
    {"error", "$error$", "[error]", "<error>", "none", "null", "nan", "undefined", "api error", "timeout"}
    | {"no response", "internal server error", "rate limit exceeded", "failed to get response from the api."}
)
LENGTH_WARNING = 0.6
LINE_CHARACTERS = 150


@dataclass
class Finding:
    """How many rows or answers have one defect."""

    meaning: str
    unit: str
    of: int = 0
    tally: Tally = field(default_factory=Tally)

    def line(self) -> str:
        """One line with count, share and an example."""
        share = self.tally.count / self.of if self.of else 0.0
        example = f"; {self.tally.examples[0].row}: {self.tally.examples[0].text}" if self.tally.examples else ""
        return short_line(
            f"{self.meaning}: {self.tally.count:,} of {self.of:,} {self.unit} ({share:.1%}){example}", LINE_CHARACTERS
        )

    def to_fields(self) -> dict[str, Json]:
        """The finding as JSON has it."""
        examples: list[Json] = [{"row": row, "text": text} for row, text in self.tally.examples]
        return {
            "meaning": self.meaning,
            "count": self.tally.count,
            "of": self.of,
            "unit": self.unit,
            "share": self.tally.count / self.of if self.of else 0.0,
            "examples": examples,
        }


@dataclass
class ScanReport:
    """The result of a scan; findings by name, including those with a count of zero."""

    findings: dict[str, Finding]
    rows: int = 0
    answers: int = 0
    longer_wins: Estimate | None = None
    repairs: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A summary of at most 15 lines: the number of rows, each defect found, and the effect of length."""
        lines = [f"{self.rows:,} rows with {self.answers:,} answers scanned"]
        found = [finding for finding in self.findings.values() if finding.tally.count]
        lines += [f"  {finding.line()}" for finding in found]
        if self.repairs.get("score_1") or self.repairs.get("needs_judge"):
            lines.append(
                f"  the published repair would make {self.repairs['score_1']:,} of these 10s a 1, "
                f"ask a judge about {self.repairs['needs_judge']:,} and keep {self.repairs['kept']:,}"
            )
        if self.longer_wins is not None:
            share, low, high, n = self.longer_wins
            warning = ": length alone predicts the preference" if low > LENGTH_WARNING else ""
            lines.append(
                f"  the longer answer is preferred in {share:.1%} ({low:.1%} to {high:.1%}) of {n:,} rows{warning}"
            )
        if not found:
            lines.append("  no defect found")
        return lines

    def to_fields(self) -> dict[str, Json]:
        """The report as JSON has it."""
        fields: dict[str, Json] = {"rows": self.rows, "answers": self.answers}
        fields["findings"] = {name: finding.to_fields() for name, finding in self.findings.items()}
        fields["repairs"] = dict(self.repairs)
        wins = self.longer_wins
        fields["longer_wins"] = (
            None if wins is None else {"share": wins.score, "low": wins.low, "high": wins.high, "n": wins.n}
        )
        return fields


class _Row(NamedTuple):
    """A preference or rated row in one form; a score of None is missing."""

    record: Preference | Rated
    answers: tuple[Answer, ...]
    scores: tuple[float | None, ...]

    @property
    def ranked(self) -> list[tuple[float, str]]:
        """Scores and texts of the answers that have a score, best first."""
        scored = [
            (score, answer.text) for score, answer in zip(self.scores, self.answers, strict=True) if score is not None
        ]
        return sorted(scored, key=lambda item: -item[0])


def scan_preferences(
    records: Iterable[Preference | Rated],
    *,
    benchmarks: "BenchmarkIndex | None" = None,
    other_prompts: Iterable[Messages] | None = None,
) -> ScanReport:
    """The defects of preference data, or of rated answers to make preferences from.

    Overall scores are on a scale of 1 to 10 and aspect ratings on one of 1 to 5, as in UltraFeedback. `other_prompts`
    are those of another split, which these rows should not share.
    """
    others = frozenset(_prompt_key(prompt) for prompt in other_prompts or ())
    checks: dict[str, Callable[[_Row], str | None]] = {**ROW_CHECKS, "repeated_prompt": _RepeatedPrompts().find}
    if benchmarks is not None:
        checks["benchmark_overlap"] = partial(_benchmark_overlap, benchmarks)
    if other_prompts is not None:
        checks["split_overlap"] = lambda row: _text_of(row) if _prompt_key(row.record.prompt) in others else None
    report = ScanReport({name: Finding(MEANINGS[name], "rows") for name in checks})
    report.findings.update({name: Finding(MEANINGS[name], "answers") for name in ANSWER_CHECKS})
    report.findings["one_label"] = Finding(MEANINGS["one_label"], "rows")
    report.repairs = {"score_1": 0, "needs_judge": 0, "kept": 0}
    lengths, labels = _LengthWins(), Counter[str]()
    for record in records:
        row = _row(record)
        report.rows += 1
        report.answers += len(row.answers)
        for name, check in checks.items():
            _note(report.findings[name], record.name, check(row))
        for name, check_answer in ANSWER_CHECKS.items():
            for answer in row.answers:
                _note(report.findings[name], record.name, check_answer(answer))
        _count_repairs(row, report.repairs)
        if isinstance(record, Preference) and len(row.answers) == 1:
            label = "true" if record.ratings[0] > 0 else "false"
            labels[label] += 1
            _note(report.findings["one_label"], record.name, label)
        lengths.add(row)
    if len(labels) != 1 or labels.total() == 1:
        report.findings["one_label"].tally = Tally()
    report.longer_wins = wilson(lengths.wins, lengths.rows) if lengths.rows else None
    return report


def _row(record: Preference | Rated) -> _Row:
    if isinstance(record, Preference):
        answers = tuple(Answer(text) for text in record.completions)
        return _Row(record, answers, record.ratings)
    scores = tuple(
        mean_rating(answer.ratings.values()) if answer.score is None else answer.score for answer in record.answers
    )
    return _Row(record, record.answers, scores)


def _note(finding: Finding, row: str, evidence: str | None) -> None:
    finding.of += 1
    if evidence is not None:
        finding.tally.add(row, evidence)


def _tie(row: _Row) -> str | None:
    ranked = row.ranked
    return f"both {ranked[0][0]:g}" if len(ranked) > 1 and ranked[0][0] == ranked[1][0] else None


def _equal_answers(row: _Row) -> str | None:
    texts = [normalized(answer.text) for answer in row.answers]
    repeated = next((answer.text for place, answer in enumerate(row.answers) if texts[place] in texts[:place]), None)
    return None if repeated is None else repeated.strip() or "both are empty"


def _nearly_equal_answers(row: _Row) -> str | None:
    texts = [answer.text for answer in row.answers]
    shingles = [shingles_of(text, _NGRAM) for text in texts]
    for first, second in combinations(range(len(texts)), 2):
        if normalized(texts[first]) == normalized(texts[second]):
            continue
        similarity = jaccard(shingles[first], shingles[second])
        # Too short for shingles, or different in punctuation alone.
        if similarity >= NEARLY_EQUAL or (words(texts[first]) == words(texts[second]) != []):
            return texts[first]
    return None


def _refusal_preferred(row: _Row) -> str | None:
    ranked = row.ranked
    if not ranked or (len(ranked) == 1 and ranked[0][0] <= 0):
        return None
    fault = find_refusal(ranked[0][1])
    return f"{fault.reason}: {fault.evidence}" if fault else None


def _benchmark_overlap(benchmarks: "BenchmarkIndex", row: _Row) -> str | None:
    overlaps = benchmarks.find(all_texts(row.record))
    return f"{overlaps[0].benchmark}: {overlaps[0].shared}" if overlaps else None


def _failed_answer(answer: Answer) -> str | None:
    text = answer.text.strip()
    if not text:
        return "empty"
    return text if text.casefold().rstrip(".!") in _FAILED else None


def _score_against_ratings(answer: Answer) -> str | None:
    mean = mean_rating(answer.ratings.values())
    if mean is None or answer.score is None:
        return None
    apart = abs(_place(answer.score, BEST_SCORE) - _place(mean, BEST_RATING))
    return f"score {answer.score:g}, mean rating {mean:.2f}" if apart >= FAR_APART else None


def _score_against_rationale(answer: Answer) -> str | None:
    if answer.score is None or not answer.rationale:
        return None
    stated = stated_rating(answer.rationale)
    place = _place(answer.score, BEST_SCORE)
    tone = tone_of(answer.rationale)
    if stated is not None and 1 <= stated <= BEST_SCORE and stated != answer.score:
        return f"score {answer.score:g}, but the rationale says {stated:g}"
    if (place >= HIGH and tone.is_damning) or (place <= LOW and tone.is_praising):
        return f"score {answer.score:g}: {answer.rationale}"
    return None


def _place(score: float, best: float) -> float:
    """The position of a score between the worst, 1, and the best: 0 to 1."""
    return (score - 1) / (best - 1)


def _doubtful_ten(answer: Answer) -> str | None:
    repair = repair_overall_score(answer.score, answer.ratings.values())
    if not answer.ratings or repair.score == answer.score:
        return None
    mean = mean_rating(answer.ratings.values())
    shown = "none" if mean is None else f"{mean:.2f}"
    return f"score 10, mean rating {shown}: {'a judge must decide' if repair.needs_judge else 'becomes 1'}"


def _count_repairs(row: _Row, repairs: dict[str, int]) -> None:
    for answer in row.answers:
        if answer.score == FAULTY_SCORE and answer.ratings:
            repair = repair_overall_score(answer.score, answer.ratings.values())
            outcome = "needs_judge" if repair.needs_judge else "kept" if repair.score == FAULTY_SCORE else "score_1"
            repairs[outcome] += 1


class _RepeatedPrompts:
    """The prompts seen so far, by key."""

    def __init__(self) -> None:
        self._first_of: dict[bytes, str] = {}

    def find(self, row: _Row) -> str | None:
        key = _prompt_key(row.record.prompt)
        first = self._first_of.get(key)
        if first is None:
            self._first_of[key] = row.record.name
        return None if first is None else f"as {first}"


def _text_of(row: _Row) -> str:
    return " ".join(message.content for message in row.record.prompt)


def _prompt_key(prompt: Messages) -> bytes:
    text = "\n".join(normalized(message.content) for message in prompt)
    return blake2b(text.encode(errors="replace"), digest_size=16).digest()


@dataclass
class _LengthWins:
    """How often the longer of two answers with different scores is the better one."""

    wins: float = 0.0
    rows: int = 0

    def add(self, row: _Row) -> None:
        # A row counts once, because its pairs are not independent.
        outcomes = list(_length_outcomes(row.ranked))
        if outcomes:
            self.wins += sum(outcomes) / len(outcomes)
            self.rows += 1


def _length_outcomes(ranked: list[tuple[float, str]]) -> Iterator[float]:
    for (high, better), (low, worse) in combinations(ranked, 2):
        if high > low:
            yield 0.5 if len(better) == len(worse) else float(len(better) > len(worse))


ROW_CHECKS: dict[str, Callable[[_Row], str | None]] = {
    "tie": _tie,
    "equal_answers": _equal_answers,
    "nearly_equal_answers": _nearly_equal_answers,
    "refusal_preferred": _refusal_preferred,
}
ANSWER_CHECKS: dict[str, Callable[[Answer], str | None]] = {
    "failed_answer": _failed_answer,
    "score_against_ratings": _score_against_ratings,
    "score_against_rationale": _score_against_rationale,
    "doubtful_ten": _doubtful_ten,
}
MEANINGS = {
    "tie": "the two best answers have the same score",
    "equal_answers": "two answers are the same",
    "nearly_equal_answers": "two answers are nearly the same",
    "refusal_preferred": "the preferred answer refuses",
    "repeated_prompt": "the prompt is repeated",
    "benchmark_overlap": "overlap with an evaluation set",
    "split_overlap": "the prompt is also in the other split",
    "failed_answer": "empty or failed answer",
    "score_against_ratings": "score far from the mean of its ratings",
    "score_against_rationale": "score contradicts its rationale",
    "doubtful_ten": "score 10 that may be a 1",
    "one_label": "all labels are of one kind",
}
