"""How many rows a training stage will have and how long they are, told by a sample of them as tokens.

Public data sets whose lengths are known are not opened. Of pairs that a feedback stage will make, the closed world
gives a likeness: its prompts with a right and a faulty answer.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from random import Random
from statistics import mean
from typing import NamedTuple

from zephyr.data.read.mixture import mix
from zephyr.data.read.sources import Records
from zephyr.data.read.stage_rows import name_of, open_records
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.data.tokenize.truncation import fit_dialogue, fit_preference, split_text
from zephyr.errors import DataError
from zephyr.estimate.row_lengths import RowLengths, known_rows
from zephyr.pipeline.inputs import Trains, row_kind
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import AlignSection, SftSection
from zephyr.records.rows import Chat, Preference, Record, Text
from zephyr.stages.preview import MadeRows
from zephyr.stages.synth import prompts_to_come
from zephyr.world import faulty_answer, ideal_answer, prompts

SAMPLE_ROWS = 512
# Prompts whose answers give a pair; of the rest all answers are rated alike, or too few are rated.
SHARE_WITH_A_PAIR = 0.9


class SampledRows(NamedTuple):
    """The rows of a stage, examples made of some of them, and the seconds that making one took."""

    rows: RowLengths
    examples: tuple[Example, ...] = ()
    seconds_per_row: float = 0.0
    notes: tuple[str, ...] = ()


def sampled_rows(
    recipe: Recipe, stage: str, section: Trains, *, encoder: DialogueEncoder | None, made: MadeRows | None
) -> SampledRows:
    """The rows of a stage. `made`: such as an earlier stage will make. Raises DataError where nothing is known."""
    data = section.data
    if not data.sources and made is None and isinstance(section, AlignSection):
        return _of_feedback(recipe, section, encoder)
    if data.sources:
        parts = [_part(recipe, stage, section, source, encoder) for source in data.sources]
    elif made is not None and encoder is not None:
        records: Records[Record] = open_records(recipe, DataSource(path=str(made.file)), row_kind(section))
        parts = [_measured(islice(records, SAMPLE_ROWS), made.num_rows, section, encoder)]
    else:
        raise DataError(f"{stage}.data.sources", "are rows of a teacher, not known before", "plan after synth has run")
    return _with_held_out(recipe, stage, section, _together(parts), encoder)


def _part(
    recipe: Recipe, stage: str, section: Trains, source: DataSource, encoder: DialogueEncoder | None
) -> SampledRows:
    known = known_rows(source.path, source.split)
    if known is not None:
        taken = round(known.rows.num_rows * source.weight)
        rows = replace(known.rows, num_rows=min(taken, source.max_rows or taken))
        return SampledRows(_cut(rows, section), notes=(f"{name_of(source)}: {known.origin}",))
    if encoder is None:
        remedy = "let it be fetched, or name a model folder"
        raise DataError(f"{stage}: {name_of(source)}", "cannot be counted without the model's tokenizer", remedy)
    records: Records[Record] = open_records(recipe, source, row_kind(section))
    every = mix([records], seed=recipe.seed, shuffle=False)
    step = max(1, -(-len(every) // SAMPLE_ROWS))
    return _measured((every[index] for index in range(0, len(every), step)), len(every), section, encoder)


def _measured(rows: Iterable[Record], num_rows: int, section: Trains, encoder: DialogueEncoder) -> SampledRows:
    """The lengths of the rows, of which there will be so many, within the stage's window."""
    started = time.perf_counter()
    looked_at = 0
    examples: list[Example] = []
    for row in rows:
        looked_at += 1
        examples += _examples(row, section, encoder)
    if not examples:
        raise DataError("data", "no row of the sample can be trained on", "run zephyr check, which says why")
    seconds = (time.perf_counter() - started) / looked_at
    return SampledRows(_lengths(examples, round(num_rows * len(examples) / looked_at)), tuple(examples), seconds)


def _examples(row: Record, section: Trains, encoder: DialogueEncoder) -> Iterator[Example]:
    data = section.data
    if isinstance(row, Preference):
        fitted = fit_preference(encoder.prompt(row.prompt), [encoder.completion(c) for c in row.completions], data)
        if fitted.loss.usable:
            yield Comparison(row.name, fitted.prompt, fitted.completions, row.ratings)
        return
    if isinstance(row, Text):
        pieces = list(split_text(encoder.text(row.text), data))
    else:
        assert isinstance(row, Chat)
        assert isinstance(section, SftSection)
        pieces = [encoder.dialogue(row.messages, loss_on=section.objective.loss_on)]
    for piece in pieces:
        cut = fit_dialogue(piece, data)
        if cut.loss.usable:
            yield Dialogue(row.name, cut.encoded.ids, cut.encoded.scored)


def _lengths(examples: Sequence[Example], num_rows: int) -> RowLengths:
    pairs = [one for one in examples if isinstance(one, Comparison)]
    if pairs:
        answers = [len(ids) for pair in pairs for ids in pair.completions]
        count = round(len(answers) / len(pairs))
        return RowLengths(num_rows, mean(len(pair.prompt) for pair in pairs), mean(answers), count)
    talks = [one for one in examples if isinstance(one, Dialogue)]
    tokens = sum(len(talk.ids) for talk in talks)
    scored = sum(int(talk.scored.sum()) for talk in talks)
    return RowLengths(num_rows, 0.0, tokens / len(talks), scored_share=scored / tokens)


def _of_feedback(recipe: Recipe, section: AlignSection, encoder: DialogueEncoder | None) -> SampledRows:
    """Pairs that the feedback stage will make: of published ratings one a prompt, or as the closed world has them."""
    recorded = [] if recipe.feedback is None else recipe.feedback.recorded
    if recorded and all(known_rows(source.path, source.split) for source in recorded):
        parts = [_part(recipe, "align", section, source, encoder) for source in recorded]
        return _with_held_out(recipe, "align", section, _together(parts), encoder)
    return _of_the_world(recipe, section, encoder)


def _of_the_world(recipe: Recipe, section: AlignSection, encoder: DialogueEncoder | None) -> SampledRows:
    """Pairs as the closed world's prompts and answers give them."""
    _, num_prompts = prompts_to_come(recipe)
    if not num_prompts or encoder is None or recipe.feedback is None:
        raise DataError("align.data.sources", "are pairs not known before", "plan after feedback has run")
    rng = Random(recipe.seed)
    rows = (
        Preference(
            prompt.name,
            prompt.messages,
            (ideal_answer(prompt.messages), faulty_answer(prompt.messages, rng).text),
            (1.0, 0.0),
        )
        for prompt in islice(prompts("feedback", recipe.seed, num_prompts), SAMPLE_ROWS)
    )
    num_rows = round(num_prompts * SHARE_WITH_A_PAIR * recipe.feedback.binarize.max_pairs_per_prompt)
    found = _measured(rows, num_rows, section, encoder)
    note = f"about {num_rows:,} pairs, if {SHARE_WITH_A_PAIR:.0%} of the prompts give one"
    return _with_held_out(recipe, "align", section, found._replace(notes=(note,)), encoder)


def _with_held_out(
    recipe: Recipe, stage: str, section: Trains, found: SampledRows, encoder: DialogueEncoder | None
) -> SampledRows:
    """The rows less those that are held out, which are counted."""
    data = section.data
    if data.eval_sources:
        held = sum(_part(recipe, stage, section, one, encoder).rows.num_rows for one in data.eval_sources)
        return found._replace(rows=replace(found.rows, held_out=held))
    held = round(found.rows.num_rows * data.eval_share)
    return found._replace(rows=replace(found.rows, num_rows=found.rows.num_rows - held, held_out=held))


def _together(parts: Sequence[SampledRows]) -> SampledRows:
    """Several sources as one, their lengths averaged over all rows."""
    every = [part.rows for part in parts]
    num_rows = sum(rows.num_rows for rows in every)
    if not num_rows:
        raise DataError("data.sources", "hold no row", "name others")
    shares = [rows.num_rows / num_rows for rows in every]
    rows = replace(
        every[0],
        num_rows=num_rows,
        prompt_tokens=sum(share * rows.prompt_tokens for share, rows in zip(shares, every, strict=True)),
        completion_tokens=sum(share * rows.completion_tokens for share, rows in zip(shares, every, strict=True)),
        scored_share=sum(share * rows.scored_share for share, rows in zip(shares, every, strict=True)),
    )
    return SampledRows(
        rows,
        tuple(example for part in parts for example in part.examples),
        sum(share * part.seconds_per_row for share, part in zip(shares, parts, strict=True)),
        tuple(note for part in parts for note in part.notes),
    )


def _cut(rows: RowLengths, section: Trains) -> RowLengths:
    """Known rows within the stage's window."""
    prompt = min(rows.prompt_tokens, section.data.max_prompt_length or rows.prompt_tokens)
    answer = min(rows.completion_tokens, section.data.max_length - prompt)
    everything = not isinstance(section, SftSection) or section.objective.loss_on == "everything"
    return replace(rows, prompt_tokens=prompt, completion_tokens=answer, scored_share=1.0 if everything else 0.7)
