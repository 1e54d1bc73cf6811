"""A training stage foretold from a sample of its rows: tokens, what is cut, what is learned, steps, defects.

The sample is spread over all rows and goes through the recipe's filters. Where it holds every row, all that would
stop the run is raised; of more rows those with the longest prompts are looked at too, since one is enough to stop it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from typing import NamedTuple

from zephyr.data.filters.apply import apply_filters
from zephyr.data.filters.row_filter import context
from zephyr.data.read.mixture import Mixture, mix
from zephyr.data.read.sources import Records
from zephyr.data.read.stage_rows import Accounts, filters_of
from zephyr.data.scanner import scan_preferences
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.loss_mask_stats import LossMaskStats
from zephyr.data.tokenize.truncation import Loss, TruncationReport, fit_dialogue, fit_preference, split_text
from zephyr.errors import DataError
from zephyr.pipeline.inputs import Trains
from zephyr.pipeline.tokens import none_left, refuse_completions
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import AlignSection, SftSection
from zephyr.recipe.steps import count_steps
from zephyr.records.rows import Chat, Preference, Rated, Record, Text

SAMPLE_ROWS = 1000
SCANNED_ROWS = 5000
# Of so many rows that take most bytes, so many with the longest prompts.
LARGE_ROWS = 20_000
LONGEST_PROMPTS = 20


@dataclass(frozen=True)
class Stage:
    """What a stage does to its rows; `counts_bytes` where a stand-in for its tokenizer takes bytes for tokens."""

    recipe: Recipe
    section: Trains
    encoder: DialogueEncoder
    counts_bytes: bool


class Measured(NamedTuple):
    """What was counted over some rows."""

    report: TruncationReport
    supervision: LossMaskStats | None
    tokens: int  # that are left


def foretell(stage: Stage, parts: Sequence[Records[Record]], *, num_rows: int | None = None) -> Iterator[str]:
    """Lines about the stage on the rows of these sources. Raises DataError for what would stop the run.

    `num_rows`: how many there will be, where these are only the first of them.
    """
    rows = mix(parts, seed=stage.recipe.seed, shuffle=False)
    accounts = Accounts()
    sample = list(_filtered(stage, _spread(rows), accounts))
    num_rows = len(rows) if num_rows is None else num_rows
    is_whole = num_rows <= SAMPLE_ROWS
    if not sample and is_whole:
        raise none_left(accounts)
    yield from accounts.lines()
    assert accounts.report is not None
    measured = _measured(stage, sample)
    longest = None if is_whole else _measured(stage, list(_filtered(stage, _longest(rows, parts), Accounts())))
    trained = num_rows * (1 - stage.section.data.eval_share) * accounts.report.rows_out / accounts.report.rows_in
    # Long texts to pretrain on become several examples.
    num_examples = trained * measured.report.rows.total() / max(1, len(sample))
    yield from _account(stage, measured, longest)
    yield _steps(stage, round(num_examples), measured)


def foretell_held_out(stage: Stage, parts: Sequence[Records[Record]]) -> Iterator[str]:
    """Lines about rows that are held out, and so not filtered. Raises DataError for what would stop the run."""
    rows = mix(parts, seed=stage.recipe.seed, shuffle=False)
    measured = _measured(stage, list(_spread(rows)))
    longest = None if len(rows) <= SAMPLE_ROWS else _measured(stage, _longest(rows, parts))
    yield from (f"held out, {line}" for line in _account(stage, measured._replace(supervision=None), longest))


def preference_lines(parts: Iterable[Records[Record]], held_out: Iterable[Records[Record]]) -> list[str]:
    """What the scanner finds in preferences or ratings, and which prompts stand among the held-out rows too."""
    others = [row.prompt for row in _first(held_out) if isinstance(row, Preference | Rated)]
    rows = (row for row in _first(parts) if isinstance(row, Preference | Rated))
    return scan_preferences(rows, other_prompts=others or None).lines()


def _first(parts: Iterable[Records[Record]]) -> Iterator[Record]:
    return (row for records in parts for row in islice(records, SCANNED_ROWS))


def _filtered(stage: Stage, rows: Iterable[Record], accounts: Accounts) -> Iterator[Record]:
    filtered = apply_filters(rows, filters_of(stage.recipe, stage.section.data.filters))
    accounts.report = filtered.report
    return filtered.rows


def _spread(rows: Mixture[Record]) -> Iterator[Record]:
    """A sample of the rows, as many of their end as of their beginning; all of them if they are few."""
    return (rows[index] for index in range(0, len(rows), -(-len(rows) // SAMPLE_ROWS)))


def _longest(rows: Mixture[Record], parts: Sequence[Records[Record]]) -> list[Record]:
    """The rows with the longest prompts in characters, among the largest ones."""
    large = (
        records[index]
        for records, taken in zip(parts, rows.num_taken, strict=True)
        for index in records.largest(LARGE_ROWS // len(parts))
        if index < taken
    )
    return nlargest(LONGEST_PROMPTS, large, key=_prompt_characters)


def _prompt_characters(row: Record) -> int:
    """The characters before the first answer."""
    total = 0
    for message in context(row):
        if message.role == "assistant" and isinstance(row, Chat):
            break
        total += len(message.content)
    return total


def _account(stage: Stage, measured: Measured, longest: Measured | None) -> Iterator[str]:
    """What the window takes and what is learned; `longest` has the worst rows beside, if these are not all.

    Raises DataError where the run would stop for certain.
    """
    looked_at = "all rows" if longest is None else "sample"
    yield f"{looked_at}: {measured.report.summary()}"
    if measured.supervision is not None:
        yield f"{looked_at}: {measured.supervision.summary()}"
    if stage.counts_bytes:
        return
    if longest is None:
        measured.report.check()
        if measured.supervision is not None and isinstance(stage.section, SftSection):
            measured.supervision.check(loss_on=stage.section.objective.loss_on)
        return
    for report in (measured.report, longest.report):
        report.check(shares=False)
    try:
        measured.report.check()
    except DataError as error:
        yield f"warning: the run will stop if all rows are like the sample: {error.what}; {error.remedy}"


def _measured(stage: Stage, rows: Sequence[Record]) -> Measured:
    supervision = LossMaskStats(stage.encoder.stop_ids) if isinstance(stage.section, SftSection) else None
    report = TruncationReport(stage.section.data)
    for row in rows:
        for loss in _losses(stage, row, supervision):
            report.add(row.name, loss)
    return Measured(report, supervision, report.tokens - report.tokens_lost)


def _losses(stage: Stage, row: Record, supervision: LossMaskStats | None) -> Iterator[Loss]:
    data, encoder = stage.section.data, stage.encoder
    if isinstance(row, Text):
        for encoded in split_text(encoder.text(row.text), data):
            yield fit_dialogue(encoded, data).loss
    elif isinstance(row, Chat) and isinstance(stage.section, SftSection):
        fitted = fit_dialogue(encoder.dialogue(row.messages, loss_on=stage.section.objective.loss_on), data)
        if supervision is not None and fitted.loss.usable:
            supervision.add(fitted.encoded)
        yield fitted.loss
    elif isinstance(row, Preference) and isinstance(stage.section, AlignSection):
        refuse_completions(stage.section, row)
        completions = [encoder.completion(text) for text in row.completions]
        yield fit_preference(encoder.prompt(row.prompt), completions, data).loss


def _steps(stage: Stage, num_examples: int, measured: Measured) -> str:
    """Tokens and optimizer steps, an epoch and in all, from the number of examples."""
    section = stage.section
    per_step, examples = section.train.train_batch_size, max(1, measured.report.rows.total())
    if isinstance(section, SftSection):
        per_step = section.dialogues_per_step(max(1.0, measured.tokens / examples))
    steps = count_steps(section.train, max(num_examples, 1), batch_size=per_step)
    num_tokens = round(num_examples * measured.tokens / examples)
    return (
        f"{num_examples:,} examples of {num_tokens:,} tokens, {per_step:,} a step: "
        f"{steps.steps_per_epoch:,} steps an epoch, {steps.num_steps:,} in all, {steps.warmup_steps:,} of them warm-up"
    )
