"""Small pictures for the report as inline SVG: lines, histograms, scores with their intervals.

Colours are the page's variables, so that one picture serves light, dark and paper; dashes tell lines apart without
colour. Every picture has a title and a description for those who hear it.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 34
DASHES = ("", "7 4", "2 3", "9 3 2 3")
NUM_COLOURS = 4
MOST_POINTS = 400


class Series(NamedTuple):
    """A line: its name, and its points from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


class Interval(NamedTuple):
    """A value, from where to where it may lie, and what it is called; `colour` numbers what it is of."""

    name: str
    value: float
    low: float | None
    high: float | None
    colour: int = 0


class _Frame(NamedTuple):
    """What of both axes is shown."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.bottom) / (self.top - self.bottom) * (HEIGHT - TOP - BOTTOM)


def line_chart(title: str, series: Sequence[Series], *, x_label: str) -> str:
    """The lines in one picture with a legend below; an empty text where none has a finite point."""
    drawn = [Series(one.name, _finite(one.points)) for one in series]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return ""
    xs, ys = zip(*(point for one in drawn for point in one.points), strict=True)
    frame = _framed(min(xs), max(xs), min(ys), max(ys))
    lines = [_line(one, number, frame) for number, one in enumerate(drawn)]
    said = "; ".join(f"{one.name} from {one.points[0][1]:.4g} to {one.points[-1][1]:.4g}" for one in drawn)
    return _figure(title, said, [*_axes(frame, x_label), *lines], [one.name for one in drawn])


def histogram(title: str, groups: Sequence[tuple[str, Sequence[int]]], *, x_label: str, bins: int = 24) -> str:
    """How often values fall where, as the share of each group, outlined one above the other."""
    drawn = [(name, values) for name, values in groups if values]
    if not drawn:
        return ""
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
    lines = [_line(one, number, frame, fill=True) for number, one in enumerate(steps)]
    said = "; ".join(one.name for one in steps)
    return _figure(title, said, [*_axes(frame, f"{x_label} (share in %)"), *lines], [one.name for one in steps])


def interval_chart(title: str, rows: Sequence[Interval]) -> str:
    """A row for every value: a dot, and a line over its interval; from 0 to the largest."""
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None and math.isfinite(end)]
    if not ends:
        return ""
    low, high = min(0.0, *ends), max(*ends, 0.0)
    frame = _framed(low, high, 0.0, 1.0)
    height = 34 * len(rows) + 30
    parts = []
    for tick in _ticks(frame.left, frame.right):
        x = frame.x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{height - 26}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    for number, row in enumerate(rows):
        y, colour = 34 * number + 24, f"c{row.colour % NUM_COLOURS}"
        if row.low is not None and row.high is not None:
            span = f'x1="{frame.x(row.low):.1f}" x2="{frame.x(row.high):.1f}"'
            parts.append(f'<line class="line {colour}" {span} y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot {colour}" cx="{frame.x(row.value):.1f}" cy="{y}" r="5"/>')
        anchor = "end" if frame.x(row.value) > WIDTH * 0.7 else "start"
        words = f"{escape(row.name)} {row.value:.4g}"
        parts.append(f'<text x="{frame.x(row.value):.1f}" y="{y - 9}" text-anchor="{anchor}">{words}</text>')
    said = "; ".join(f"{row.name} {row.value:.4g}" for row in rows)
    return _figure(title, said, parts, [], height=height)


def _figure(title: str, said: str, parts: Sequence[str], legend: Sequence[str], *, height: int = HEIGHT) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}: {escape(said)}">'
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 28 8" aria-hidden="true"><line class="line c{number % NUM_COLOURS}" '
        f'x1="0" y1="4" x2="28" y2="4" stroke-dasharray="{DASHES[number % len(DASHES)]}"/></svg>{escape(name)}</li>'
        for number, name in enumerate(legend)
    )
    listed = f'<ul class="legend">{keys}</ul>' if keys else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{head}{''.join(parts)}</svg>{listed}</figure>"


def _line(series: Series, number: int, frame: _Frame, *, fill: bool = False) -> str:
    colour, dash = f"c{number % NUM_COLOURS}", DASHES[number % len(DASHES)]
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    if len(places) == 1:
        return f'<circle class="dot {colour}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="4"/>'
    line = f'<polyline class="line {colour}" points="{corners}" stroke-dasharray="{dash}"/>'
    if not fill:
        return line
    floor = frame.y(frame.bottom)
    closed = f"{places[0][0]:.1f},{floor:.1f} {corners} {places[-1][0]:.1f},{floor:.1f}"
    return f'<polygon class="area {colour}" points="{closed}"/>{line}'


def _axes(frame: _Frame, x_label: str) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    for tick in _ticks(frame.bottom, frame.top):
        y = frame.y(tick)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
    for tick in _ticks(frame.left, frame.right):
        yield f'<text x="{frame.x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
    yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>'


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
    """The points that can be drawn, thinned to as many as the eye can tell apart; the last one stays."""
    there = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    stride = max(1, math.ceil(len(there) / MOST_POINTS))
    thinned = there[::stride]
    return thinned if not there or thinned[-1] == there[-1] else [*thinned, there[-1]]
