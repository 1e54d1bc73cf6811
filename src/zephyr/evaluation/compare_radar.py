"""Scores by category as a radar picture in SVG, as the paper's figure of MT-Bench shows them (arXiv 2310.16944)."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from zephyr.evaluation.results import Result

SIZE = 640
CENTRE = SIZE / 2
RADIUS = 210
NUM_RINGS = 5
# Okabe and Ito's colours, which everybody can distinguish.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("", "8 4", "2 3", "10 3 2 3")


def category_means(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """The mean of every category by task, of the values that are there."""
    values: dict[str, dict[str, list[float]]] = {}
    for item in (item for result in results for item in result.items):
        if item.value is not None:
            values.setdefault(item.task, {}).setdefault(item.category, []).append(item.value)
    return {
        task: {category: math.fsum(of) / len(of) for category, of in by_category.items()}
        for task, by_category in values.items()
    }


def top_of(task: str, series: Mapping[str, Sequence[float | None]]) -> float:
    """The end of the axes: that of the task's scale."""
    highest = max((value for values in series.values() for value in values if value is not None), default=1.0)
    return 10.0 if task == "mt_bench" else next(top for top in (1.0, 10.0, 100.0, highest) if top >= highest)


def radar_svg(title: str, axes: Sequence[str], series: Mapping[str, Sequence[float | None]], *, top: float) -> str:
    """The radar chart: an axis for every category from 0 to `top`, a closed line for every series.

    A missing value leaves a gap in its line. Raises ValueError for fewer than 3 axes, or a series of another length.
    """
    if len(axes) < 3:
        raise ValueError(f"a radar needs 3 axes or more, got {len(axes)}")
    if any(len(values) != len(axes) for values in series.values()):
        raise ValueError("each series needs one value for every axis")
    height = SIZE + 24 * len(series)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {height}" role="img" font-family="sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{SIZE}" height="{height}" fill="white"/>',
        f'<text x="{CENTRE:g}" y="28" text-anchor="middle" font-size="18">{escape(title)}</text>',
        *_grid(axes, top),
    ]
    for number, (name, values) in enumerate(series.items()):
        lines += [*_line(values, number, top), *_legend(name, number)]
    return "\n".join([*lines, "</svg>", ""])


def _grid(axes: Sequence[str], top: float) -> list[str]:
    lines = []
    for ring in range(1, NUM_RINGS + 1):
        corners = " ".join(_place(axis, len(axes), ring / NUM_RINGS) for axis in range(len(axes)))
        lines.append(f'<polygon points="{corners}" fill="none" stroke="#bbbbbb"/>')
        y = CENTRE - RADIUS * ring / NUM_RINGS
        lines.append(f'<text x="{CENTRE + 4:g}" y="{y:.1f}" font-size="11">{top * ring / NUM_RINGS:g}</text>')
    for axis, name in enumerate(axes):
        end = _place(axis, len(axes), 1.0).split(",")
        lines.append(f'<line x1="{CENTRE:g}" y1="{CENTRE:g}" x2="{end[0]}" y2="{end[1]}" stroke="#bbbbbb"/>')
        x, y_text = _place(axis, len(axes), 1.08).split(",")
        # A name stands beside its axis, or above and below the upright ones, and never over the lines.
        side = round(math.sin(2 * math.pi * axis / len(axes)), 3)
        anchor = "middle" if side == 0 else "start" if side > 0 else "end"
        lines.append(f'<text x="{x}" y="{y_text}" text-anchor="{anchor}" font-size="14">{escape(name)}</text>')
    return lines


def _line(values: Sequence[float | None], number: int, top: float) -> list[str]:
    places = [
        None if value is None else _place(axis, len(values), min(max(value / top, 0.0), 1.0))
        for axis, value in enumerate(values)
    ]
    colour, dash = _COLOURS[number % len(_COLOURS)], DASHES[number % len(DASHES)]
    style = f'stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"'
    there = [place for place in places if place is not None]
    dots = [f'<circle cx="{place.split(",")[0]}" cy="{place.split(",")[1]}" r="3" fill="{colour}"/>' for place in there]
    if len(there) == len(places):
        return [f'<polygon points="{" ".join(there)}" fill="{colour}" fill-opacity="0.08" {style}/>', *dots]
    around = zip(places, [*places[1:], places[0]], strict=True)
    pieces = [f'<polyline points="{one} {other}" fill="none" {style}/>' for one, other in around if one and other]
    return [*pieces, *dots]


def _legend(name: str, number: int) -> list[str]:
    y = SIZE + 24 * number
    colour, dash = _COLOURS[number % len(_COLOURS)], DASHES[number % len(DASHES)]
    return [
        f'<line x1="24" y1="{y}" x2="64" y2="{y}" stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"/>',
        f'<text x="74" y="{y + 5}" font-size="14">{escape(name)}</text>',
    ]


def _place(axis: int, num_axes: int, share: float) -> str:
    """The point at this share of the axis as `x,y`; the first axis points up, the others follow clockwise."""
    angle = 2 * math.pi * axis / num_axes
    return f"{CENTRE + RADIUS * share * math.sin(angle):.1f},{CENTRE - RADIUS * share * math.cos(angle):.1f}"
