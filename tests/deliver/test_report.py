"""The report: everything is on the page, nothing of a run can write HTML into it, and it asks nobody for anything."""

import copy
import json
import re
from html.parser import HTMLParser

import pytest

from tests.deliver.small_run import RECIPE, write_run
from zephyr.deliver.report import OutsideResults, report_of
from zephyr.deliver.run_facts import ModelScore
from zephyr.runs.reader import read_run
from zephyr.stages.hand_delivery import write_report

VOID = {"meta", "br", "line", "circle", "polyline", "polygon", "rect"}


class Balanced(HTMLParser):
    """Every tag that opens is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path):
    outside = OutsideResults(
        scores=[ModelScore("dDPO", "mt_bench", "as_published", 7.25, 7.0, 7.5, 160)],
        radars=[("mt_bench", "<svg></svg>")],
        beside=[["mt_bench", "as_published", "7.25", "7.34", "0.2", "agrees"]],
    )
    return report_of(read_run(write_run(tmp_path / "run")), outside=outside)


def test_everything_is_told(page):
    for words in (
        "small", "Learns &lt;b&gt;little&lt;/b&gt;.", "40.0% to 60.0%", "n = 40",
        "1 min 40 s", "dropped: tied", "add", "25%",
        "align, step 10: the margin saturates", "Length of preferred and rejected answers", "rejected: median 4, n 3",
        "rewards/chosen", "eval_loss", "7.00 to 7.50", "160</td>", 'class="radar"', "agrees",
        "zephyr-7b-beta", "-4.5221",         "judge: big-judge (endpoint)",
    ):  # fmt: skip
        assert words in page, words


def test_what_models_say_is_text(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\x1b[2Jgone" in page


def test_names_from_outside_are_text(tmp_path):
    """Of prompts, models, benchmarks, radars' titles and the recipe, in texts and in attributes."""
    mark = '"><script>x</script>\x1b[2J'
    recipe = copy.deepcopy(RECIPE) | {"description": mark}
    folder = write_run(tmp_path / "run", recipe=recipe)
    (path,) = folder.glob("evaluate-*/samples.json")
    path.write_text(json.dumps([{"prompt": f"one\n{mark}", "answers": {mark: mark}}]))
    scores = [ModelScore(model, mark, mark, 0.5) for model in (mark, "other")]
    outside = OutsideResults(scores=scores, radars=[(mark, "<svg></svg>")], beside=[[mark] * 6], deviations=[mark])
    page = report_of(read_run(folder), outside=outside)
    assert "<script" not in page
    assert "\x1b" not in page
    assert 'class="prompt said">one\n&#34;&gt;&lt;script&gt;x&lt;/script&gt;\\x1b[2J</h3>' in page
    assert page.count("&#34;&gt;&lt;script&gt;") >= 14


def test_the_page_is_whole_and_loads_nothing(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    names = {name for name, _ in parser.attributes}
    assert not names & {"src", "srcset", "style", "onload", "action"}
    assert all(value.startswith("#") for name, value in parser.attributes if name == "href")
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import", page)


def test_links_lead_to_sections(page):
    wanted = set(re.findall(r'href="#([^"]+)"', page))
    assert wanted == set(re.findall(r'section id="([^"]+)"', page))
    assert {"scores", "pipeline", "training", "beside-the-published-run"} <= wanted


def test_a_run_that_is_not_finished_has_a_report_of_what_there_is(tmp_path):
    folder = write_run(tmp_path / "run")
    for stage in ("align-aaaaaaaaaa", "evaluate-eeeeeeeeee"):
        (folder / stage / "stage.json").unlink()
    page = report_of(read_run(folder))
    assert "feedback" in page
    assert "<h2>Scores" not in page
    assert "<h2>Training" not in page


def test_rounds_are_a_table_and_a_chart_before_the_best_round(tmp_path):
    folder = tmp_path / "rounds"
    write_run(folder / "small-1")
    rounds = [{"folder": "small-1", "scores": {"world": 0.5}, "drift": {"prompts": 9, "words": 12.5}}]
    summary = {"start": {"scores": {"world": 0.25}}, "rounds": rounds, "best": "small-1"}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.index('<section id="rounds">') < page.index('<section id="scores">')
    assert "small-1 (the best)" in page
    assert re.findall(r'<td class="number">(12.5|0.25|0.5)</td>', page)[:3] == ["0.25", "12.5", "0.5"]
    assert "world from 0.25 to 0.5" in page
