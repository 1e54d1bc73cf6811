"""`zephyr check`: what can be known of a run before it: inputs, tokens, steps, losses, files. Trains nothing."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, TypeAlias, TypeVar

from zephyr.data.encoding import DialogueEncoder
from zephyr.data.hub import is_hub_id
from zephyr.data.scanner import scan_preferences
from zephyr.data.sources import Records
from zephyr.data.supervision import Supervision
from zephyr.data.truncation import Loss, TruncationReport, fit_dialogue, fit_preference, split_text
from zephyr.errors import DataError
from zephyr.pipeline.data_rows import open_records
from zephyr.pipeline.ready import encoder_for, tokenizer_of
from zephyr.pipeline.stages import outside_data, taken_stages
from zephyr.pipeline.tokens import window_of
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import AlignSection, PretrainSection, Recipe, SftSection
from zephyr.records.rows import Chat, Preference, Rated, Record, Text
from zephyr.train.sampler import plan_steps
from zephyr.train.schedules import count_warmup_steps
from zephyr.train.settings import TrainSettings

SAMPLE_ROWS = 200
SCANNED_ROWS = 5000
# What every stage of this name leaves in its folder.
FILES = {
    "synth": "texts.jsonl, dialogues.jsonl, prompts.jsonl",
    "pretrain": "model/, tokens/, train/log.jsonl",
    "sft": "model/, tokens/, train/log.jsonl",
    "feedback": "candidates.jsonl, ratings.jsonl, pairs.jsonl",
    "align": "model/, tokens/, train/log.jsonl",
    "evaluate": "samples.json, a file for every measurement",
    "deliver": "report.html",
}
R = TypeVar("R", bound=Record)
Trains: TypeAlias = PretrainSection | SftSection | AlignSection


class Sampled(NamedTuple):
    """A training stage on a sample of its rows."""

    tokens: int
    report: TruncationReport
    supervision: Supervision | None


def check_lines(recipe: Recipe) -> Iterator[str]:
    """What is found, line by line. Raises what would stop the run before it trains."""
    model, tokenizer = recipe.model, tokenizer_of(recipe)
    yield f"recipe    {recipe.name}: {', '.join(recipe.stages)}"
    if isinstance(model, NewModel):
        yield "model     new, with a tokenizer of its own; until that is learnt, bytes are counted as tokens"
    else:
        yield f"model     {model.name_or_path}, a vocabulary of {len(tokenizer):,}"
    for stage in recipe.stages:
        section = getattr(recipe, stage)
        if isinstance(section, PretrainSection | SftSection | AlignSection):
            yield from _training(recipe, stage, section, encoder_for(tokenizer, recipe, stage))
        else:
            yield from _inputs(recipe, stage)
    folder = recipe.output_dir / recipe.name
    for stage in recipe.stages:
        yield f"writes    {folder / f'{stage}-*'}: {FILES[stage]}"
    yield f"writes    {folder}: run.lock.json, summary.json, reference/"


def _training(recipe: Recipe, stage: str, section: Trains, encoder: DialogueEncoder) -> Iterator[str]:
    """Rows, tokens, steps and what is cut of a training stage."""
    opened = list(_opened(recipe, section.data.sources, _kind(section)))
    rows = [records for _, records in opened if records is not None]
    for source, records in opened:
        yield f"{stage:<10}{_told(source, records)}"
    if not section.data.sources:
        yield f"{stage:<10}rows from {', '.join(taken_stages(recipe, stage)) or 'nowhere'}, made in the run"
    if not rows:
        return
    sample = [row for records in rows for row in islice(records, SAMPLE_ROWS)]
    sampled = _sample(section, sample, encoder)
    yield f"{stage:<10}sample: {sampled.report.summary()}"
    if sampled.supervision is not None:
        yield f"{stage:<10}sample: {sampled.supervision.summary()}"
    if isinstance(section, AlignSection):
        scanned = (row for records in rows for row in islice(records, SCANNED_ROWS) if isinstance(row, Preference))
        yield from (f"{stage:<10}{line}" for line in scan_preferences(scanned).lines())
    if len(rows) == len(opened):
        num_rows = sum(int(records.source.weight * len(records)) for records in rows)
        yield f"{stage:<10}{_steps(section, round(num_rows * (1 - section.data.eval_share)), sampled)}"


def _sample(section: Trains, rows: list[Record], encoder: DialogueEncoder) -> Sampled:
    report = TruncationReport(window_of(section.data))
    supervision = Supervision(encoder.stop_ids) if isinstance(section, SftSection) else None
    tokens = 0
    for row in rows:
        for loss in _losses(section, row, encoder, supervision):
            report.add(row.name, loss)
            tokens += loss.tokens - loss.tokens_lost
    return Sampled(tokens, report, supervision)


def _losses(
    section: Trains,
    row: Record,
    encoder: DialogueEncoder,
    supervision: Supervision | None,
) -> Iterator[Loss]:
    window = window_of(section.data)
    if isinstance(row, Text):
        for encoded in split_text(encoder.text(row.text), window.max_length):
            yield fit_dialogue(encoded, window).loss
    elif isinstance(row, Chat) and isinstance(section, SftSection):
        fitted = fit_dialogue(encoder.dialogue(row.messages, loss_on=section.objective.loss_on), window)
        if supervision is not None and fitted.loss.usable:
            supervision.add(fitted.encoded)
        yield fitted.loss
    elif isinstance(row, Preference):
        completions = [encoder.completion(text) for text in row.completions]
        yield fit_preference(encoder.prompt(row.prompt), completions, window).loss


def _steps(section: Trains, num_rows: int, sampled: Sampled) -> str:
    """Optimizer steps, an epoch and in all, from the number of rows."""
    per_step = section.train.train_batch_size
    if isinstance(section, SftSection):
        per_step = section.dialogues_per_step(max(1.0, sampled.tokens / max(1, sampled.report.rows.total())))
    values = section.train.model_dump() | {"train_batch_size": per_step, "report_to": ()}
    settings = TrainSettings(**values)
    plan = plan_steps(max(num_rows, 1), settings)
    ratio = None if settings.warmup_steps is not None else settings.warmup_ratio
    warmup = count_warmup_steps(plan.num_steps, warmup_ratio=ratio, warmup_steps=settings.warmup_steps)
    return (
        f"{num_rows:,} rows, {per_step:,} a step: {plan.steps_per_epoch:,} steps an epoch, "
        f"{plan.num_steps:,} in all, {warmup:,} of them warm-up (before filters)"
    )


def _inputs(recipe: Recipe, stage: str) -> Iterator[str]:
    """The data from outside that a stage without training reads."""
    recorded = recipe.feedback.recorded if stage == "feedback" and recipe.feedback is not None else []
    for source, records in _opened(recipe, recorded, Rated):
        yield f"{stage:<10}{_told(source, records)}"
        if records is not None:
            scanned = (row for row in islice(records, SCANNED_ROWS))
            yield from (f"{stage:<10}{line}" for line in scan_preferences(scanned).lines())
    if not outside_data(recipe, stage):
        taken = taken_stages(recipe, stage)
        yield f"{stage:<10}reads {', '.join(taken) if taken else 'nothing from outside'}"


def _opened(recipe: Recipe, sources: list[DataSource], kind: type[R]) -> Iterator[tuple[DataSource, Records[R] | None]]:
    """Every source with its records; None for one on the hub that cannot be looked at offline."""
    for source in sources:
        try:
            yield source, open_records(recipe, source, kind)
        except DataError:
            if not (recipe.offline and is_hub_id(source.path)):
                raise
            yield source, None


def _told(source: DataSource, records: Records[R] | None) -> str:
    where = f"{source.path} ({source.split})"
    if records is None:
        return f"{where}: on the hub, not looked at offline"
    left_out = ", ".join(f"{count:,} x {reason}" for reason, count in records.counts.items())
    return f"{where}: {len(records):,} rows" + (f", left out {left_out}" if left_out else "")


def _kind(section: Trains) -> type[Record]:
    if isinstance(section, PretrainSection):
        return Text
    return Chat if isinstance(section, SftSection) else Preference
