"""The three stages that train a model: pretrain, sft and align."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path

import torch

from zephyr.data.read.stage_rows import open_records, stage_rows
from zephyr.models.loading import Tokenizer, save_model
from zephyr.models.new_model import learn_tokenizer, new_model
from zephyr.pipeline.prepare import prepare_rows, rows_made_before
from zephyr.pipeline.ready import START, encoder_for, ready_for, tokenizer_of
from zephyr.pipeline.tokens import comparisons, dialogues
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.train_section import SftObjective
from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Chat, Text
from zephyr.runs.layout import TRAIN
from zephyr.runs.ranks import is_leader, wait_until
from zephyr.runs.stage_folder import Facts
from zephyr.stages.stage import Work
from zephyr.stages.synth import DIALOGUES
from zephyr.train.job import TrainJob
from zephyr.train.objectives import build_objective
from zephyr.train.stored_model import StoredModel
from zephyr.train.train import train

REFERENCE = "reference"
# Texts a new tokenizer is learnt from, and as many dialogues, so that both become few tokens.
TOKENIZER_TEXTS = 4000
_MARKERS = (Message("system", ""), Message("user", ""), Message("assistant", ""))


def make_pretrain(work: Work) -> Facts:
    """The facts of the stage; its folder holds the model after plain text."""
    section = work.recipe.pretrain
    assert section is not None
    if isinstance(work.recipe.model, NewModel):
        make_start(work, work.recipe.model)
    ready = ready_for(work)
    accounts = prepare_rows(work, ready.encoder)
    job = TrainJob(
        model=StoredModel(ready.start, ready.tokenizer, work.folder),
        objective=build_objective(SftObjective(loss_on="everything")),
        settings=section.train,
        examples=dialogues(work.folder, "train"),
        folder=work.folder / TRAIN,
        seed=work.recipe.seed,
        eval_examples=dialogues(work.folder, "eval"),
    )
    return accounts | train(job).facts


def make_sft(work: Work) -> Facts:
    """The facts of the stage; its folder holds the chat model."""
    section = work.recipe.sft
    assert section is not None
    ready = ready_for(work)
    accounts = prepare_rows(work, ready.encoder)
    examples = dialogues(work.folder, "train")
    batch_size = section.dialogues_per_step(examples.num_tokens / len(examples))
    job = TrainJob(
        model=StoredModel(ready.start, ready.tokenizer, work.folder, section.lora),
        objective=build_objective(section.objective),
        settings=section.train.model_copy(update={"train_batch_size": batch_size}),
        examples=examples,
        folder=work.folder / TRAIN,
        seed=work.recipe.seed,
        eval_examples=dialogues(work.folder, "eval"),
        stop_ids=ready.encoder.stop_ids,
    )
    return accounts | train(job).facts


def make_align(work: Work) -> Facts:
    """The facts of the stage; its folder holds the aligned model."""
    section = work.recipe.align
    assert section is not None
    ready = ready_for(work)
    accounts = prepare_rows(work, ready.encoder)
    examples, held_out = comparisons(work.folder, "train"), comparisons(work.folder, "eval")
    job = TrainJob(
        model=StoredModel(ready.start, ready.tokenizer, work.folder, section.lora),
        objective=build_objective(section.objective, chain(examples, held_out)),
        settings=section.train,
        examples=examples,
        folder=work.folder / TRAIN,
        seed=work.recipe.seed,
        eval_examples=held_out,
        reference_store=work.run_folder / REFERENCE,
        stop_ids=ready.encoder.stop_ids,
    )
    return accounts | train(job).facts


def make_start(work: Work, shape: NewModel) -> Path:
    """The folder of the new model and its tokenizer, which are made once, on rank 0."""
    folder = work.folder / START
    if not is_leader():
        wait_until(folder.exists, f"{folder} from rank 0")
    elif not folder.exists():
        tokenizer = learnt_tokenizer(work, shape)
        sizes = shape.model_dump(exclude={"kind", "architecture", "vocab_size"})
        model = new_model(shape.architecture, sizes, tokenizer, seed=work.recipe.seed, dtype=torch.float32)
        save_model(model, tokenizer, folder)
    return folder


def learnt_tokenizer(work: Work, shape: NewModel) -> Tokenizer:
    """The tokenizer of a new model, learnt from the rows of its pretraining; the same rows give the same one."""
    longest = shape.max_position_embeddings
    return learn_tokenizer(_tokenizer_texts(work), vocab_size=shape.vocab_size, max_length=longest, bos=False)


def _tokenizer_texts(work: Work) -> Iterator[str]:
    """Texts of the stage, and as many dialogues of the teacher, or at least the marks of the template."""
    recipe, section = work.recipe, work.recipe.pretrain
    assert section is not None
    unlearnt = tokenizer_of(recipe)
    encoder = encoder_for(unlearnt, recipe, "pretrain")
    rows = stage_rows(recipe, section.data, Text, rows_made_before(work))
    texts = [row.text for row in islice(rows.train, TOKENIZER_TEXTS)]
    chats: Iterable[Messages] = repeat(_MARKERS, len(texts))
    if "synth" in work.inputs:
        taught = open_records(recipe, DataSource(path=str((work.inputs["synth"] / DIALOGUES).resolve())), Chat)
        chats = (chat.messages for chat in islice(taught, TOKENIZER_TEXTS))
    yield from texts
    for messages in chats:
        yield from encoder.render(messages).split(unlearnt.eos_token)
