"""The three stages that train a model: pretrain, sft and align."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from zephyr.data.supervision import Supervision
from zephyr.data.truncation import split_text
from zephyr.models.fresh import learn_tokenizer, new_model
from zephyr.models.loading import save_model
from zephyr.pipeline.data_rows import stage_rows
from zephyr.pipeline.make_feedback import PAIRS
from zephyr.pipeline.make_synth import DIALOGUES, TEXTS
from zephyr.pipeline.ranks import is_leader, wait_until
from zephyr.pipeline.ready import START, encoder_for, ready_for, tokenizer_of
from zephyr.pipeline.stage_folder import Facts
from zephyr.pipeline.stages import Work
from zephyr.pipeline.tokens import comparisons, dialogues, prepare_once, write_dialogues, write_preferences
from zephyr.pipeline.training import Training, train_model
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import PretrainSection, Recipe
from zephyr.records.messages import Message
from zephyr.records.rows import Chat, Preference, Text
from zephyr.train.examples import Comparison, with_mismatched_completions
from zephyr.train.objectives import build_objective

REFERENCE = "reference"
# Texts a new tokenizer is learnt from, each beside the markers of a dialogue, so that these become few tokens.
TOKENIZER_TEXTS = 4000
_MARKERS = (Message("system", ""), Message("user", ""), Message("assistant", ""))


def make_pretrain(work: Work) -> Facts:
    """The facts of the stage; its folder holds the model after plain text."""
    section = work.recipe.pretrain
    assert section is not None
    before = work.inputs["synth"] / TEXTS if "synth" in work.inputs else None
    if isinstance(work.recipe.model, NewModel):
        _make_start(work, work.recipe.model, section, before)
    ready, longest = ready_for(work), section.data.max_length

    def prepare(tokens: Path) -> Facts:
        rows = stage_rows(work.recipe, section.data, Text, before)
        return write_dialogues(
            tokens, section.data, rows, lambda row: split_text(ready.encoder.text(row.text), longest)
        )

    accounts = prepare_once(work.folder, prepare)
    training = Training(
        ready=ready,
        objective=build_objective("sft", {}),
        section=section.train,
        seed=work.recipe.seed,
        examples=dialogues(work.folder, "train"),
        eval_examples=dialogues(work.folder, "eval"),
        scores_everything=True,
    )
    return accounts | _train(work, training)


def make_sft(work: Work) -> Facts:
    """The facts of the stage; its folder holds the chat model."""
    section = work.recipe.sft
    assert section is not None
    before = work.inputs["synth"] / DIALOGUES if "synth" in work.inputs else None
    ready, loss_on = ready_for(work), section.objective.loss_on

    def prepare(tokens: Path) -> Facts:
        rows = stage_rows(work.recipe, section.data, Chat, before)
        return write_dialogues(
            tokens,
            section.data,
            rows,
            lambda row: [ready.encoder.dialogue(row.messages, loss_on=loss_on)],
            supervision=Supervision(ready.encoder.stop_ids),
            loss_on=loss_on,
        )

    accounts = prepare_once(work.folder, prepare)
    examples = dialogues(work.folder, "train")
    batch_size = section.dialogues_per_step(examples.num_tokens / len(examples))
    training = Training(
        ready=ready,
        objective=build_objective("sft", {}),
        section=section.train.model_copy(update={"train_batch_size": batch_size}),
        seed=work.recipe.seed,
        examples=examples,
        eval_examples=dialogues(work.folder, "eval"),
        stop_ids=ready.encoder.stop_ids,
        lora=section.lora,
        scores_everything=loss_on == "everything",
    )
    return accounts | _train(work, training)


def make_align(work: Work) -> Facts:
    """The facts of the stage; its folder holds the aligned model."""
    section = work.recipe.align
    assert section is not None
    before = work.inputs["feedback"] / PAIRS if "feedback" in work.inputs else None
    ready = ready_for(work)

    def prepare(tokens: Path) -> Facts:
        rows = stage_rows(work.recipe, section.data, Preference, before)
        return write_preferences(tokens, section.data, rows, ready.encoder)

    accounts = prepare_once(work.folder, prepare)
    examples: Sequence[Comparison] = comparisons(work.folder, "train")
    held: Sequence[Comparison] = comparisons(work.folder, "eval")
    if section.objective.name == "kto":
        examples, held = with_mismatched_completions(examples), with_mismatched_completions(held) if held else []
    options = section.objective.model_dump(exclude={"name"}, exclude_none=True)
    training = Training(
        ready=ready,
        objective=build_objective(section.objective.name, options),
        section=section.train,
        seed=work.recipe.seed,
        examples=examples,
        eval_examples=held,
        stop_ids=ready.encoder.stop_ids,
        lora=section.lora,
    )
    return accounts | _train(work, training)


def _make_start(work: Work, shape: NewModel, section: PretrainSection, before: Path | None) -> None:
    """Make the new model and its tokenizer, once, on rank 0."""
    folder = work.folder / START
    if not is_leader():
        wait_until(folder.exists, f"{folder} from rank 0")
    elif not folder.exists():
        longest = shape.max_position_embeddings
        texts = _tokenizer_texts(work.recipe, section, before)
        tokenizer = learn_tokenizer(texts, vocab_size=shape.vocab_size, max_length=longest, bos=False)
        sizes = shape.model_dump(exclude={"kind", "architecture", "vocab_size"})
        model = new_model(shape.architecture, sizes, tokenizer, seed=work.recipe.seed, dtype=torch.float32)
        save_model(model, tokenizer, folder)


def _tokenizer_texts(recipe: Recipe, section: PretrainSection, before: Path | None) -> Iterator[str]:
    """Texts of the stage, and the marks of the template as often."""
    unlearnt = tokenizer_of(recipe)
    marks = encoder_for(unlearnt, recipe, "pretrain").render(_MARKERS).split(unlearnt.eos_token)
    rows = stage_rows(recipe, section.data, Text, before)
    for number, row in enumerate(rows.train):
        if number == TOKENIZER_TEXTS:
            return
        yield row.text
        yield from marks


def _train(work: Work, training: Training) -> Facts:
    return train_model(training, folder=work.folder, reference_store=work.run_folder / REFERENCE)
