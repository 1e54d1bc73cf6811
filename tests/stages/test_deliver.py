"""The deliver stage: its files, the sample prompts that every model answers, and a card where models are uploaded."""

import json
from dataclasses import replace

import pytest

from tests.deliver.small_run import write_run
from tests.mini import mini_fields, mini_recipe
from zephyr.stages import deliver
from zephyr.stages.deliver import STAGE
from zephyr.stages.preview import Preview
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
    monkeypatch.setattr(deliver, "stage_teacher", lambda _, stage: Echo(f"stage:{stage}"))
    run = write_run(tmp_path / "run")
    folder = run / ".deliver.partial"
    folder.mkdir()

    def made(**section: object) -> Work:
        recipe = mini_recipe(tmp_path, deliver=section)
        return Work(recipe, "deliver", folder, {"align": run / "align-aaaaaaaaaa"}, run)

    return made


def test_every_model_answers_the_sample_prompts(work):
    one = work(sample_prompts=["<i>Hi</i>", ""], sampling={"max_new_tokens": 9})
    assert STAGE.run(one) == {"report": "report.html", "card": "README.md"}
    assert json.loads((one.folder / "samples.json").read_bytes()) == [
        {"prompt": "<i>Hi</i>", "answers": {"dDPO": "stage:align, 9: <i>Hi</i>"}},
        {"prompt": "", "answers": {"dDPO": "(no answer: an empty prompt)"}},
    ]
    page = (one.folder / "report.html").read_text()
    assert page.index("stage:align, 9: &lt;i&gt;Hi") < page.index("Say `hi`.")


def test_a_base_model_that_is_measured_answers_first(work, tmp_path):
    one = work(sample_prompts=["Hi"], sampling={"max_new_tokens": 9})
    evaluate = {"tasks": [{"name": "world"}], "base_model": True}
    outside = {"kind": "pretrained", "name_or_path": "someone/base"}
    sft = mini_fields(tmp_path)["sft"] | {"data": {"sources": [{"path": "someone/talks"}]}}
    sections = {"model": outside, "sft": sft, "evaluate": evaluate, "deliver": one.recipe.deliver.model_dump()}
    STAGE.run(replace(one, recipe=mini_recipe(tmp_path, pretrain=None, **sections)))
    (sample,) = json.loads((one.folder / "samples.json").read_bytes())
    assert list(sample["answers"].items()) == [("base", "stage:base, 9: Hi"), ("dDPO", "stage:align, 9: Hi")]


def test_the_card_lies_in_both_folders(work):
    one = work(report=False)
    assert STAGE.run(one) == {"card": "README.md"}
    card = (one.folder / "README.md").read_text()
    assert card == (one.inputs["align"] / "model" / "README.md").read_text()
    assert not (one.folder / "report.html").exists()
    assert not (one.folder / "samples.json").exists()


def test_what_is_written_and_estimated_follows_from_the_section(tmp_path):
    asked = mini_recipe(tmp_path, deliver={"sample_prompts": ["a", "b"], "sampling": {"max_new_tokens": 9}})
    models = [stage for stage in ("pretrain", "sft", "align") if stage in asked.stages]
    assert STAGE.outputs(asked) == ["report.html", "README.md", "samples.json"]
    assert list(STAGE.estimate(Preview(asked, tmp_path))) == [
        f"samples: {2 * len(models)} answers by {len(models)} models, 9 tokens at most"
    ]
    plain = mini_recipe(tmp_path, deliver={"report": False})
    assert STAGE.reads(plain) == plain.stages[:-1]
    assert STAGE.outputs(plain) == ["README.md"]
    assert list(STAGE.estimate(Preview(plain, tmp_path))) == ["writes files; no model runs"]
    assert list(STAGE.check(Preview(plain, tmp_path))) == [f"reads {', '.join(plain.stages[:-1])}"]


def test_a_licence_is_part_of_what_the_card_depends_on(tmp_path):
    assert STAGE.depends_on(mini_recipe(tmp_path)) == {}
    sources = [{"path": "someone/texts", "license": "mit"}, {"path": "someone/more"}]
    pretrain = mini_fields(tmp_path)["pretrain"]
    changed = mini_recipe(tmp_path, pretrain=pretrain | {"data": {"max_length": 160, "sources": sources}})
    assert STAGE.depends_on(changed) == {"licenses": {"someone/texts": "mit"}}
