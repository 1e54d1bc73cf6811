"""The rows of a training stage as tokens, in the stage's own folder: what it trains on."""

from pathlib import Path

from zephyr.data.read.stage_rows import stage_rows
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.loss_mask_stats import LossMaskStats
from zephyr.data.tokenize.truncation import split_text
from zephyr.pipeline.tokens import prepare_once, store_dialogues, store_preferences
from zephyr.recipe.stage_sections import AlignSection, PretrainSection, SftSection
from zephyr.records.rows import Chat, Preference, Text
from zephyr.runs.stage_folder import Facts
from zephyr.stages.feedback import PAIRS
from zephyr.stages.stage import Work
from zephyr.stages.synth import DIALOGUES, TEXTS

# The stage, and the file of it, whose rows a training stage takes where it names no sources.
MADE_ROWS = {"pretrain": ("synth", TEXTS), "sft": ("synth", DIALOGUES), "align": ("feedback", PAIRS)}


def prepare_rows(work: Work, encoder: DialogueEncoder) -> Facts:
    """The facts of the stage's rows, which afterwards stand in its folder as tokens. Raises DataError."""
    section: PretrainSection | SftSection | AlignSection = getattr(work.recipe, work.stage)
    recipe, data, before = work.recipe, section.data, rows_made_before(work)

    def prepare(tokens: Path) -> Facts:
        if isinstance(section, PretrainSection):
            texts = stage_rows(recipe, data, Text, before)
            return store_dialogues(tokens, data, texts, lambda row: split_text(encoder.text(row.text), data))
        if isinstance(section, AlignSection):
            return store_preferences(tokens, section, stage_rows(recipe, data, Preference, before), encoder)
        loss_on = section.objective.loss_on
        return store_dialogues(
            tokens,
            data,
            stage_rows(recipe, data, Chat, before),
            lambda row: [encoder.dialogue(row.messages, loss_on=loss_on)],
            supervision=LossMaskStats(encoder.stop_ids),
            loss_on=loss_on,
        )

    return prepare_once(work.folder, prepare)


def rows_made_before(work: Work) -> Path | None:
    """The file of rows that an earlier stage has made for this one; None where there is none."""
    maker, name = MADE_ROWS[work.stage]
    return work.inputs[maker] / name if maker in work.inputs else None
