"""Chat page, annotation page and report have no serious accessibility fault, as axe-core sees it, light and dark."""

import pytest

pytest.importorskip("gradio", reason="no gradio: pip install 'zephyr-align[ui]'")
pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with")
pytest.importorskip("axe_playwright_python", reason="no axe-core: install the dev extra")

from axe_playwright_python.sync_playwright import Axe

from tests.deliver.browsed import CHROMIUM, Served, chromium
from tests.deliver.small_run import write_run
from tests.deliver.spoken import Scripted
from zephyr.deliver.report import report_of
from zephyr.deliver.ui.annotate import AnnotationSetup, annotation_application
from zephyr.deliver.ui.page import PageSetup, application
from zephyr.deliver.ui.votes import VoteFile
from zephyr.feedback.annotation import begin
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, Rated
from zephyr.runs.reader import read_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def faults(browser, url, ready, scheme, width=1280):
    """The serious faults of a page, each with the first element that has it."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
    try:
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector(ready, timeout=60_000)
        found = Axe().run(page).response["violations"]
    finally:
        context.close()
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in SERIOUS]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_report(browser, tmp_path, scheme, width):
    path = tmp_path / "report.html"
    path.write_text(report_of(read_run(write_run(tmp_path / "run"))), encoding="utf-8")
    assert faults(browser, path.as_uri(), "h1", scheme, width) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("mode", ["rank", "rate"])
def test_annotation_page(browser, tmp_path, scheme, mode):
    row = Rated("row 1", (Message("user", "Question?"),), (Answer("yes"), Answer("no")))
    found = begin([row], tmp_path / "mine.jsonl", [])
    served = Served(annotation_application(AnnotationSetup(found, "answers.jsonl", mode, 5), None))
    try:
        assert faults(browser, served.url, ".answer", scheme) == []
    finally:
        served.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("num_models", [1, 2])
def test_chat_page(browser, tmp_path, scheme, num_models):
    speakers = [Scripted(name, lambda said: ["yes"]) for name in ("one", "two")[:num_models]]
    votes = VoteFile(tmp_path / "votes.jsonl") if num_models == 2 else None
    served = Served(application(PageSetup(speakers, SamplingSection(), "", votes, ["Hi?"]), None))
    try:
        assert faults(browser, served.url, "textarea", scheme) == []
    finally:
        served.close()
