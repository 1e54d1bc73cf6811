"""`zephyr run`: lock the run's folder, validate its inputs, make every stage that is not finished, and summarise."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from zephyr.data.read.source_files import locate
from zephyr.data.read.stage_rows import hash_of_source
from zephyr.errors import CheckpointError, Problems
from zephyr.fastest import as_begun, in_dtype, measure_for_run
from zephyr.recipe.model_section import PretrainedModel
from zephyr.recipe.schema import Recipe, chosen_stages
from zephyr.recipe.section import Plain, Section
from zephyr.recipe.stage_sections import EVALUATE
from zephyr.records.fields import printable
from zephyr.runs.fact_lines import facts_in_words, left_out_lines, telling_facts
from zephyr.runs.layout import MODEL, STAGE_FILE, TRAIN
from zephyr.runs.lock import hold_lock
from zephyr.runs.lock_file import Pinned, check_inputs, write_lock_file
from zephyr.runs.ranks import is_leader, wait_until
from zephyr.runs.reader import at, main_scores, number, read_run
from zephyr.runs.stage_folder import (
    Facts,
    StageKey,
    StageRecord,
    finished,
    flatten,
    publish_stage,
    why_again,
    work_folder,
)
from zephyr.runs.summary import RunOutcome, print_summary, write_summary
from zephyr.stages.stage import OnStep, Stage, Work
from zephyr.stages.table import STAGES

Say = Callable[[str, str], None]


def run_recipe(
    recipe: Recipe,
    *,
    console: Console,
    until: str | None = None,
    only: str | None = None,
    pinned: Pinned | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Plain]:
    """The summary of the run, after all chosen stages are finished; stages finished earlier are skipped.

    ``on_step`` gets every line of the log of a stage that trains. Raises the errors of the stages; a later call
    continues from there. A KeyboardInterrupt names the stopped stage.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder = recipe.output_dir / recipe.name
    chosen = chosen_stages(recipe, until=until, only=only)
    measured = measure_for_run(folder) if recipe.asks_for_fastest else None
    recipe = recipe if measured is None else in_dtype(recipe, measured)
    keys = stage_keys(recipe)
    if pinned is not None:
        check_inputs(pinned, keys)
    outcome, began, say = RunOutcome(folder), time.monotonic(), _printer(console, recipe.stages)
    with hold_lock(folder) if is_leader() else nullcontext():
        if is_leader():
            if measured:
                console.print(f"computes in {measured}, the faster dtype where this run began", highlight=False)
            revision, hub_sources = _model_revision(recipe), _hub_sources(recipe)
            write_lock_file(folder, recipe, keys, model_revision=revision, hub_sources=hub_sources, measured=measured)
            preflight_stages(recipe, keys, folder, chosen, say)
        for name, key in keys.items():
            stage = STAGES[name]
            with _interrupts_named(name):
                # Before the record is read: what rank 0 publishes in between is found finished then.
                takes_part = is_leader() or _needs_every_rank(stage, folder / key.work_name)
                record = finished(folder, key)
                if record is not None and name in chosen:
                    outcome.skipped.append(name)
                    say(name, f"skipped, finished {record.finished} in {key.folder_name}")
                elif record is None and name in chosen:
                    reason, started = why_again(folder, key), time.monotonic()
                    say(name, f"again: {reason}" if reason else "begins")
                    work = replace(_open_work(recipe, name, key, outcome), on_step=on_step)
                    facts = stage.run(work) if takes_part else {}
                    _give_back_memory()
                    record = _close_work(folder, key, seconds=time.monotonic() - started, facts=facts)
                    file = f"{key.folder_name}/{STAGE_FILE}"
                    _say_facts(say, name, f"took {record.seconds:.1f} s", record.facts, file=file)
                if record is not None:
                    outcome.folders[name], outcome.records[name] = folder / key.folder_name, record
    outcome.seconds = time.monotonic() - began
    if not is_leader():
        return {}
    summary = write_summary(recipe, outcome)
    print_summary(console, outcome, summary)
    if EVALUATE in outcome.records and EVALUATE not in outcome.skipped and EVALUATE in chosen:
        _track_scores(recipe, folder)
    if len(outcome.folders) == len(recipe.stages):
        _publish(recipe, folder, console)
    return summary


def _give_back_memory() -> None:
    from zephyr.models.host_memory import give_back_freed_memory  # not for a check, which loads no torch

    give_back_freed_memory()


def _track_scores(recipe: Recipe, folder: Path) -> None:
    """Give the trackers of the last training the scores of its model. Raises RecipeError without their packages."""
    record = read_run(folder)
    trained = record.trained
    names = [] if trained is None else getattr(recipe, trained.name).train.report_to
    if trained is None or not names:
        return
    from zephyr.stages.training_setup import tracked_as
    from zephyr.train.tracker import Run, keep_scores

    tracked = tracked_as(Work(recipe, trained.name, trained.folder, {}, folder))
    step = int(number(at(dict(trained.facts), "steps")) or 0)
    run = Run(trained.folder / TRAIN, tracked.name, tracked.config, step, tracked_as=tracked)
    keep_scores(names, run, step, dict(main_scores(record, record.title_of(trained.name))))


def _publish(recipe: Recipe, folder: Path, console: Console) -> None:
    """Push the finished run to the hub if its recipe says so. Raises ResourceError; the run stays finished."""
    push = recipe.deliver.push_to_hub if recipe.deliver is not None else None
    if push is None:
        return
    from zephyr.deliver.push import push_run

    for pushed in push_run(folder, push):
        console.print(f"pushed  {escape(pushed.url)}", soft_wrap=True)


def stage_keys(recipe: Recipe) -> dict[str, StageKey]:
    """The key of each stage, from all that its result depends on. Raises one error for all unreadable data sources."""
    recipe = as_begun(recipe, recipe.output_dir / recipe.name)
    keys: dict[str, StageKey] = {}
    problems = Problems()
    for name in recipe.stages:
        stage = STAGES[name]
        inputs = {read: keys[read].digest for read in stages_read(recipe, stage)}
        for source in stage.sources(recipe):
            with problems.noted():
                inputs[f"{source.path} ({source.split})"] = hash_of_source(recipe, source)
        section: Section = getattr(recipe, name)
        settings = {name: section.result_settings(), "seed": recipe.seed, **stage.depends_on(recipe)}
        if not stage.trains and recipe.inference_dtype is not None:
            settings["inference_dtype"] = recipe.inference_dtype
        flat = {key.removeprefix("."): value for key, value in flatten(settings, "").items()}
        keys[name] = StageKey(name, flat | {f"{name}.version": stage.version}, inputs)
    problems.raise_any()
    return keys


def stages_read(recipe: Recipe, stage: Stage) -> list[str]:
    """The earlier stages of this recipe whose results the stage reads."""
    earlier = recipe.stages[: recipe.stages.index(stage.name)]
    return [name for name in stage.reads(recipe) if name in earlier]


def preflight_stages(
    recipe: Recipe, keys: Mapping[str, StageKey], folder: Path, chosen: Sequence[str], say: Say
) -> None:
    """Read all external data of the chosen stages, before the first of them begins.

    Rows of a training stage are tokenised if its tokenizer is available. Raises one error for all unusable inputs.
    """
    problems = Problems()
    inputs: dict[str, Path] = {}
    for name, key in keys.items():
        if finished(folder, key) is not None:
            inputs[name] = folder / key.folder_name
            continue
        inputs[name] = folder / key.work_name
        if name in chosen:
            with problems.noted():
                facts = STAGES[name].preflight(Work(recipe, name, folder / key.work_name, dict(inputs), folder))
                if facts:
                    _say_facts(say, name, "reads", facts)
    problems.raise_any()


def _printer(console: Console, stages: Sequence[str]) -> Say:
    """Prints a line about a stage, on rank 0 alone."""
    width = max(map(len, stages))

    def say(stage: str, line: str) -> None:
        if is_leader():
            console.print(escape(printable(f"{stage:<{width}}  {line}")), soft_wrap=True, highlight=False)

    return say


def _say_facts(say: Say, stage: str, title: str, facts: Facts, *, file: str = "") -> None:
    """Say the facts, of those in a file the most telling alone."""
    told = telling_facts(facts, file) if file else facts_in_words(facts)
    say(stage, f"{title}: {told}" if told else title)
    for line in left_out_lines(facts):
        say(stage, line)


@contextmanager
def _interrupts_named(stage: str) -> Iterator[None]:
    """Add the name of the stage to a KeyboardInterrupt within the block."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(stage) from stop


def _needs_every_rank(stage: Stage, folder: Path) -> bool:
    """Whether all ranks make the stage together, as they train; rank 0 alone does the rest."""
    return stage.trains and not (folder / MODEL).exists()


def _open_work(recipe: Recipe, name: str, key: StageKey, outcome: RunOutcome) -> Work:
    """The input of the stage's run. Raises CheckpointError if an earlier stage is not finished."""
    read = stages_read(recipe, STAGES[name])
    missing = [one for one in read if one not in outcome.folders]
    if missing:
        what = f"needs the output of stage {missing[0]}, which has not run"
        raise CheckpointError(name, what, f"use --until {name} instead of --only {name}")
    inputs = {one: outcome.folders[one] for one in read}
    return Work(recipe, name, work_folder(outcome.folder, key), inputs, outcome.folder)


def _close_work(folder: Path, key: StageKey, *, seconds: float, facts: Facts) -> StageRecord:
    """The record of the stage, published by rank 0 and awaited by the others."""
    if is_leader():
        return publish_stage(folder, key, seconds=seconds, facts=facts)
    done = folder / key.folder_name
    wait_until(done.is_dir, f"{done} from rank 0")
    record = finished(folder, key)
    assert record is not None, done
    return record


def _hub_sources(recipe: Recipe) -> list[str]:
    """The data sources of the recipe that are on the hub."""
    sources = [source for name in recipe.stages for source in STAGES[name].sources(recipe)]
    return sorted({source.path for source in sources if locate(source, recipe.data_dir) is None})


def _model_revision(recipe: Recipe) -> str | None:
    """The commit of a model on the hub, None for a folder or a new model."""
    if not isinstance(recipe.model, PretrainedModel):
        return None
    from zephyr.models.source import resolved_revision
    from zephyr.stages.start import base_source

    return resolved_revision(base_source(recipe))
