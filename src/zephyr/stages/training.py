"""What the three training stages share: inputs, dependencies, tokenised rows, and the preflight."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from zephyr.atomic import discard, replace_text
from zephyr.data.read.source_files import EVERY_SPLIT
from zephyr.data.read.stage_rows import PARTS, Part, stage_rows
from zephyr.data.tokenize.encoding import DialogueEncoder, RowEncoder
from zephyr.data.tokenize.examples import ROW_KINDS, Tokenized
from zephyr.data.tokenize.token_store import DialogueStore, PreferenceStore, StoreKind, TokenWriter
from zephyr.recipe.data_section import DataSection, DataSource, DecontaminationFilter
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import AlignSection, PreferenceSection, TrainingSection
from zephyr.recipe.steps import check_warmup
from zephyr.runs.layout import ADAPTER, MODEL, OUTCOME, PROMPT_KEYS, TOKENS, TRAIN, TRAIN_LOG
from zephyr.runs.ranks import is_leader, wait_until
from zephyr.runs.stage_folder import Facts
from zephyr.stages.stage import Stage, Work
from zephyr.stages.start import (
    check_window,
    referenced_stages,
    section_of,
    source_at_hand,
    starting_stage,
    starting_tokenizer,
    template_and_model,
)
from zephyr.stages.training_preview import check, estimate, steps_of
from zephyr.stages.training_setup import check_device, check_setup, none_held_out, replaced_template, slow_precision

# In the run's folder: log-probs of reference models, shared by its stages.
REFERENCE = "reference"
ACCOUNTS = "accounts.json"
# In a stage's folder while its rows are tokenised.
JOURNAL = "tokens.journal"
_log = logging.getLogger(__name__)


def training_stage(
    name: str,
    *,
    version: int,
    maker: str,
    run: Callable[[Work], Facts],
    outputs: Callable[[Recipe], list[str]] | None = None,
    preflight: Callable[[Work], Facts] | None = None,
) -> Stage:
    """The record of a training stage. ``maker``: the stage whose rows it learns from where it names no sources."""
    return Stage(
        name=name,
        version=version,
        reads=partial(_reads, name, maker),
        sources=lambda recipe: outside_sources(section_of(recipe, name).data),
        outputs=outputs or (lambda recipe: model_outputs(section_of(recipe, name))),
        check=partial(check, name, maker),
        estimate=partial(estimate, name, maker),
        preflight=preflight or read_ahead,
        run=run,
        depends_on=partial(template_and_model, stage=name),
        trains=True,
    )


def _reads(name: str, maker: str, recipe: Recipe) -> tuple[str, ...]:
    made = (maker,) if section_of(recipe, name).data.reads_made else ()
    section, before = section_of(recipe, name), starting_stage(recipe, name)
    named = filter(None, (section.start, section.reference)) if isinstance(section, AlignSection) else ()
    referenced = referenced_stages(recipe, name, named)
    return tuple(dict.fromkeys((*(() if before is None else (before,)), *referenced, *made)))


def outside_sources(data: DataSection) -> list[DataSource]:
    """All that a data section reads from outside, evaluation sets of its filters among it."""
    against = [path for one in data.filters if isinstance(one, DecontaminationFilter) for path in one.against]
    return [*data.sources, *data.eval_sources, *(DataSource(path=path, split=EVERY_SPLIT) for path in against)]


def model_outputs(section: TrainingSection) -> list[str]:
    """The names in the finished folder of a stage that trains a model."""
    has_adapters = getattr(section, "lora", None) is not None
    return [f"{MODEL}/", f"{TOKENS}/", f"{TRAIN}/{TRAIN_LOG}", OUTCOME, *([f"{ADAPTER}/"] if has_adapters else [])]


def made_rows(work: Work, maker: str, file: str) -> Path | None:
    """The file of rows that an earlier stage has made for this one; None where this one reads its sources alone."""
    return work.inputs[maker] / file if maker in work.inputs else None


def prepare(work: Work, encoder: DialogueEncoder, made: Path | None = None) -> Facts:
    """The facts of the stage's rows, after rank 0 has written them as tokens to its folder, once.

    ``made``: the file of an earlier stage, read where the section reads made rows. Raises DataError.
    """
    tokens = work.folder / TOKENS
    accounts = tokens / ACCOUNTS
    if not is_leader():
        wait_until(accounts.exists, f"{accounts} from rank 0")
    elif not accounts.exists():
        from zephyr.data.tokenize.encoding_journal import EncodingJournal  # not for a check, which stores nothing

        discard(tokens)
        tokens.mkdir(parents=True)
        if (words := replaced_template(encoder)) is not None:
            _log.warning("%s: %s", work.stage, words)
        with EncodingJournal(encoder, work.folder / JOURNAL) as journal:
            facts = _store(work, journal, made, tokens)
        replace_text(accounts, json.dumps(facts, indent=1, ensure_ascii=False))
    if is_leader():
        (work.folder / JOURNAL).unlink(missing_ok=True)
    found: Facts = json.loads(accounts.read_bytes())
    return found


def _store(work: Work, encoder: RowEncoder, made: Path | None, tokens: Path) -> Facts:
    section, facts = section_of(work.recipe, work.stage), Facts()
    rows = stage_rows(work.recipe, section.data, ROW_KINDS[type(section)], made)
    for part in PARTS:
        tokenized = Tokenized(section, encoder, rows.accounts.refuse)
        kind: StoreKind = "preferences" if isinstance(section, PreferenceSection) else "dialogues"
        with TokenWriter(tokens / part, kind) as writer:
            for example in tokenized.examples(rows.part(part)):
                writer.add(example)
        replace_text(tokens / f"truncation-{part}.json", json.dumps(tokenized.truncation.to_fields(), indent=1))
        rows.accounts.refused.check()
        if part == "eval":
            tokenized.truncation.check()
            if (words := none_held_out(section, tokenized.num_examples)) is not None:
                _log.warning("%s: %s", work.stage, words)
            return rows.accounts.facts() | facts | {"held_out": tokenized.num_examples}
        np.save(tokens / PROMPT_KEYS, np.array(rows.accounts.overlap.trained, np.uint64))
        if not tokenized.num_examples:
            raise rows.accounts.none_left(tokenized.truncation.summary())
        tokenized.check()
        check_warmup(steps_of(section, tokenized.num_examples, tokenized), section.train, f"{work.stage}.train")
        rows.accounts.write(tokens)
        facts = tokenized.facts()
    return facts


def stored_dialogues(folder: Path, part: Part) -> DialogueStore:
    """The stored dialogues of a stage's folder."""
    return DialogueStore(folder / TOKENS / part)


def stored_comparisons(folder: Path, part: Part) -> PreferenceStore:
    """The stored preferences of a stage's folder."""
    return PreferenceStore(folder / TOKENS / part)


def read_ahead(work: Work) -> Facts:
    """The facts of the stage's external rows: all read, and tokenised if the tokenizer is available.

    Raises DeviceError if this machine does not support the training, RecipeError for a window larger than the model's
    positions, RecipeError or ModelError for packages or modules that are named and not there, DataError for unusable
    rows.
    """
    section = section_of(work.recipe, work.stage)
    check_device(section)
    slow = slow_precision(section)
    if slow is not None:
        _log.warning("%s.train: %s", work.stage, slow)
    check_window(work.recipe, work.stage)
    check_setup(work.recipe, work.stage)
    if not section.data.sources:
        return {}
    source = source_at_hand(work)
    if source is not None and not section.data.reads_made:
        return prepare(work, starting_tokenizer(source, work.recipe, work.stage)[1])
    named = section.data.model_copy(update={"with_made_rows": False})
    rows = stage_rows(work.recipe, named, ROW_KINDS[type(section)], None)
    num_rows = sum(1 for _ in rows.train)
    if not num_rows:
        raise rows.accounts.none_left()
    return {"rows": num_rows, **rows.accounts.facts()}
