"""Small charts for the report: where lines, dots and labels stand. `chart.html.j2` draws them as inline SVG.

Colours are numbers of the page's variables, so that one chart serves light, dark and paper; dashes tell lines apart
without colour. Every chart has a title and a summary for screen readers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Three charts beside each other on a desk, or one on a phone, are about as wide: letters keep their size.
WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 18, 36
_ROW_HEIGHT = 44
_DASHES = ("", "7 4", "2 3", "9 3 2 3")
_NUM_COLOURS = 4
_MOST_POINTS = 400
# Of a line with so few points every one is marked.
_MARKED_POINTS = 25
_SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


class Series(NamedTuple):
    """A line: its name, and its points from left to right; `is_sparse`: each of few points is a measurement."""

    name: str
    points: Sequence[tuple[float, float]]
    is_sparse: bool = False


class IntervalRow(NamedTuple):
    """A value with the ends of its interval, and its name; rows of one colour belong together."""

    name: str
    value: float
    low: float | None
    high: float | None
    colour: int = 0


class Rule(NamedTuple):
    """A straight line between two places; of no colour: one of the grid."""

    x1: str
    x2: str
    y1: str
    y2: str
    colour: int | None = None


class Label(NamedTuple):
    """A text at a place, which is its `anchor`: start, middle or end; `role`: name, for what stands out."""

    x: str
    y: str
    anchor: str
    text: str
    role: str = ""


class Curve(NamedTuple):
    """A line through points as SVG writes them; `area`: the outline of what is filled below it."""

    colour: int
    dashes: str
    points: str
    area: str = ""


class Dot(NamedTuple):
    """A filled circle."""

    colour: int
    x: str
    y: str
    radius: int


@dataclass(frozen=True)
class Chart:
    """All that is drawn of a chart. `legend`: names with the colour and the dashes of their curves."""

    title: str
    summary: str
    rules: Sequence[Rule]
    labels: Sequence[Label]
    curves: Sequence[Curve] = ()
    dots: Sequence[Dot] = ()
    legend: Sequence[tuple[str, int, str]] = ()
    width: int = WIDTH
    height: int = HEIGHT


class _Frame(NamedTuple):
    """The ends of both axes."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.bottom) / (self.top - self.bottom) * (HEIGHT - _TOP - _BOTTOM)


def line_chart(title: str, series: Sequence[Series], *, x_label: str) -> Chart | None:
    """The lines in one chart with a legend below; None where none has a finite point."""
    drawn = [one._replace(points=_finite(one.points)) for one in series]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return None
    xs, ys = zip(*(point for one in drawn for point in one.points), strict=True)
    frame = _framed(min(xs), max(xs), min(ys), max(ys))
    summary = "; ".join(f"{one.name} from {one.points[0][1]:.3g} to {one.points[-1][1]:.3g}" for one in drawn)
    named = [one._replace(name=f"{one.name} {one.points[-1][1]:.3g}") for one in drawn]
    return _chart_of(title, summary, named, frame, x_label)


def histogram(title: str, groups: Sequence[tuple[str, Sequence[int]]], *, x_label: str, bins: int = 24) -> Chart | None:
    """The distribution of each group's values, in % of the group, outlined one above the other; None without values."""
    drawn = [(name, values) for name, values in groups if values]
    if not drawn:
        return None
    low = min(min(values) for _, values in drawn)
    high = max(max(values) for _, values in drawn) + 1
    width = max(1, math.ceil((high - low) / bins))
    steps = []
    for name, values in drawn:
        counts = [0] * math.ceil((high - low) / width)
        for value in values:
            counts[(value - low) // width] += 1
        shares = [100 * count / len(values) for count in counts]
        edges = [(float(low + width * (i + side)), share) for i, share in enumerate(shares) for side in (0, 1)]
        steps.append(Series(f"{name}: median {sorted(values)[len(values) // 2]:,}, n {len(values):,}", edges))
    tallest = max(share for one in steps for _, share in one.points)
    frame = _framed(low, low + width * math.ceil((high - low) / width), 0.0, tallest)
    summary = "; ".join(one.name for one in steps)
    return _chart_of(title, summary, steps, frame, f"{x_label} (share in %)", fill=True)


def interval_chart(
    title: str, rows: Sequence[IntervalRow], shown: Callable[[float], str] = "{:.4g}".format
) -> Chart | None:
    """A row for every value: a dot, and a line over its interval; from 0 to the largest. None without finite values.

    `shown` writes a value.
    """
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None and math.isfinite(end)]
    if not ends:
        return None
    frame = _framed(min(0.0, *ends), max(*ends, 0.0), 0.0, 1.0)
    height = _ROW_HEIGHT * len(rows) + 30

    def x(value: float) -> str:
        return f"{8 + (value - frame.left) / (frame.right - frame.left) * (WIDTH - 16):.1f}"

    rules, labels, dots = [], [], []
    for tick in _ticks(frame.left, frame.right):
        rules.append(Rule(x(tick), x(tick), "4", str(height - 24)))
        labels.append(Label(x(tick), str(height - 8), _anchor(float(x(tick))), shown(tick)))
    for number, row in enumerate(rows):
        top, colour = _ROW_HEIGHT * number + 18, row.colour % _NUM_COLOURS
        labels += [
            Label("8", str(top), "start", row.name, "name"),
            Label(str(WIDTH - 8), str(top), "end", shown(row.value), "name"),
        ]
        y = str(top + 14)
        if row.low is not None and row.high is not None:
            rules.append(Rule(x(row.low), x(row.high), y, y, colour))
        dots.append(Dot(colour, x(row.value), y, 5))
    summary = "; ".join(f"{row.name} {shown(row.value)}" for row in rows)
    return Chart(title, summary, rules, labels, dots=dots, height=height)


def _chart_of(
    title: str, summary: str, series: Sequence[Series], frame: _Frame, x_label: str, *, fill: bool = False
) -> Chart:
    curves, dots = [], []
    for number, one in enumerate(series):
        places = [(frame.x(x), frame.y(y)) for x, y in one.points]
        if len(places) == 1 or (one.is_sparse and len(places) <= _MARKED_POINTS):
            dots += [Dot(number % _NUM_COLOURS, f"{x:.1f}", f"{y:.1f}", 3) for x, y in places]
        if len(places) == 1:
            continue
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        floor = frame.y(frame.bottom)
        area = f"{places[0][0]:.1f},{floor:.1f} {points} {places[-1][0]:.1f},{floor:.1f}" if fill else ""
        curves.append(Curve(number % _NUM_COLOURS, _DASHES[number % len(_DASHES)], points, area))
    legend = [(one.name, number % _NUM_COLOURS, _DASHES[number % len(_DASHES)]) for number, one in enumerate(series)]
    rules = [
        Rule(str(_LEFT), str(WIDTH - _RIGHT), f"{frame.y(tick):.1f}", f"{frame.y(tick):.1f}")
        for tick in _ticks(frame.bottom, frame.top)
    ]
    return Chart(title, summary, rules, list(_axis_labels(frame, x_label)), curves, dots, legend)


def _axis_labels(frame: _Frame, x_label: str) -> Iterator[Label]:
    ticks = _ticks(frame.bottom, frame.top)
    texts, power = tick_texts(ticks)
    for tick, text in zip(ticks, texts, strict=True):
        yield Label(str(_LEFT - 6), f"{frame.y(tick) + 4:.1f}", "end", text)
    if power:
        yield Label("2", "11", "start", power)
    ticks = _ticks(frame.left, frame.right)
    for tick, text in zip(ticks, tick_texts(ticks)[0], strict=True):
        yield Label(f"{frame.x(tick):.1f}", str(HEIGHT - _BOTTOM + 16), _anchor(frame.x(tick)), text)
    yield Label(str(WIDTH - _RIGHT), str(HEIGHT - 4), "end", x_label)


def tick_texts(ticks: Sequence[float]) -> tuple[list[str], str]:
    """The texts of an axis's ticks, all with as many decimals, and the power of ten that they stand for, if any."""
    largest = max(map(abs, ticks), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest else 0
    if -3 < exponent < 6:
        exponent = 0
    steps = [round(tick / 10.0**exponent, 9) for tick in ticks]
    decimals = next((count for count in range(6) if all(abs(one - round(one, count)) < 1e-9 for one in steps)), 6)
    power = f"\N{MULTIPLICATION SIGN}10{str(exponent).translate(_SUPERSCRIPTS)}" if exponent else ""
    return [f"{one:,.{decimals}f}" for one in steps], power


def _anchor(place: float) -> str:
    """How a text at a place must be laid so that it does not leave the chart."""
    return "start" if place < 16 else "end" if place > WIDTH - 16 else "middle"


def _framed(left: float, right: float, bottom: float, top: float) -> _Frame:
    """The axes' ends, widened where nothing lies between them."""
    if left == right:
        left, right = left - 1.0, right + 1.0
    if bottom == top:
        bottom, top = bottom - 0.5, top + 0.5
    return _Frame(left, right, bottom, top)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, about five."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The finite points, thinned to as many as the eye can tell apart; the last one stays."""
    there = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    stride = max(1, math.ceil(len(there) / _MOST_POINTS))
    thinned = there[::stride]
    return thinned if not there or thinned[-1] == there[-1] else [*thinned, there[-1]]
