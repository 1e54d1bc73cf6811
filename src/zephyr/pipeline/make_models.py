"""The three stages that train a model: pretrain, sft and align."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from zephyr.data.truncation import split_text
from zephyr.models.fresh import learn_tokenizer, new_model
from zephyr.models.loading import save_model
from zephyr.pipeline.data_rows import stage_rows
from zephyr.pipeline.make_feedback import PAIRS
from zephyr.pipeline.make_synth import DIALOGUES, TEXTS
from zephyr.pipeline.ranks import is_leader, wait_until
from zephyr.pipeline.ready import START, Ready, encoder_for, ready_for
from zephyr.pipeline.stage_folder import Facts
from zephyr.pipeline.stages import Work
from zephyr.pipeline.tokens import comparisons, dialogues, prepare_once, write_dialogues, write_preferences
from zephyr.pipeline.training import Training, train_model
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import AlignSection, PretrainSection, Recipe, SftSection
from zephyr.records.messages import Message
from zephyr.records.rows import Chat, Preference, Text
from zephyr.train.examples import Comparison, Example, with_mismatched_completions
from zephyr.train.objectives import Objective, build_objective

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
    examples, held = dialogues(work.folder, "train"), dialogues(work.folder, "eval")
    objective = build_objective("sft", {})
    return accounts | _train(work, section, ready, objective, examples, held, scores_everything=True)


def make_sft(work: Work) -> Facts:
    """The facts of the stage; its folder holds the chat model."""
    section = work.recipe.sft
    assert section is not None
    before = work.inputs["synth"] / DIALOGUES if "synth" in work.inputs else None
    ready, loss_on = ready_for(work), section.objective.loss_on

    def prepare(tokens: Path) -> Facts:
        rows = stage_rows(work.recipe, section.data, Chat, before)
        return write_dialogues(
            tokens, section.data, rows, lambda row: [ready.encoder.dialogue(row.messages, loss_on=loss_on)]
        )

    accounts = prepare_once(work.folder, prepare)
    examples, held = dialogues(work.folder, "train"), dialogues(work.folder, "eval")
    objective = build_objective("sft", {})
    return accounts | _train(work, section, ready, objective, examples, held, scores_everything=loss_on == "everything")


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
    return accounts | _train(work, section, ready, build_objective(section.objective.name, options), examples, held)


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
    unlearnt = learn_tokenizer([], vocab_size=260, max_length=16, bos=False)
    marks = encoder_for(unlearnt, recipe).render(_MARKERS).split(unlearnt.eos_token)
    rows = stage_rows(recipe, section.data, Text, before)
    for number, row in enumerate(rows.train):
        if number == TOKENIZER_TEXTS:
            return
        yield row.text
        yield from marks


def _train(
    work: Work,
    section: PretrainSection | SftSection | AlignSection,
    ready: Ready,
    objective: Objective,
    examples: Sequence[Example],
    held: Sequence[Example],
    *,
    scores_everything: bool = False,
) -> Facts:
    is_chat = not isinstance(section, PretrainSection)
    training = Training(
        start=ready.start,
        tokenizer=ready.tokenizer,
        objective=objective,
        section=section.train,
        seed=work.recipe.seed,
        examples=examples,
        eval_examples=held,
        stop_ids=ready.encoder.stop_ids if is_chat else (),
        lora=None if isinstance(section, PretrainSection) else section.lora,
        max_new_tokens=min(256, section.data.max_length // 2),
        scores_everything=scores_everything,
    )
    return train_model(training, folder=work.folder, reference_store=work.run_folder / REFERENCE)
