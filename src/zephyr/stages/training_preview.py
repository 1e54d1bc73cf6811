"""Check and estimate of a training stage: tokens, optimizer steps, truncated rows, work, memory and time.

Up to EXACT_ROWS rows are all tokenised, by the run's own functions, so that the counts are exact; of more rows, a
sample is tokenised.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from time import perf_counter
from typing import TypeVar

from zephyr.data.filters.apply import apply_filters
from zephyr.data.filters.row_filter import context
from zephyr.data.read.hub import is_hub_id
from zephyr.data.read.mixture import Mixture, mix
from zephyr.data.read.source_files import name_of
from zephyr.data.read.sources import Records
from zephyr.data.read.stage_rows import (
    Accounts,
    Rows,
    filters_of,
    open_all,
    split_off,
    split_rows,
)
from zephyr.data.scanner import scan_preferences
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.examples import ROW_KINDS, Tokenized
from zephyr.data.tokenize.token_store import Example
from zephyr.errors import DataError, DeviceError, ZephyrError
from zephyr.estimate.row_lengths import RowLengths, known_rows
from zephyr.estimate.workload import Workload
from zephyr.models.source import Source
from zephyr.models.tokenizers import load_tokenizer
from zephyr.recipe.data_section import DataSection, DecontaminationFilter
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import AlignSection, PreferenceSection, SftSection, TrainingSection
from zephyr.recipe.steps import Steps, check_warmup, count_steps
from zephyr.records.rows import Chat, Preference, Rated, Record
from zephyr.stages.overlap import eval_lines, trained_prompts
from zephyr.stages.preview import Preview, SampledStage
from zephyr.stages.start import check_window, encoder_for, named_start, section_of
from zephyr.stages.training_setup import check_device, check_setup, none_held_out, replaced_template

# A check tokenises all of up to EXACT_ROWS rows; of more, SAMPLE_ROWS spread over all of them.
EXACT_ROWS = 10_000
SAMPLE_ROWS = 1_000
# Checked besides a sample: the LONGEST_PROMPTS longest prompts among the LARGE_ROWS rows with most bytes, as a
# prompt that leaves no room for an answer stops the run.
LARGE_ROWS = 20_000
LONGEST_PROMPTS = 20
SCANNED_ROWS = 5_000
# Examples with which a plan times this machine.
TIMED_EXAMPLES = 512
SOURCES_ALONE = "counted without the rows that will be made in the run"
T = TypeVar("T")


@dataclass(frozen=True)
class TrainingPreview:
    """What is known of a training stage before it runs.

    ``scale``: how many times as many rows there will be as were tokenised; 1 where these were all of them.
    ``longest``: the rows with the longest prompts, where not all were tokenised.
    ``is_partial``: rows to be made, of which nothing is known yet, are not counted.
    """

    section: TrainingSection
    accounts: Accounts
    train: Tokenized
    held_out: Tokenized
    longest: Tokenized | None
    scale: float
    examples: tuple[Example, ...]
    seconds_per_row: float
    replaced_template: str | None
    is_partial: bool

    @property
    def num_examples(self) -> int:
        """Examples to train on."""
        return round(self.scale * self.train.num_examples)

    @property
    def num_held_out(self) -> int:
        """Examples that are held out."""
        scale = 1.0 if self.section.data.eval_sources else self.scale
        return round(scale * self.held_out.num_examples)

    @property
    def num_tokens(self) -> int:
        """Tokens to train on in an epoch."""
        return round(self.scale * self.train.num_tokens)

    @property
    def steps(self) -> Steps:
        """The optimizer steps."""
        return steps_of(self.section, max(1, self.num_examples), self.train)

    @property
    def lengths(self) -> RowLengths:
        """The examples' number and mean lengths, as estimates take them."""
        counts = self.train
        per_example = 1 / max(1, counts.num_examples)
        num_completions = max(1, round(counts.num_completions * per_example))
        completion_tokens = (counts.num_tokens - counts.num_prompt_tokens) / max(1, counts.num_completions)
        scored = counts.num_scored / max(1, counts.num_tokens - counts.num_prompt_tokens)
        return RowLengths(
            self.num_examples,
            counts.num_prompt_tokens * per_example,
            completion_tokens,
            num_completions,
            self.num_held_out,
            scored,
        )


def steps_of(section: TrainingSection, num_examples: int, tokenized: Tokenized) -> Steps:
    """The optimizer steps over so many examples, of which these were tokenised."""
    mean_tokens = tokenized.num_tokens / max(1, tokenized.num_examples)
    batch_size = section.dialogues_per_step(mean_tokens) if isinstance(section, SftSection) else None
    return count_steps(section.train, num_examples, batch_size=batch_size)


def _encoder(preview: Preview, stage: str) -> DialogueEncoder | None:
    """The stage's encoder; None if its tokenizer is not available yet."""
    recipe, tokenizer = preview.recipe, preview.tokenizer
    named = named_start(recipe, stage)
    if named is not None:
        if recipe.offline and is_hub_id(named):
            return None
        tokenizer = load_tokenizer(Source(named, offline=recipe.offline))
    return None if tokenizer is None else encoder_for(tokenizer, recipe, stage)


def look(
    preview: Preview, stage: str, parts: Sequence[Records[Record]], held: Sequence[Records[Record]]
) -> TrainingPreview | None:
    """The opened rows of a stage tokenised, all or a sample; None if its tokenizer is not available."""
    encoder = _encoder(preview, stage)
    if encoder is None:
        return None
    recipe, section = preview.recipe, section_of(preview.recipe, stage)
    every: Mixture[Record] = mix(parts, seed=recipe.seed, shuffle=False)
    made, num_rows = preview.made.get(stage) if section.data.reads_made else None, len(every)
    if made is not None:
        num_rows += made.num_rows - every.num_taken[-1]
    is_whole = num_rows == len(every) <= EXACT_ROWS
    rows = split_rows(recipe, section.data, parts, held) if is_whole else _sample(recipe, section.data, parts, held)
    train, held_out = (Tokenized(section, encoder, rows.accounts.refuse) for _ in range(2))
    began = perf_counter()
    examples = _first(train.examples(rows.train), TIMED_EXAMPLES)
    seconds_per_row = (perf_counter() - began) / max(1, train.num_rows)
    _first(held_out.examples(rows.evaluation), 0)
    rows.accounts.refused.check()
    longest = None
    if not is_whole:
        accounts = Accounts((*parts, *held))
        longest = Tokenized(section, encoder, accounts.refuse)
        filtered = apply_filters(_longest(every, parts), filters_of(recipe, section.data.filters))
        _first(longest.examples(filtered.rows), 0)
        accounts.refused.check()
    report = rows.accounts.report
    assert report is not None
    scale = num_rows / max(1, report.rows_in)
    return TrainingPreview(
        section,
        rows.accounts,
        train,
        held_out,
        longest,
        scale,
        tuple(examples),
        seconds_per_row,
        replaced_template(encoder),
        section.data.reads_made and made is None,
    )


def _first(values: Iterator[T], count: int) -> list[T]:
    """The first values; the others are read too, so that they are counted."""
    kept = list(islice(values, count))
    for _ in values:
        pass
    return kept


def _sample(
    recipe: Recipe, data: DataSection, parts: Sequence[Records[Record]], held: Sequence[Records[Record]]
) -> Rows[Record]:
    """A sample as `split_rows` gives all rows: as many of their end as of their beginning."""
    accounts, every = Accounts((*parts, *held)), mix(parts, seed=recipe.seed, shuffle=False)
    spread = (every[index] for index in range(0, len(every), -(-len(every) // SAMPLE_ROWS)))
    return split_off(recipe, data, spread, held, accounts, kind=every.kind)


def _longest(every: Mixture[Record], parts: Sequence[Records[Record]]) -> list[Record]:
    """The rows with the longest prompts in characters, among those that take most bytes."""
    large = (
        records[index]
        for records, taken in zip(parts, every.num_taken, strict=True)
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


def check(stage: str, maker: str, preview: Preview) -> Iterator[str]:
    """Lines on rows, tokens, steps and truncation; errors that would stop the run go to `preview.problems`."""
    recipe, section = preview.recipe, section_of(preview.recipe, stage)
    data, kind = section.data, ROW_KINDS[type(section)]
    try:
        check_device(section)
    except DeviceError as error:
        yield f"will not run on this machine: {error}"
    with preview.problems.noted():
        check_setup(recipe, stage, preview.tokenizer)
    named = named_start(recipe, stage)
    if named is not None:
        yield from preview.check_model(f"{stage}.start", named)
    if isinstance(section, AlignSection) and section.reference is not None:
        yield from preview.check_model(f"{stage}.reference", section.reference)
    with preview.problems.noted():
        check_window(recipe, stage)
    for one in data.filters:
        if isinstance(one, DecontaminationFilter):
            with preview.problems.noted():
                filters_of(recipe, [one])
                yield f"decontaminated against {', '.join(one.against)}"
    parts: list[Records[Record]] = []
    held: list[Records[Record]] = []
    yield from preview.open_sources(data.sources, kind, parts)
    if data.reads_made:
        yield from preview.open_made(stage, maker, kind, parts)
    yield from preview.open_sources(data.eval_sources, kind, held)
    if parts and len(parts) >= len(data.sources) and len(held) == len(data.eval_sources):
        with preview.problems.noted():
            rows: Mixture[Record] = mix(parts, seed=recipe.seed, shuffle=False)
            if data.eval_sources:
                yield from eval_lines(recipe, data, rows, mix(held, seed=recipe.seed, shuffle=False))
            found = look(preview, stage, parts, held)
            whole = found.accounts if found is not None and found.longest is None else None
            preview.trained |= trained_prompts(recipe, stage, data, rows, whole)
            if found is not None:
                yield from _lines(found, counts_bytes=preview.counts_bytes)
                if not found.is_partial:
                    check_warmup(found.steps, section.train, f"{stage}.train")
    if kind is Preference and data.sources and parts:
        yield from defect_lines(parts, held)


def _lines(found: TrainingPreview, *, counts_bytes: bool) -> Iterator[str]:
    """Lines on the tokenised rows. Raises DataError for errors that will certainly stop the run."""
    train, looked_at = found.train, "all rows" if found.longest is None else "sample"
    if not train.num_examples and found.longest is None:
        raise found.accounts.none_left(train.truncation.summary())
    yield from [] if found.replaced_template is None else [f"warning: {found.replaced_template}"]
    yield from found.accounts.filter_lines()
    yield from (f"{looked_at}: {line}" for line in found.accounts.refused_lines())
    yield f"{looked_at}: {train.truncation.summary()}"
    if train.loss_mask is not None:
        yield f"{looked_at}: {train.loss_mask.summary()}"
    yield from (f"{looked_at}: {line}" for line in train.learnable.lines())
    if not counts_bytes:
        yield from _limit_lines(found)
    yield _steps_line(found)
    if found.longest is None and (words := none_held_out(found.section, found.num_held_out)) is not None:
        yield f"warning: {words}"
    if found.section.data.eval_sources:
        yield f"held out: {found.held_out.truncation.summary()}"


def _limit_lines(found: TrainingPreview) -> Iterator[str]:
    """A warning where the sample lost too much. Raises DataError where that is certain of all rows."""
    found.held_out.truncation.check()
    if found.longest is None:
        found.train.check()
        return
    for tokenized in (found.train, found.longest):
        tokenized.truncation.check(shares=False)
    try:
        found.train.truncation.check()
    except DataError as error:
        yield f"warning: the run will stop if all rows are like the sample: {error.what}; {error.remedy}"


def _steps_line(found: TrainingPreview) -> str:
    """Examples, tokens and optimizer steps in words."""
    steps = found.steps
    held = f", {found.num_held_out:,} held out" if found.num_held_out else ""
    return (
        f"{found.num_examples:,} examples of {found.num_tokens:,} tokens{held}, {steps.batch_size:,} a step: "
        f"{steps.steps_per_epoch:,} steps an epoch, {steps.num_steps:,} in all, {steps.warmup_steps:,} of them warm-up"
        f"{', ' + SOURCES_ALONE if found.is_partial else ''}"
    )


def defect_lines(parts: Iterable[Records[Record]], held: Iterable[Records[Record]]) -> list[str]:
    """Defects that the scanner finds in preferences or ratings, and prompts that are also in the held-out rows."""
    others = [row.prompt for row in _beginnings(held) if isinstance(row, Preference | Rated)]
    rows = (row for row in _beginnings(parts) if isinstance(row, Preference | Rated))
    return scan_preferences(rows, other_prompts=others or None).lines()


def _beginnings(parts: Iterable[Records[Record]]) -> Iterator[Record]:
    return (row for records in parts for row in islice(records, SCANNED_ROWS))


def estimate(stage: str, maker: str, preview: Preview) -> Iterator[str]:
    """Lines on work, memory and time; adds the stage to `preview.sampled`."""
    from zephyr.estimate.lines import training_lines

    section = section_of(preview.recipe, stage)
    assert preview.shape is not None
    known = _known_lengths(preview.recipe, section)
    if known is not None:
        lengths, notes = known
        sampled = SampledStage(Workload(stage, section, preview.shape, lengths), (), 0.0)
    else:
        try:
            found = _opened(preview, stage)
        except ZephyrError as error:
            yield f"no estimate: {' '.join(str(error).split())}"
            return
        if found is None:
            yield f"no estimate: its rows are made by {maker}, which has not run, or the tokenizer is not available"
            return
        notes = [] if found.scale == 1 else [f"from a sample of {found.train.num_rows:,} rows"]
        notes += [SOURCES_ALONE] if found.is_partial else []
        workload = Workload(stage, section, preview.shape, found.lengths)
        sampled = SampledStage(workload, found.examples, found.seconds_per_row)
    preview.sampled[stage] = sampled
    yield from training_lines(sampled.workload, preview.cluster, recipe_name=preview.recipe.name, notes=notes)


def _opened(preview: Preview, stage: str) -> TrainingPreview | None:
    """The stage's rows tokenised; None if rows or tokenizer are not available. Raises DataError."""
    recipe, section = preview.recipe, section_of(preview.recipe, stage)
    kind = ROW_KINDS[type(section)]
    made = preview.made.get(stage) if section.data.reads_made else None
    parts = open_all(recipe, [*section.data.sources, *([] if made is None else [made.source])], kind)
    if not parts:
        return None
    found = look(preview, stage, parts, open_all(recipe, section.data.eval_sources, kind))
    if found is not None and not found.train.num_examples:
        raise found.accounts.none_left(found.train.truncation.summary())
    return found


def _known_lengths(recipe: Recipe, section: TrainingSection) -> tuple[RowLengths, list[str]] | None:
    """Rows of public data sets whose lengths are known, so that they need not be fetched; None for any others.

    Of published ratings a prompt gives a pair.
    """
    feedback, sources = recipe.feedback, section.data.sources
    if section.data.reads_made:
        if feedback is None or feedback.asks_models or not isinstance(section, PreferenceSection):
            return None
        sources = [*sources, *feedback.recorded]
    known = [known_rows(source.path, source.split) for source in sources]
    parts = [
        (one, round(one.rows.num_rows * source.weight))
        for one, source in zip(known, sources, strict=True)
        if one is not None
    ]
    if not sources or len(parts) < len(sources):
        return None
    counts = [min(taken, source.max_rows or taken) for (_, taken), source in zip(parts, sources, strict=True)]
    held = [known_rows(source.path, source.split) for source in section.data.eval_sources]
    held_out = sum(one.rows.num_rows for one in held if one is not None)
    num_rows = sum(counts)
    if not held:
        held_out = round(num_rows * section.data.eval_share)
        num_rows -= held_out
    shares = [count / sum(counts) for count in counts]
    prompt = sum(share * one.rows.prompt_tokens for share, (one, _) in zip(shares, parts, strict=True))
    answer = sum(share * one.rows.completion_tokens for share, (one, _) in zip(shares, parts, strict=True))
    prompt = min(prompt, section.data.max_prompt_length or prompt)
    everything = not isinstance(section, SftSection) or section.objective.loss_on == "everything"
    lengths = RowLengths(
        num_rows,
        prompt,
        min(answer, section.data.max_length - prompt),
        parts[0][0].rows.num_completions,
        held_out,
        1.0 if everything else 0.7,
    )
    return lengths, [f"{name_of(source)}: {one.origin}" for (one, _), source in zip(parts, sources, strict=True)]
