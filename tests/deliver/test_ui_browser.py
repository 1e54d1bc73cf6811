"""The page in a real browser: typed, streamed, stopped, written again, voted on; nothing is loaded from elsewhere."""

import json
import re
import threading
import time

import pytest

pytest.importorskip("gradio", reason="no gradio: pip install 'zephyr-align[ui]'")
pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with")


from playwright import sync_api

from tests.deliver.browsed import CHROMIUM, Served, chromium
from tests.deliver.spoken import Scripted
from zephyr.deliver.ui.page import PageSetup, application
from zephyr.deliver.ui.votes import VoteFile
from zephyr.recipe.teacher_section import SamplingSection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
HOSTILE = (
    "<img src=http://192.0.2.1/x onerror=alert(1)><b>bold</b>\n  *stars* ![p](http://192.0.2.1/y)\x1b[31m & &amp; "
    "<script>document.title='taken'</script>"
)
SHOWN = HOSTILE.replace("\x1b", r"\x1b")
# Of a loaded machine.
PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, request):
    """A function that serves speakers and gives the page, whose requests must all go to this machine."""

    def open_it(speakers, *, votes=None, **options):
        setup = PageSetup(speakers, SamplingSection(max_new_tokens=64), "Be kind.", votes, options.pop("examples", ()))
        served = Served(application(setup, options.pop("token", None)))
        request.addfinalizer(served.close)
        context = browser.new_context(**options)
        request.addfinalizer(context.close)
        page, asked = context.new_page(), []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda one: asked.append(one.url))
        page.on("dialog", lambda dialog: asked.append(f"dialog {dialog.message}"))
        request.addfinalizer(lambda: check_requests(asked, served.url))
        page.goto(served.url)
        page.get_by_placeholder("Say something").wait_for()
        return page

    return open_it


def check_requests(asked, url):
    assert len(asked) > 3
    assert [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []


def ask(page, text):
    box = page.get_by_placeholder("Say something")
    box.fill(text)
    box.press("Enter")


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def expect(locator):
    return sync_api.expect(locator)


def slow(pieces, gate):
    """The pieces, of which the last waits for the gate."""
    yield from pieces[:-1]
    gate.wait(60)
    yield pieces[-1]


def test_one_model_streams_is_stopped_and_answers_again(open_page):
    gate, turns = threading.Event(), []

    def script(said):
        turns.append(said)
        return slow([f"answer {len(turns)} ", "and ", "the rest"], gate)

    speaker = Scripted("<i>mine</i>", script)
    page = open_page([speaker])
    expect(page.get_by_role("heading", name="<i>mine</i>")).to_be_visible()
    ask(page, "Hi?")
    # The last piece is not there yet.
    expect(page.get_by_text("answer 1 and")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("the rest")).to_have_count(0)
    expect(button(page, "Regenerate")).to_be_disabled()
    gate.set()
    expect(page.get_by_text("answer 1 and the rest")).to_be_visible(timeout=PATIENCE)
    expect(button(page, "Regenerate")).to_be_enabled(timeout=PATIENCE)
    button(page, "Regenerate").click()
    expect(page.get_by_text("answer 2 and the rest")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("answer 1")).to_have_count(0)
    gate.clear()
    ask(page, "And now?")
    expect(page.get_by_text("answer 3 and")).to_be_visible(timeout=PATIENCE)
    page.locator("button.stop-button").click()
    time.sleep(1)
    gate.set()
    expect(button(page, "Regenerate")).to_be_enabled(timeout=PATIENCE)
    prompts = [[message.content for message in said] for said in turns]
    assert prompts[:2] == [["Be kind.", "Hi?"]] * 2
    assert prompts[2] == ["Be kind.", "Hi?", "answer 2 and the rest", "And now?"]
    button(page, "New conversation").click()
    expect(page.get_by_text("answer 2")).to_have_count(0, timeout=PATIENCE)


def test_a_new_conversation_stays_empty_while_the_old_answer_ends(open_page):
    gate = threading.Event()
    speaker = Scripted("mine", lambda said: slow(["answer ", "and ", "the rest"], gate))
    page = open_page([speaker])
    ask(page, "Hi?")
    expect(page.get_by_text("answer and")).to_be_visible(timeout=PATIENCE)
    button(page, "New conversation").click()
    expect(page.get_by_text("answer and")).to_have_count(0, timeout=PATIENCE)
    gate.set()
    time.sleep(2)
    assert page.locator(".message-content").count() == 0
    gate.clear()
    ask(page, "And now?")
    expect(page.get_by_text("answer and")).to_be_visible(timeout=PATIENCE)
    assert [message.content for message in speaker.heard[-1][0]] == ["Be kind.", "And now?"]
    gate.set()
    expect(button(page, "Regenerate")).to_be_enabled(timeout=PATIENCE)


def test_two_votes_at_once_are_one(open_page, tmp_path, monkeypatch):
    votes = VoteFile(tmp_path / "votes.jsonl")
    page = open_page([Scripted(name, lambda said, name=name: [name]) for name in ("a", "b")], votes=votes)
    ask(page, "Hi?")
    expect(button(page, "Tie")).to_be_enabled(timeout=PATIENCE)
    add = VoteFile.add

    def slowly(*arguments):
        time.sleep(2)
        return add(*arguments)

    monkeypatch.setattr(VoteFile, "add", slowly)
    button(page, "A is better").click()
    button(page, "B is better").click()
    expect(page.get_by_text(re.compile("^Saved"))).to_be_visible(timeout=PATIENCE)
    time.sleep(3)
    assert len(votes.path.read_text().splitlines()) == 1


def test_settings_reach_the_model(open_page):
    speaker = Scripted("mine", lambda said: ["yes"])
    page = open_page([speaker])
    page.get_by_text("Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    for label, value in (("Temperature", "0"), ("Top k", "7"), ("Top p", "0.5"), ("Longest answer", "9")):
        number = page.get_by_label(f"number input for {label}")
        number.fill(value)
        number.press("Tab")
    ask(page, "Hi?")
    expect(page.get_by_text("yes", exact=True)).to_be_visible(timeout=PATIENCE)
    ((said, sampling),) = speaker.heard
    assert said[0].content == "Be brief."
    assert sampling == SamplingSection(max_new_tokens=9, temperature=0.0, top_k=7, top_p=0.5)


def test_what_a_model_writes_is_text(open_page):
    page = open_page([Scripted("mine", lambda said: [HOSTILE])])
    ask(page, "<b>Hi?</b>")
    expect(button(page, "Regenerate")).to_be_enabled(timeout=PATIENCE)
    shown = [element.inner_text() for element in page.locator(".message-content").all()]
    assert shown == ["<b>Hi?</b>", SHOWN]
    assert page.title() == "Zephyr: mine"
    assert page.locator(".message-content :is(img, b, i, em, script)").count() == 0


@pytest.mark.parametrize("options", [{}, {"viewport": {"width": 390, "height": 844}}])
def test_two_models_are_voted_on_blindly(open_page, tmp_path, options):
    names = {"from one": "model-one", "from two": "model-two"}
    votes = VoteFile(tmp_path / "votes.jsonl")
    speakers = [Scripted(name, lambda said, text=text: [text[:5], text[5:]]) for text, name in names.items()]
    page = open_page(speakers, votes=votes, **options)
    for number, choice in enumerate(("A is better", "Tie", "B is better")):
        expect(button(page, choice)).to_be_disabled()
        ask(page, f"Question {number}?")
        expect(button(page, choice)).to_be_enabled(timeout=PATIENCE)
        # Neither on the page nor in what the browser holds.
        assert "model-" not in page.content()
        assert page.get_by_role("textbox").first.is_disabled()
        left, right = (
            chat.locator(".bot .message-content").last.inner_text() for chat in page.locator(".answer").all()
        )
        button(page, choice).click()
        expect(page.get_by_text(f"A: {names[left]}")).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text(f"B: {names[right]}")).to_be_visible()
        expect(page.get_by_text(re.compile("^Saved"))).to_be_visible()
        path = votes.ties_path if choice == "Tie" else votes.path
        row = json.loads(path.read_text().splitlines()[-1])
        if choice == "Tie":
            assert [answer["model"] for answer in row["answers"]] == [names[left], names[right]]
        else:
            won = left if choice.startswith("A") else right
            assert (row["chosen"][-1]["content"], row["model_chosen"]) == (won, names[won])
    assert len(votes.path.read_text().splitlines()) == 2
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_vote_that_cannot_be_saved_stays_open(open_page, tmp_path, monkeypatch):
    votes = VoteFile(tmp_path / "votes.jsonl")
    page = open_page([Scripted(name, lambda said, name=name: [name]) for name in ("a", "b")], votes=votes)
    ask(page, "Hi?")
    expect(button(page, "Tie")).to_be_enabled(timeout=PATIENCE)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(VoteFile, "add", fail)
        button(page, "A is better").click()
        expect(page.get_by_text("could not be saved (No space left on device)")).to_be_visible(timeout=PATIENCE)
    button(page, "A is better").click()
    expect(page.get_by_text(re.compile("^Saved"))).to_be_visible(timeout=PATIENCE)
    assert len(votes.path.read_text().splitlines()) == 1


def test_a_visitor_with_the_token_is_let_in(open_page):
    credentials = {"username": "anybody", "password": "secret"}
    page = open_page([Scripted("mine", lambda said: ["yes"])], token="secret", http_credentials=credentials)
    ask(page, "Hi?")
    expect(page.get_by_text("yes", exact=True)).to_be_visible(timeout=PATIENCE)


def test_an_example_is_asked_by_a_click_and_the_speed_is_told(open_page):
    speaker = Scripted("mine", lambda said: ["a ", "b ", "c"])
    page = open_page([speaker], examples=["How are <you>?", "And now?"])
    button(page, "How are <you>?").click()
    expect(page.get_by_text(re.compile(r"^3 tokens in [0-9.]+ s, [0-9.]+ tokens/s"))).to_be_visible(timeout=PATIENCE)
    assert [message.content for message in speaker.heard[0][0]] == ["Be kind.", "How are <you>?"]
    expect(button(page, "And now?")).to_have_count(0)
    button(page, "New conversation").click()
    expect(button(page, "And now?")).to_be_visible(timeout=PATIENCE)


def test_a_vote_is_given_by_a_key(open_page, tmp_path):
    votes = VoteFile(tmp_path / "votes.jsonl")
    page = open_page([Scripted(name, lambda said, name=name: [name]) for name in ("one", "two")], votes=votes)
    ask(page, "abt")
    expect(button(page, "Tie")).to_be_enabled(timeout=PATIENCE)
    page.locator("body").press("b")
    expect(page.get_by_text(re.compile("^Saved"))).to_be_visible(timeout=PATIENCE)
    assert json.loads(votes.path.read_text())["chosen_side"] == "right"
