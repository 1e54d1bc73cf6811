"""`zephyr sweep`: a run for every combination of values, in one run folder, so that common stages are made once.

Stage folders are named by the hash of their settings, and the reference's log-probs are kept by the hash of its
weights: combinations share both. A combination keeps its lock file, its summary and its scores in a folder of its own.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zephyr.atomic import replace_text
from zephyr.deliver.charts import IntervalRow, interval_chart
from zephyr.deliver.rendering import render_html
from zephyr.deliver.run_facts import ModelScore, interval_words, readable, scores_of
from zephyr.errors import Problems, RecipeError, ZephyrError
from zephyr.fastest import as_begun_here
from zephyr.pipeline import preflight_stages, run_recipe, stage_keys
from zephyr.recipe.grid import Combination
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.records.fields import printable
from zephyr.runs.layout import LOCK_FILE, SUMMARY
from zephyr.runs.lock import hold_lock
from zephyr.runs.ranks import is_leader
from zephyr.runs.reader import RunRecord, at, entries, number, read_record, read_run
from zephyr.runs.stage_folder import StageKey, finished

SWEEP = "sweep"
SHOWN_SCORES = 5


@dataclass
class SweepRun:
    """A combination of a sweep: its recipe, the keys of its stages, and, once it has run, its scores or its error."""

    combination: Combination
    recipe: Recipe
    keys: dict[str, StageKey] = field(default_factory=dict)
    scores: list[ModelScore] = field(default_factory=list)
    seconds: float | None = None
    error: str = ""

    @property
    def status(self) -> str:
        """What has become of it."""
        return "failed" if self.error else "waiting" if self.seconds is None else "finished"


def check_sweep(runs: Sequence[SweepRun], console: Console) -> None:
    """Compute the keys of all combinations, and look at all of their data, before the first of them begins.

    Raises RecipeError for a recipe with rounds and for combinations of which no stage would know the difference, and
    one error for all unusable inputs.
    """
    if runs[0].recipe.rounds is not None:
        raise RecipeError(
            "rounds", "a recipe with rounds cannot be swept", "set rounds=null, or run each value by name"
        )
    deliver = runs[0].recipe.deliver
    if deliver is not None and deliver.push_to_hub is not None:
        what = "every combination would be published in place of the one before"
        raise RecipeError("deliver.push_to_hub", what, "set deliver.push_to_hub=null, and push the one that you choose")
    problems, known = Problems(), dict[tuple[str, ...], str]()
    for run in runs:
        with problems.noted():
            run.keys = stage_keys(as_begun_here(run.recipe))
            digests = tuple(key.digest for key in run.keys.values())
            same = known.setdefault(digests, run.combination.label)
            if same != run.combination.label:
                what = f"no stage of this recipe depends on the difference to {same}"
                raise RecipeError(run.combination.label, what, "sweep a setting that changes a result")
    problems.raise_any()
    folder, seen = _folder(runs), set[str]()
    with hold_lock(folder):
        for run in runs:
            new = [name for name, key in run.keys.items() if key.digest not in seen]
            seen |= {key.digest for key in run.keys.values()}
            with problems.noted():
                preflight_stages(as_begun_here(run.recipe), run.keys, folder, new, _unsaid)
    problems.raise_any()
    keys = {key.digest: key for run in runs for key in run.keys.values()}
    there = sum(finished(folder, key) is not None for key in keys.values())
    total = sum(len(run.keys) for run in runs)
    counts = f"{len(keys)} different stages of {total}, {there} of them finished"
    console.print(f"{len(runs)} combinations: {counts}; in {escape(str(folder))}", soft_wrap=True, highlight=False)


def run_sweep(runs: Sequence[SweepRun], console: Console) -> list[SweepRun]:
    """The combinations, after all have run and the table is printed; those that failed say why, and the others go on.

    What is finished is kept: the same sweep again continues. Raises ResourceError where another sweep is in the folder.
    """
    folder = _folder(runs)
    with hold_lock(folder / SWEEP) if is_leader() else nullcontext():
        for place, run in enumerate(runs, 1):
            if is_leader():
                console.rule(f"{place} of {len(runs)}: {escape(run.combination.label)}", align="left")
            _run_one(run, folder, console)
            if is_leader():
                _write_table(runs, folder)
    if is_leader():
        _print_table(runs, folder, console)
    return list(runs)


def _unsaid(_stage: str, _line: str) -> None:
    """Facts about inputs are said when the combination runs."""


def _folder(runs: Sequence[SweepRun]) -> Path:
    return runs[0].recipe.output_dir / runs[0].recipe.name


def _run_one(run: SweepRun, folder: Path, console: Console) -> None:
    """Run a combination and keep its lock file and summary; an error of it is written down."""
    began, place = time.monotonic(), folder / SWEEP / run.combination.folder_name
    try:
        run_recipe(run.recipe, console=console)
    except ZephyrError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise  # the other ranks wait for this combination; torchrun ends them all
        run.error = str(error)
        console.print(f"error: {escape(printable(run.error))}", soft_wrap=True)
    run.seconds = time.monotonic() - began
    if not is_leader():
        return
    # The lock file of the run folder is that of the combination that ran last, if it came so far.
    if _is_locked(run, folder):
        place.mkdir(parents=True, exist_ok=True)
        for name in (LOCK_FILE, SUMMARY) if not run.error else (LOCK_FILE,):
            shutil.copyfile(folder / name, place / name)
    if not run.error:
        run.scores = list(_last_scores(read_run(folder)))


def _is_locked(run: SweepRun, folder: Path) -> bool:
    """Whether the lock file of the run folder is that of this combination."""
    if not (folder / LOCK_FILE).is_file():
        return False
    stages = entries(read_record(folder / LOCK_FILE), "stages")
    return {name: at(stage, "key") for name, stage in stages.items()} == {n: k.digest for n, k in run.keys.items()}


def _last_scores(record: RunRecord) -> Iterator[ModelScore]:
    """The scores of the last model; where nothing was evaluated, what its training measured of held-out rows."""
    trained = record.trained
    if trained is None:
        return
    title = record.title_of(trained.name)
    measured = [score for score in scores_of(record) if score.model == title]
    yield from measured
    for name, value in trained.facts.items() if not measured else ():
        found = number(value)
        if found is not None and (name.startswith("eval_") or name == "loss"):
            yield ModelScore(title, f"{trained.name} training", name, found)


# ---- the table ----


def _measured(score: ModelScore) -> str:
    """What a score is of, for a column."""
    return score.benchmark if score.metric == "score" else f"{score.benchmark}: {score.metric}"


def _by_measure(runs: Sequence[SweepRun]) -> dict[str, dict[str, ModelScore]]:
    """The scores by what they are of, and by combination."""
    found: dict[str, dict[str, ModelScore]] = {}
    for run in runs:
        for score in run.scores:
            found.setdefault(_measured(score), {})[run.combination.label] = score
    return found


def _write_table(runs: Sequence[SweepRun], folder: Path) -> None:
    """Write the combinations as JSON and as a page, named by the settings that differ."""
    keys, scores = list(runs[0].combination.swept), _by_measure(runs)
    told: list[Plain] = [
        {
            "settings": run.combination.swept,
            "status": run.status,
            "error": run.error or None,
            "folder": run.combination.folder_name,
            "stages": {name: key.folder_name for name, key in run.keys.items()},
            "scores": [
                {"of": _measured(one), "value": one.value, "low": one.low, "high": one.high, "n": one.n}
                for one in run.scores
            ],
        }
        for run in runs
    ]
    content: Mapping[str, Plain] = {"name": runs[0].recipe.name, "keys": list(keys), "combinations": told}
    charts = [interval_chart(of, _rows(runs, found)) for of, found in scores.items()]
    page = render_html(
        "sweep.html.j2",
        {
            "name": runs[0].recipe.name,
            "keys": keys,
            "combinations": len(runs),
            "charts": [chart for chart in charts if chart is not None],
            "columns": [*keys, "status", *scores],
            "rows": [_cells(run, keys, scores) for run in runs],
        },
    )
    stem = folder / SWEEP / _stem(keys)
    replace_text(stem.with_name(f"{stem.name}.json"), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    replace_text(stem.with_name(f"{stem.name}.html"), page)


def _stem(keys: Sequence[str]) -> str:
    """The name of the table's files, without their endings."""
    return "+".join(keys)[:80]


def _rows(runs: Sequence[SweepRun], scores: Mapping[str, ModelScore]) -> list[IntervalRow]:
    found = [(run.combination.label, scores[run.combination.label]) for run in runs if run.combination.label in scores]
    return [IntervalRow(label, score.value, score.low, score.high) for label, score in found]


def _cells(run: SweepRun, keys: Sequence[str], scores: Mapping[str, Mapping[str, ModelScore]]) -> list[str]:
    """A combination's values, what has become of it, and its scores."""
    values = [str(run.combination.swept[key]) for key in keys]
    there = (found.get(run.combination.label) for found in scores.values())
    status = f"failed: {run.error}" if run.error else run.status
    return [*values, status, *("" if one is None else _told(one) for one in there)]


def _told(score: ModelScore) -> str:
    doubt = interval_words(score)
    return f"{readable(score.value)} ({doubt})" if doubt else readable(score.value)


def _print_table(runs: Sequence[SweepRun], folder: Path, console: Console) -> None:
    """Print the table, with the first scores, and where all of them are."""
    keys, scores = list(runs[0].combination.swept), _by_measure(runs)
    shown = dict(list(scores.items())[:SHOWN_SCORES])
    table = Table(*keys, "status", *shown)
    for run in runs:
        cells = _cells(run, keys, shown)
        table.add_row(*(escape(cell) for cell in (*cells[: len(keys)], run.status, *cells[len(keys) + 1 :])))
    console.print(table)
    left = len(scores) - len(shown)
    more = f", {left} more scores" if left else ""
    page = folder / SWEEP / f"{_stem(keys)}.html"
    console.print(f"table   {escape(str(page))}{more}", soft_wrap=True)
    for run in runs:
        if run.error:
            told = printable(f"{run.combination.label}: {run.error}")
            console.print(f"failed  {escape(told)}", soft_wrap=True)
