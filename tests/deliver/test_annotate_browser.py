"""The annotation page in a real browser: ranked, rated, tied, changed and gone on with, by keyboard and by touch."""

import json

import pytest

pytest.importorskip("starlette")
pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with")


from tests.deliver.browsed import CHROMIUM, Served, chromium
from zephyr.deliver.ui.annotate import AnnotationSetup, annotation_application
from zephyr.feedback.annotation import begin
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, Rated

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
HOSTILE = "<img src=x onerror=alert(1)>"
PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, tmp_path, request):
    """A function that shows two rows of three answers to be annotated in a mode, and gives page and annotations."""

    def open_it(mode, **options):
        rows = [
            Rated(f"row {n}", (Message("user", f"Question {n}?"),), tuple(Answer(t, f"secret {t}") for t in texts))
            for n, texts in ((1, ("good", "fair", HOSTILE)), (2, ("yes", "no", "maybe")))
        ]
        found = begin(rows, tmp_path / "mine.jsonl", [])
        served = Served(annotation_application(AnnotationSetup(found, "answers.jsonl", mode, 5), None))
        request.addfinalizer(served.close)
        context = browser.new_context(**options)
        request.addfinalizer(context.close)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        page.goto(served.url)
        page.get_by_text("Question 1?").wait_for()
        return page, found

    return open_it


def letter_of(page, text):
    """The letter of the card that shows the text."""
    shown = page.locator(".answer .text").all_inner_texts()
    return "abc"[shown.index(text)]


def scores(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{answer["text"]: answer["score"] for answer in row["answers"]} for row in rows]


def saved(page, number):
    page.get_by_text(f"Row {number} is saved.").wait_for()


def test_answers_are_ranked_by_keys_and_a_row_can_be_changed(open_page):
    page, found = open_page("rank")
    assert "secret" not in page.content()
    for text in ("good", "fair"):
        page.keyboard.press(letter_of(page, text))
    page.keyboard.press("Enter")
    saved(page, 1)
    assert scores(found.path) == [{"good": 3, "fair": 2, HOSTILE: 1}]
    page.get_by_text("Question 2?").wait_for()
    page.keyboard.press(letter_of(page, "no"))
    page.keyboard.press("=")
    page.keyboard.press(letter_of(page, "yes"))
    page.keyboard.press("Enter")
    saved(page, 2)
    page.get_by_text("All rows are done").wait_for()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("Question 2?").wait_for()
    assert page.locator(".place").all_inner_texts().count("place 1") == 2
    page.keyboard.press("Backspace")
    for text in ("maybe", "no"):
        page.keyboard.press(letter_of(page, text))
    page.keyboard.press("Enter")
    page.get_by_text("All rows are done").wait_for()
    assert scores(found.path)[1] == {"yes": 1, "no": 2, "maybe": 3}
    pairs = [json.loads(line) for line in found.pairs_path.read_text().splitlines()]
    assert [row["chosen"][-1]["content"] for row in pairs] == ["good", "maybe"]


def test_answers_are_rated_by_digits(open_page):
    page, found = open_page("rate")
    given = {"good": "5", "fair": "3", HOSTILE: "1"}
    for text in page.locator(".answer .text").all_inner_texts():
        page.keyboard.press(given[text])
    page.keyboard.press("Enter")
    saved(page, 1)
    assert scores(found.path) == [{"good": 5, "fair": 3, HOSTILE: 1}]


def test_a_phone_has_the_width_and_takes_touches(open_page):
    page, found = open_page("rank", viewport={"width": 390, "height": 844}, has_touch=True)
    for text in ("fair", "good"):
        page.get_by_role("button", name=f"Pick answer {letter_of(page, text).upper()}").tap()
    page.get_by_role("button", name="Save").tap()
    saved(page, 1)
    assert scores(found.path) == [{"good": 2, "fair": 3, HOSTILE: 1}]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_what_cannot_be_saved_is_told_and_stays_open(open_page, monkeypatch):
    page, found = open_page("rank")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("zephyr.feedback.annotation.append_line", fail)
        for text in ("good", "fair"):
            page.keyboard.press(letter_of(page, text))
        page.keyboard.press("Enter")
        page.get_by_text("was not saved: could not be saved (No space left on device)").wait_for()
    page.keyboard.press("Enter")
    saved(page, 1)
    assert scores(found.path) == [{"good": 3, "fair": 2, HOSTILE: 1}]
