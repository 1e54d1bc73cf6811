"""The deliver stage: its files, the sample prompts that every model answers, and a card where models are uploaded."""

import json

import pytest

from tests.deliver.small_run import write_run
from tests.pipeline.mini import mini_recipe
from zephyr.pipeline import make_delivery
from zephyr.stages.stage import Work
from zephyr.teachers.protocol import ChatReply


class Echo:
    """Says who it is and what it was asked; to nothing it has no answer."""

    def __init__(self, name: str) -> None:
        self.name = name

    def answer(self, requests):
        for one in requests:
            said = one.messages[-1].content
            if said:
                yield ChatReply(one.key, f"{self.name}, {one.max_tokens}: {said}", "stop")
            else:
                yield ChatReply(one.key, "", "error", "an empty prompt")


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(make_delivery, "answering", lambda name, _work: Echo(name))
    run = write_run(tmp_path / "run")
    folder = run / ".deliver.partial"
    folder.mkdir()

    def made(**section: object) -> Work:
        recipe = mini_recipe(tmp_path, deliver=section)
        return Work(recipe, "deliver", folder, {"align": run / "align-aaaaaaaaaa"}, run)

    return made


def test_every_model_answers_the_sample_prompts(work):
    one = work(sample_prompts=["<i>Hi</i>", ""], sampling={"max_new_tokens": 9})
    assert make_delivery.make_delivery(one) == {"report": "report.html", "card": "README.md"}
    assert json.loads((one.folder / "samples.json").read_bytes()) == [
        {"prompt": "<i>Hi</i>", "answers": {"dDPO": "stage:align, 9: <i>Hi</i>"}},
        {"prompt": "", "answers": {"dDPO": "(no answer: an empty prompt)"}},
    ]
    page = (one.folder / "report.html").read_text()
    assert page.index("stage:align, 9: &lt;i&gt;Hi") < page.index("Say `hi`.")


def test_the_card_lies_in_both_folders(work):
    one = work(report=False)
    assert make_delivery.make_delivery(one) == {"card": "README.md"}
    card = (one.folder / "README.md").read_text()
    assert card == (one.inputs["align"] / "model" / "README.md").read_text()
    assert not (one.folder / "report.html").exists()
    assert not (one.folder / "samples.json").exists()
