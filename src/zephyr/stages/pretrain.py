"""The pretrain stage: the base model reads plain text; a new model and its tokenizer are made for it first."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path

from zephyr.data.read.stage_rows import open_records, stage_rows
from zephyr.models.tokenizers import MIN_VOCABULARY, Tokenizer, learn_tokenizer, load_tokenizer
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.objective_section import SftObjective
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import PRETRAIN, SYNTH
from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Chat, Text
from zephyr.runs.layout import TRAIN
from zephyr.runs.ranks import is_leader, wait_until
from zephyr.runs.stage_folder import Facts
from zephyr.stages.preview import Preview
from zephyr.stages.stage import Work
from zephyr.stages.start import START, base_source, encoder_for, section_of, starting_source, starting_tokenizer
from zephyr.stages.synth import DIALOGUES, TEXTS
from zephyr.stages.training import made_rows, model_outputs, prepare, read_ahead, stored_dialogues, training_stage
from zephyr.stages.training_setup import tracked_as

# Texts a new tokenizer is learnt from, and as many dialogues, so that both become few tokens.
TOKENIZER_TEXTS = 4000
_MARKERS = (Message("system", ""), Message("user", ""), Message("assistant", ""))


def run(work: Work) -> Facts:
    """The facts of the stage; its folder then holds the model after plain text."""
    from zephyr.train.job import TrainJob
    from zephyr.train.objectives import build_objective
    from zephyr.train.stored_model import StoredModel
    from zephyr.train.train import train

    section = work.recipe.pretrain
    assert section is not None
    make_start(work)
    start = starting_source(work)
    tokenizer, encoder = starting_tokenizer(start, work.recipe, work.stage)
    facts = prepare(work, encoder, made_rows(work, SYNTH, TEXTS))
    examples = stored_dialogues(work.folder, "train")
    job = TrainJob(
        model=StoredModel(start, tokenizer, work.folder),
        objective=build_objective(SftObjective(loss_on="everything")),
        settings=section.train,
        examples=examples,
        folder=work.folder / TRAIN,
        seed=work.recipe.seed,
        eval_examples=stored_dialogues(work.folder, "eval"),
        name=start.name,
        on_step=work.on_step,
        tracked_as=tracked_as(work),
    )
    return facts | train(job).facts


def make_start(work: Work) -> None:
    """Make a new model and its tokenizer, once, on rank 0; for a model that exists there is nothing to make."""
    shape, folder = work.recipe.model, work.folder / START
    if not isinstance(shape, NewModel):
        return
    if not is_leader():
        wait_until(folder.exists, f"{folder} from rank 0")
    elif not folder.exists():
        import torch

        from zephyr.models.loading import save_model
        from zephyr.models.new_model import new_model

        tokenizer = learn_run_tokenizer(work.recipe, shape, made=work.inputs.get(SYNTH))
        sizes = shape.model_dump(exclude={"kind", "architecture", "vocab_size"})
        model = new_model(shape.architecture, sizes, tokenizer, seed=work.recipe.seed, dtype=torch.float32)
        save_model(model, tokenizer, folder)


def learn_run_tokenizer(recipe: Recipe, shape: NewModel, *, made: Path | None) -> Tokenizer:
    """The tokenizer of a new model, learnt from the rows of its pretraining; the same rows give the same one.

    ``made``: the folder of the synth stage, or of a sample of its rows.
    """
    longest = shape.max_position_embeddings
    return learn_tokenizer(_texts(recipe, shape, made), vocab_size=shape.vocab_size, max_length=longest, bos=False)


def find_tokenizer(preview: Preview, *, offline: bool = False) -> str:
    """A line on the model; the preview then has the run's tokenizer. Raises ModelError if that cannot be had.

    ``offline``: look in the hub's cache alone.
    """
    recipe, shape = preview.recipe, preview.recipe.model
    if not isinstance(shape, NewModel):
        source = base_source(recipe)
        preview.tokenizer = load_tokenizer(replace(source, offline=source.offline or offline))
        return f"{shape.name_or_path}, a vocabulary of {len(preview.tokenizer):,}"
    if recipe.pretrain is not None and (PRETRAIN in preview.made or not recipe.pretrain.data.reads_made):
        made = preview.made[PRETRAIN].file.parent if PRETRAIN in preview.made else None
        preview.tokenizer = learn_run_tokenizer(recipe, shape, made=made)
        return f"new, with a vocabulary of {len(preview.tokenizer):,} learnt from the texts of pretrain"
    preview.tokenizer, preview.counts_bytes = byte_tokenizer(shape), True
    return "new, with a tokenizer of its own; until that is learnt, bytes are counted as tokens"


def byte_tokenizer(shape: NewModel) -> Tokenizer:
    """A byte-level tokenizer without merges, used until the real one can be trained."""
    return learn_tokenizer([], vocab_size=MIN_VOCABULARY, max_length=shape.max_position_embeddings, bos=False)


def _texts(recipe: Recipe, shape: NewModel, made: Path | None) -> Iterator[str]:
    """Texts of the stage, and as many dialogues of the teacher, or at least the markers of the template."""
    section = recipe.pretrain
    assert section is not None
    unlearnt = byte_tokenizer(shape)
    encoder = encoder_for(unlearnt, recipe, PRETRAIN)
    rows = stage_rows(recipe, section.data, Text, None if made is None else made / TEXTS)
    texts = [row.text for row in islice(rows.train, TOKENIZER_TEXTS)]
    chats: Iterable[Messages] = repeat(_MARKERS, len(texts))
    if made is not None and section.data.reads_made:
        taught = open_records(recipe, DataSource(path=str((made / DIALOGUES).resolve())), Chat)
        chats = (chat.messages for chat in islice(taught, TOKENIZER_TEXTS))
    yield from texts
    for messages in chats:
        yield from encoder.render(messages).split(unlearnt.eos_token)


def read_ahead_of_start(work: Work) -> Facts:
    """The facts of texts from outside; of a new model the tokenizer is made for them first."""
    if not section_of(work.recipe, work.stage).data.reads_made:
        make_start(work)
    return read_ahead(work)


def outputs(recipe: Recipe) -> list[str]:
    """The names in the finished folder."""
    start = [f"{START}/"] if isinstance(recipe.model, NewModel) else []
    return [*model_outputs(section_of(recipe, PRETRAIN)), *start]


STAGE = training_stage(PRETRAIN, version=1, maker=SYNTH, run=run, outputs=outputs, preflight=read_ahead_of_start)
