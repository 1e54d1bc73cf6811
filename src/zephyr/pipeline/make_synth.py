"""The synth stage: what a teacher writes."""

from collections import Counter

from zephyr.pipeline.ready import writer
from zephyr.pipeline.stage_folder import Facts
from zephyr.pipeline.stages import Work
from zephyr.records.writing import write_jsonl
from zephyr.synth.dialogues import WritingSettings, write_dialogues
from zephyr.world import pretrain_texts, prompts

DIALOGUES = "dialogues.jsonl"
TEXTS = "texts.jsonl"
PROMPTS = "prompts.jsonl"


def make_synth(work: Work) -> Facts:
    """The facts of the stage; its folder holds texts, dialogues, and prompts for feedback."""
    section, seed = work.recipe.synth, work.recipe.seed
    assert section is not None
    world, counts = section.generator, Counter[str]()
    teacher = writer(section.teacher, work)
    asked = prompts("train", seed, world.num_dialogues)
    dialogues = write_dialogues(asked, teacher, WritingSettings(seed=seed), counts)
    for name, rows in (
        (DIALOGUES, dialogues),
        (TEXTS, pretrain_texts(seed, world.num_pretrain_texts)),
        (PROMPTS, prompts("feedback", seed, world.num_feedback_prompts)),
    ):
        (work.folder / name).unlink(missing_ok=True)  # of a try that was stopped
        write_jsonl(work.folder / name, rows)
    return {"teacher": teacher.name, "texts": world.num_pretrain_texts, **counts}
