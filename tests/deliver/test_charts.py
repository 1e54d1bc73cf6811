"""The pictures: points where they belong, round ticks, and nothing drawn of nothing."""

import math
import re

import pytest

from zephyr.deliver.charts import Chart, IntervalRow, Series, histogram, interval_chart, line_chart, tick_texts
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
    """The plot begins 46 from the left and 18 from the top, and ends at 346 and 174."""
    (line,) = corners(drawn(line_chart("loss", [Series("loss", [(0, 1), (5, 3), (10, 2)])], x_label="step")))
    assert line == [(46.0, 174.0), (196.0, 18.0), (346.0, 96.0)]


def test_long_lines_are_thinned_but_keep_their_end():
    (line,) = corners(drawn(line_chart("loss", [Series("loss", [(x, x) for x in range(10_000)])], x_label="step")))
    assert len(line) <= 402
    assert line[-1] == (346.0, 18.0)


def test_numbers_that_cannot_be_drawn_are_left_out():
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]
    (line,) = corners(drawn(line_chart("loss", [Series("loss", points), Series("none", [])], x_label="step")))
    assert len(line) == 2
    assert line_chart("loss", [Series("loss", [(0, math.nan)])], x_label="step") is None


def test_one_point_and_a_flat_line_can_be_drawn():
    assert "<circle" in drawn(line_chart("eval", [Series("eval", [(5, 0.5)])], x_label="step"))
    (line,) = corners(drawn(line_chart("flat", [Series("flat", [(0, 2), (1, 2)])], x_label="step")))
    assert {y for _, y in line} == {96.0}


def test_a_histogram_counts_shares_of_each_group():
    """Of 1, 1, 1, 4 three quarters lie in the first bin of width 1, a quarter in the last."""
    (line,) = corners(drawn(histogram("length", [("a", [1, 1, 1, 4]), ("b", [])], x_label="tokens")))
    heights = [round((174 - y) / (174 - 18) * 75) for _, y in line]
    assert heights == [75, 75, 0, 0, 0, 0, 25, 25]
    assert histogram("length", [("a", [])], x_label="tokens") is None


def test_intervals_span_from_low_to_high():
    rows = [IntervalRow("a<b", 0.5, 0.0, 1.0), IntervalRow("c", 0.25, None, None)]
    picture = drawn(interval_chart("scores", rows, "{:.0%}".format))
    assert 'x1="8.0" x2="352.0"' in picture
    assert re.findall(r'class="name"[^>]*>([^<]*)<', picture) == ["a&lt;b", "50%", "c", "25%"]
    assert picture.count("<circle") == 2
    assert interval_chart("scores", []) is None


@pytest.mark.parametrize(
    ("ticks", "texts", "power"),
    [
        ([1, 0.95, 0.9], ["1.00", "0.95", "0.90"], ""),
        ([0.0002, 0.0004], ["2", "4"], "\N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT FOUR}"),
        ([-340, -320], ["-340", "-320"], ""),
        ([0, 10_000], ["0", "10,000"], ""),
        ([0], ["0"], ""),
        ([], [], ""),
    ],
)
def test_ticks_have_as_many_decimals_and_are_short(ticks, texts, power):
    assert tick_texts(ticks) == (texts, power)


@pytest.mark.parametrize("name", ["<script>", '"quoted"'])
def test_names_are_escaped(name):
    picture = drawn(line_chart(name, [Series(name, [(0, 1), (1, 2)])], x_label=name))
    assert name not in picture
