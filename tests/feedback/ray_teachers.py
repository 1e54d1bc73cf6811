"""Teachers that workers of a Ray cluster open, where only what can be imported or pickled gets; and no cluster."""

from functools import partial
from pathlib import Path

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.feedback.ray_stage import Opened, Opener
from zephyr.models.loading import Source, load
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.teachers.local import LocalTeacher
from zephyr.teachers.scripted import ScriptedJudge


def open_judge() -> Opened:
    return Opened(ScriptedJudge(), "scripted judge")


def open_local(folder: str) -> Opened:
    loaded = load(Source(folder, offline=True), dtype="float32")
    encoder = DialogueEncoder(loaded.tokenizer, ChatTemplateSection(name="own"))
    return Opened(LocalTeacher(loaded.model, encoder, name="local"), folder)


JUDGE = Opener("scripted judge", open_judge)


def local(folder: Path) -> Opener:
    return Opener("local", partial(open_local, str(folder)))


class OneByOne:
    """Ray's data module as far as it is used, in this process."""

    def __init__(self):
        self.items, self.rated = [], []

    def from_items(self, items, *, override_num_blocks):
        assert override_num_blocks == len(items)
        self.items = items
        return self

    def ActorPoolStrategy(self, *, size):  # noqa: N802 - a class there
        return size

    def map(self, rater, *, fn_constructor_args, compute, num_cpus, num_gpus):
        assert 1 <= compute <= 2
        rate = rater(*fn_constructor_args)
        self.rated = [rate(item) for item in self.items]
        return self

    def iter_rows(self):
        return iter(self.rated)
