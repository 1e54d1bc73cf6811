"""Write the screenshots of the docs: `python -m tests.deliver.screenshots RUN docs/images`, RUN a finished quickstart.

The pages are those that users see: the report of the run, the chat page with recorded answers, answers to annotate;
on a desktop and a phone, light and dark.
"""

import argparse
import itertools
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.deliver.browsed import CHROMIUM, Served
from tests.deliver.spoken import Scripted
from zephyr.data.read.sources import open_source
from zephyr.deliver.ui.annotate import AnnotationSetup, annotation_application
from zephyr.deliver.ui.page import PageSetup, application
from zephyr.deliver.ui.start import example_prompts, model_title_of
from zephyr.deliver.ui.votes import VoteFile
from zephyr.feedback.annotation import begin
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Messages
from zephyr.stages.hand_delivery import write_report

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
SCHEMES = ("light", "dark")
MOST_BYTES = 300_000


def recorded(run: Path, stage: str, model: str) -> Scripted:
    """What the model of a stage answered to prompts of the evaluation, word by word: the same in every picture."""
    (samples,) = run.glob("evaluate-*/samples.json")
    answers = {one["prompt"]: one["answers"][model] for one in json.loads(samples.read_text(encoding="utf-8"))}

    def said(messages: Messages) -> Iterator[str]:
        for word in re.findall(r"\S+\s*", answers[messages[-1].content]):
            time.sleep(0.02)
            yield word

    (folder,) = run.glob(f"{stage}-*/model")
    return Scripted(model_title_of(str(folder)), said)


def asked(page: Page) -> None:
    """Ask the first example and wait for its answer."""
    page.locator(".examples button").first.click()
    page.locator("#again:enabled").wait_for()


def ranked(page: Page) -> None:
    """Pick the first two answers."""
    page.locator(".answer").first.wait_for()
    page.keyboard.press("b")
    page.keyboard.press("a")


def shoot(browser: Browser, url: str, name: str, folder: Path, prepare=None) -> None:
    """Write the pictures of a page; each must be small enough for the docs."""
    for (size, (width, height)), scheme in itertools.product(SIZES.items(), SCHEMES):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(url)
        if prepare is not None:
            prepare(page)
        path = folder / f"{name}-{size}-{scheme}.png"
        page.screenshot(path=path)
        context.close()
        assert path.stat().st_size < MOST_BYTES, path


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    speakers = [recorded(given.run, "sft", "dSFT"), recorded(given.run, "align", "dDPO")]
    examples = example_prompts(str(next(given.run.glob("align-*/model"))))
    (answers,) = given.run.glob("feedback-*/candidates.jsonl")
    source = DataSource(path=str(answers.resolve()), split="train[:40]")
    rows = list(open_source(source, "rated", data_dir=Path(), offline=True))
    rows = [row for row in rows if len(row.answers) == 4]
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        here = Path(name)
        report = write_report(given.run, out=here / "report.html")
        annotated = begin(rows, here / "mine.jsonl", [])
        pages = {
            "chat": (application(PageSetup(speakers[1:], SamplingSection(), "", None, examples), None), asked),
            "compare": (
                application(PageSetup(speakers, SamplingSection(), "", VoteFile(here / "votes.jsonl"), examples), None),
                asked,
            ),
            "annotate": (
                annotation_application(AnnotationSetup(annotated, "candidates.jsonl", "rank", 5), None),
                ranked,
            ),
        }
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shoot(browser, report.as_uri(), "report", given.folder)
        for title, (served_page, prepare) in pages.items():
            served = Served(served_page)
            try:
                shoot(browser, served.url, title, given.folder, prepare)
            finally:
                served.close()
        browser.close()


if __name__ == "__main__":
    main()
