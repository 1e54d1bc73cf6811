"""Teachers that workers of a Ray cluster open, where only what can be imported or pickled gets."""

from functools import partial
from pathlib import Path

from zephyr.data.encoding import DialogueEncoder
from zephyr.data.templates import TemplateSettings
from zephyr.feedback.ray_stage import Opened, Opener
from zephyr.models.loading import Source, load
from zephyr.teachers.local import LocalTeacher
from zephyr.teachers.scripted import ScriptedJudge


def open_judge() -> Opened:
    return Opened(ScriptedJudge(), "scripted judge")


def open_local(folder: str) -> Opened:
    loaded = load(Source(folder, offline=True), dtype="float32")
    encoder = DialogueEncoder(loaded.tokenizer, TemplateSettings(name="own"))
    return Opened(LocalTeacher(loaded.model, encoder, name="local"), folder)


JUDGE = Opener("scripted judge", open_judge)


def local(folder: Path) -> Opener:
    return Opener("local", partial(open_local, str(folder)))
