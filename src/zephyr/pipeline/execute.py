"""A run from its first stage to its last: finished ones are skipped, the others are made."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from zephyr.errors import CheckpointError, RecipeError, did_you_mean
from zephyr.pipeline.stages import TRAINING, Maker, Planned, taken_stages
from zephyr.pipeline.telling import facts_in_words, left_out_lines
from zephyr.recipe.schema import Recipe
from zephyr.runs.layout import MODEL
from zephyr.runs.ranks import is_leader, wait_until
from zephyr.runs.stage_folder import Facts, StageRecord, finished, publish, why_again, work_folder
from zephyr.stages.stage import Work

Say = Callable[[str], None]


@dataclass
class RunOutcome:
    """What a run has made: the folder and the record of each stage, which of them were there before, and the time."""

    folder: Path
    folders: dict[str, Path] = field(default_factory=dict)
    records: dict[str, StageRecord] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0


def chosen_stages(recipe: Recipe, *, until: str | None, only: str | None) -> Sequence[str]:
    """The stages to be made now. Raises RecipeError for a name the recipe does not have."""
    for name in (until, only):
        if name is not None and name not in recipe.stages:
            what = f"the recipe has no stage '{name}'{did_you_mean(name, recipe.stages)}"
            raise RecipeError("--until" if name == until else "--only", what, "name a stage of the recipe")
    if only is not None:
        return (only,)
    return recipe.stages[: recipe.stages.index(until) + 1] if until is not None else recipe.stages


def execute(
    recipe: Recipe,
    planned: Sequence[Planned],
    makers: Mapping[str, Maker],
    *,
    run_folder: Path,
    stages: Sequence[str],
    say: Say,
) -> RunOutcome:
    """Make the `stages` that are not finished. Raises what a stage raises; a later call goes on from there.

    A KeyboardInterrupt names the stage that was interrupted.
    """
    began = time.monotonic()
    outcome = RunOutcome(run_folder)
    width = max(len(stage) for stage in recipe.stages)
    for one in planned:
        with _interrupts_named(one.stage):
            # Before the next line: what rank 0 has published in between is found finished then.
            takes_part = is_leader() or _is_trained_by_all(run_folder, one)
            record = finished(run_folder, one.key)
            if one.stage not in stages:
                if record is not None:
                    _remember(outcome, one, record)
                continue
            if record is not None:
                outcome.skipped.append(one.stage)
                say(f"{one.stage:<{width}}  skipped, finished {record.finished} in {one.key.folder_name}")
            else:
                reason = why_again(run_folder, one.key)
                say(f"{one.stage:<{width}}  {'again: ' + reason if reason else 'begins'}")
                record = _make(recipe, one, makers[one.stage] if takes_part else None, outcome)
                told = facts_in_words(record.facts)
                say(f"{one.stage:<{width}}  took {record.seconds:.1f} s{': ' if told else ''}{told}")
                for line in left_out_lines(record.facts):
                    say(f"{one.stage:<{width}}  {line}")
            _remember(outcome, one, record)
    outcome.seconds = time.monotonic() - began
    return outcome


@contextmanager
def _interrupts_named(stage: str) -> Iterator[None]:
    """Nothing; Ctrl-C within is passed on with the name of the stage."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(stage) from stop


def _is_trained_by_all(run_folder: Path, one: Planned) -> bool:
    """Whether every rank is needed to make the stage: all train together, but rank 0 alone does the rest."""
    return one.stage in TRAINING and not (run_folder / one.key.work_name / MODEL).exists()


def _make(recipe: Recipe, one: Planned, make: Maker | None, outcome: RunOutcome) -> StageRecord:
    """The record of the stage once it is made, here or, where there is no maker, by rank 0."""
    taken = taken_stages(recipe, one.stage)
    missing = [name for name in taken if name not in outcome.folders]
    if missing:
        raise CheckpointError(
            one.stage, f"needs what stage {missing[0]} makes, which is not there", f"run --until {one.stage}"
        )
    inputs = {name: outcome.folders[name] for name in taken}
    began = time.monotonic()
    facts: Facts = {}
    if make is not None:
        facts = make(Work(recipe, one.stage, work_folder(outcome.folder, one.key), inputs, outcome.folder))
    if is_leader():
        return publish(outcome.folder, one.key, seconds=time.monotonic() - began, facts=facts)
    done = outcome.folder / one.key.folder_name
    wait_until(done.is_dir, f"{done} from rank 0")
    record = finished(outcome.folder, one.key)
    assert record is not None, done
    return record


def _remember(outcome: RunOutcome, one: Planned, record: StageRecord) -> None:
    outcome.folders[one.stage] = outcome.folder / one.key.folder_name
    outcome.records[one.stage] = record
