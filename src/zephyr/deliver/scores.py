"""Scores as readers meet them: grouped, equally written, with gains, and the verdict in a sentence.

What stands here is worked out of recorded scores alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zephyr.deliver.charts import Chart, IntervalRow, interval_chart
from zephyr.deliver.run_facts import ModelScore
from zephyr.intervals import NORMAL_95, Estimate, difference

SHARE_METRICS = ("share of right answers", "rewards accuracy")
_LOWER_IS_BETTER = ("perplexity", "loss", "bits_per_byte")


class ScoreRow(NamedTuple):
    """A model's score as text, its 95 % interval, its gain over the row above with that gain's interval, and n."""

    model: str
    score: str
    interval: str
    gain: str
    n: str


@dataclass(frozen=True)
class ScoreGroup:
    """What was measured in one way, a row a model; a chart where several models were."""

    title: str
    metric: str
    rows: Sequence[ScoreRow]
    chart: Chart | None


class RunVerdict(NamedTuple):
    """The last model's score in a sentence, and what is added to it; `tiles`: label, value and a line below."""

    sentence: str
    rest: Sequence[str]
    tiles: Sequence[tuple[str, str, str]]


def score_groups(scores: Sequence[ModelScore]) -> list[ScoreGroup]:
    """The scores by benchmark and metric, in their order; a colour a model."""
    models = list(dict.fromkeys(score.model for score in scores))
    return [_group(of, models) for of in _grouped(scores)]


def verdict_of(scores: Sequence[ModelScore], last: str) -> RunVerdict:
    """What the scores say of the model `last`, before all against the model that was measured before it."""
    groups = [of for of in _grouped(scores) if of[-1].model == last]
    compared = [of for of in groups if len(of) > 1]
    if not groups:
        return RunVerdict(f"{last} was not measured.", ["No evaluation of this run has a score of it."], ())
    first = (compared or groups)[0]
    now, write = first[-1], writer_of(first)
    measured = f"{now.benchmark} ({now.metric}{_of(now)})"
    tile = ("Score", write(now.value), f"{last}{_of(now)}" + (f"; {_ends(now, write)}" if _ends(now, write) else ""))
    if not compared:
        return RunVerdict(
            f"{last} scores {write(now.value)} on {measured}.", ["Nothing else was measured so."], (tile,)
        )
    before, gain = first[-2], gain_of(first[-1], first[-2])
    words = _gain_words(gain, first)
    sentence = f"{last} scores {write(now.value)} on {measured}: {words} {before.model}."
    others = [f"{one.model} scores {write(one.value)}" for one in reversed(first[:-1])]
    rest = [f"{', '.join(others)}."]
    gains = [found for of in compared if (found := gain_of(of[-1], of[-2])).low < found.high]
    if len(gains) > 1:
        rest.append(_counted(gains, before.model))
    interval = f"over {before.model}" + (f"; 95 % interval {_span(gain, first)}" if gain.low < gain.high else "")
    return RunVerdict(sentence, rest, (("Gain", signed(gain.score, first), interval), tile))


def gain_of(after: ModelScore, before: ModelScore) -> Estimate:
    """The gain with its interval, which has no width where an interval is not known."""
    both = [_estimate(one) for one in (after, before)]
    if None in both:
        gain = after.value - before.value
        return Estimate(gain, gain, gain, 0)
    now, was = (one for one in both if one is not None)
    return difference(now, was)


def writer_of(scores: Sequence[ModelScore]) -> Callable[[float], str]:
    """What writes a value of these scores: all with as many decimals; a share as a percentage."""
    if scores[0].metric in SHARE_METRICS:
        return lambda value: f"{value:.1%}"
    decimals = _decimals(scores)
    return lambda value: f"{value:.{decimals}f}"


def signed(gain: float, scores: Sequence[ModelScore]) -> str:
    """A gain as text; of shares in percentage points."""
    if scores[0].metric in SHARE_METRICS:
        return f"{100 * gain:+.1f} points"
    return f"{gain:+.{_decimals(scores)}f}"


def _group(scores: Sequence[ModelScore], models: Sequence[str]) -> ScoreGroup:
    write, first = writer_of(scores), scores[0]
    rows = []
    for number, one in enumerate(scores):
        gain = gain_of(one, scores[number - 1]) if number else None
        told = "" if gain is None else signed(gain.score, scores)
        told += f" ({_span(gain, scores)})" if gain is not None and gain.low < gain.high else ""
        rows.append(
            ScoreRow(one.model, write(one.value), _ends(one, write), told, "" if one.n is None else f"{one.n:,}")
        )
    drawn = [IntervalRow(one.model, one.value, one.low, one.high, models.index(one.model)) for one in scores]
    chart = interval_chart("with 95 % intervals", drawn, write) if len(scores) > 1 else None
    return ScoreGroup(first.benchmark, first.metric, rows, chart)


def _grouped(scores: Sequence[ModelScore]) -> list[list[ModelScore]]:
    groups: dict[tuple[str, str], list[ModelScore]] = {}
    for score in scores:
        groups.setdefault((score.benchmark, score.metric), []).append(score)
    return list(groups.values())


def _estimate(score: ModelScore) -> Estimate | None:
    low, high = score.low, score.high
    if (low is None or high is None) and score.standard_error is not None:
        low, high = (score.value + sign * NORMAL_95 * score.standard_error for sign in (-1, 1))
    return None if low is None or high is None else Estimate(score.value, low, high, score.n or 0)


def _decimals(scores: Sequence[ModelScore]) -> int:
    largest = max(abs(score.value) for score in scores)
    return 1 if largest >= 10 else 2 if largest >= 1 else 3


def _of(score: ModelScore) -> str:
    return "" if score.n is None else f", n = {score.n:,}"


def _ends(score: ModelScore, write: Callable[[float], str]) -> str:
    estimate = _estimate(score)
    return "" if estimate is None else f"{write(estimate.low)} to {write(estimate.high)}"


def _span(gain: Estimate, scores: Sequence[ModelScore]) -> str:
    """The ends of a gain's interval, without its unit."""
    return " to ".join(signed(end, scores).removesuffix(" points") for end in (gain.low, gain.high))


def _gain_words(gain: Estimate, scores: Sequence[ModelScore]) -> str:
    size = signed(abs(gain.score), scores).removeprefix("+")
    has_interval = gain.low < gain.high
    interval = f" (95 % interval {_span(gain, scores)})" if has_interval else ""
    if has_interval and gain.low <= 0 <= gain.high:
        return f"no clear difference{interval} from"
    more = "more" if gain.score > 0 else "less"
    better = "" if scores[0].metric not in _LOWER_IS_BETTER else ", where less is better"
    return f"{size} {more}{interval}{better} than"


def _counted(gains: Sequence[Estimate], before: str) -> str:
    """How many of the measurements rose or fell by more than chance explains."""
    rose = sum(gain.low > 0 for gain in gains)
    fell = sum(gain.high < 0 for gain in gains)
    parts = list(_parts((rose, "rose"), (fell, "fell"), (len(gains) - rose - fell, "did not clearly change")))
    return f"Of {len(gains)} measurements beside {before}, {', '.join(parts)}."


def _parts(*counts: tuple[int, str]) -> Iterator[str]:
    for count, words in counts:
        if count:
            yield f"{count} {words}"
