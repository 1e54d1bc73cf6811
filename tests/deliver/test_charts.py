"""The pictures: points where they belong, round ticks, and nothing drawn of nothing."""

import math
import re

import pytest

from zephyr.deliver.charts import Chart, IntervalRow, Series, histogram, interval_chart, line_chart
from zephyr.deliver.rendering import render_html


def drawn(chart: Chart | None) -> str:
    """The chart as the report has it, and nothing else of the report."""
    assert chart is not None
    return render_html("chart.html.j2", {"one": chart})


def corners(picture: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, place.split(","))) for place in line.split()]
        for line in re.findall(r'<polyline[^>]* points="([^"]*)"', picture)
    ]


def test_a_line_goes_from_corner_to_corner():
    """The plot begins 56 from the left and 12 from the top, and ends at 548 and 206."""
    (line,) = corners(drawn(line_chart("loss", [Series("loss", [(0, 1), (5, 3), (10, 2)])], x_label="step")))
    assert line == [(56.0, 206.0), (302.0, 12.0), (548.0, 109.0)]


def test_long_lines_are_thinned_but_keep_their_end():
    (line,) = corners(drawn(line_chart("loss", [Series("loss", [(x, x) for x in range(10_000)])], x_label="step")))
    assert len(line) <= 402
    assert line[-1] == (548.0, 12.0)


def test_numbers_that_cannot_be_drawn_are_left_out():
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]
    (line,) = corners(drawn(line_chart("loss", [Series("loss", points), Series("none", [])], x_label="step")))
    assert len(line) == 2
    assert line_chart("loss", [Series("loss", [(0, math.nan)])], x_label="step") is None


def test_one_point_and_a_flat_line_can_be_drawn():
    assert "<circle" in drawn(line_chart("eval", [Series("eval", [(5, 0.5)])], x_label="step"))
    (line,) = corners(drawn(line_chart("flat", [Series("flat", [(0, 2), (1, 2)])], x_label="step")))
    assert {y for _, y in line} == {109.0}


def test_a_histogram_counts_shares_of_each_group():
    """Of 1, 1, 1, 4 three quarters lie in the first bin of width 1, a quarter in the last."""
    (line,) = corners(drawn(histogram("length", [("a", [1, 1, 1, 4]), ("b", [])], x_label="tokens")))
    heights = [round((206 - y) / (206 - 12) * 75) for _, y in line]
    assert heights == [75, 75, 0, 0, 0, 0, 25, 25]
    assert histogram("length", [("a", [])], x_label="tokens") is None


def test_intervals_span_from_low_to_high():
    picture = drawn(interval_chart("scores", [IntervalRow("a<b", 0.5, 0.0, 1.0), IntervalRow("c", 0.25, None, None)]))
    assert 'x1="56.0" x2="548.0"' in picture
    assert "a&lt;b 0.5" in picture
    assert picture.count("<circle") == 2
    assert interval_chart("scores", []) is None


@pytest.mark.parametrize("name", ["<script>", '"quoted"'])
def test_names_are_escaped(name):
    picture = drawn(line_chart(name, [Series(name, [(0, 1), (1, 2)])], x_label=name))
    assert name not in picture
