"""`zephyr run` of a recipe with rounds: runs one after the other, each from the model that the one before has made."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zephyr.atomic import replace_text
from zephyr.data.read.stage_rows import open_records
from zephyr.errors import NothingToPreferError, RecipeError
from zephyr.fastest import as_begun
from zephyr.feedback.judge import RATINGS
from zephyr.models.source import Source, model_folder
from zephyr.pipeline import run_recipe
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.model_section import POLICY, STAGE_REFERENCE
from zephyr.recipe.rounds import RoundInputs, first_round, later_round, round_name
from zephyr.recipe.schema import Recipe, chosen_stages
from zephyr.recipe.section import Plain
from zephyr.recipe.stage_sections import ALIGN, FEEDBACK, PRETRAIN, SFT, SYNTH
from zephyr.records.rows import Rated
from zephyr.runs.layout import MODEL, SUMMARY
from zephyr.runs.lock import hold_lock
from zephyr.runs.ranks import is_alone, is_leader
from zephyr.runs.reader import RunRecord, at, entries, main_scores, number, read_run
from zephyr.stages.start import BASE, base_source, starting_tokenizer
from zephyr.stages.synth import PROMPTS

# In the folder of a round: what its answers were like, and how far its policy was from the first.
DRIFT = "drift.json"
_DRIFT_COLUMNS = ("answers", "words", "distinct", "kl")
_DRIFT_TITLES = ("answers", "words an answer", "distinct 2-grams", "KL to the first, nats an answer")


class FinishedRound(NamedTuple):
    """A round that is done: its record, the model that it has made, and that model's scores by name."""

    record: RunRecord
    model: Path
    scores: Mapping[str, float]


def run_rounds(
    recipe: Recipe, *, console: Console, until: str | None = None, only: str | None = None
) -> dict[str, Plain]:
    """The summary of all rounds, after they are finished; what was finished earlier is skipped.

    ``until``: stop after this stage of the first round. Raises what `run_recipe` does, and RecipeError for ``only``.
    """
    rounds = recipe.rounds
    assert rounds is not None
    folder, first_recipe = recipe.output_dir / recipe.name, first_round(recipe)
    if only is not None:
        what = "a stage of which round is not known"
        raise RecipeError("--only", what, f"run a round's own recipe, such as {folder / round_name(1)}/run.lock.json")
    stops_early = until is not None and chosen_stages(first_recipe, until=until, only=None)[-1] != recipe.stages[-1]
    finished: list[FinishedRound] = []
    with hold_lock(folder) if is_leader() else nullcontext():
        for count in range(1, rounds.count + 1):
            made = first_recipe if not finished else later_round(recipe, count, _inputs(recipe, finished))
            if is_leader():
                console.print(f"round {count} of {rounds.count}", style="bold")
            try:
                summary = run_recipe(made, console=console, until=until)
            except NothingToPreferError as error:
                if not finished or not is_alone():  # other ranks would wait for the round
                    raise
                console.print(f"round {count} teaches nothing: {error}; the rounds end before it", style="yellow")
                break
            recipe = as_begun(recipe, folder / round_name(1))
            if stops_early:
                return summary
            finished.append(_finished(made))
            if is_leader():
                _keep_drift(recipe, finished)
            if _has_fallen(finished, rounds.watch, rounds.patience):
                break
        return _summarised(recipe, finished, console) if is_leader() else {}


def best_round(finished: Sequence[FinishedRound], watch: str | None) -> int:
    """The index of the round whose model is kept: the first with the best watched score, or the last of all."""
    if watch is None:
        return len(finished) - 1
    return max(range(len(finished)), key=lambda index: finished[index].scores.get(watch, float("-inf")))


def _has_fallen(finished: Sequence[FinishedRound], watch: str | None, patience: int) -> bool:
    """Whether so many rounds have passed since the one with the best score."""
    return watch is not None and len(finished) - 1 - best_round(finished, watch) >= patience


def _finished(made: Recipe) -> FinishedRound:
    record = read_run(made.output_dir / made.name)
    return FinishedRound(record, record.stages[ALIGN].folder / MODEL, dict(main_scores(record, record.title_of(ALIGN))))


def _inputs(recipe: Recipe, finished: Sequence[FinishedRound]) -> RoundInputs:
    record = finished[0].record
    models = {name: record.stages[name].folder / MODEL for name in (PRETRAIN, SFT) if name in record.stages}
    first = models.get(SFT) or models.get(PRETRAIN) or model_folder(base_source(recipe))
    prompts = record.stages[SYNTH].folder / PROMPTS if SYNTH in record.stages else None
    return RoundInputs(finished[-1].model, first, models, prompts)


# ---- what happened between rounds ----


def _keep_drift(recipe: Recipe, finished: Sequence[FinishedRound]) -> None:
    """Write what the answers of the last round were like, once."""
    from zephyr.evaluation.drift import answer_statistics, divergence

    record = finished[-1].record
    path = record.folder / DRIFT
    if path.exists():
        return
    ratings = record.stages[FEEDBACK].folder / RATINGS
    rows = list(open_records(recipe, DataSource(path=str(ratings.resolve())), Rated))
    policy = STAGE_REFERENCE + POLICY
    answers, kl = answer_statistics(rows, policy), 0.0
    if len(finished) > 1:
        models = finished[-2].model, _inputs(recipe, finished).first
        source, first = (Source(str(one), offline=True) for one in models)
        encoder = starting_tokenizer(source, recipe, FEEDBACK)[1]
        kl = divergence(rows, policy, source, first, encoder, dtype=recipe.inference_dtype)
    values = dict(zip(_DRIFT_COLUMNS, (*answers, kl), strict=True))
    replace_text(path, json.dumps({"prompts": len(rows), **values}, indent=1) + "\n")


def _summarised(recipe: Recipe, finished: Sequence[FinishedRound], console: Console) -> dict[str, Plain]:
    """The summary, after it has been written and the table of rounds printed."""
    assert recipe.rounds is not None
    best = finished[best_round(finished, recipe.rounds.watch)]
    rounds: list[Plain] = [
        {
            "folder": one.record.folder.name,
            "model": str(one.model),
            "scores": dict(one.scores),
            "drift": json.loads((one.record.folder / DRIFT).read_bytes()),
        }
        for one in finished
    ]
    first = finished[0].record
    start = dict(main_scores(first, first.title_of(SFT) if SFT in first.stages else BASE))
    summary: dict[str, Plain] = {
        "name": recipe.name,
        "start": {"scores": dict(start)},
        "rounds": rounds,
        "best": best.record.folder.name,
        "model": str(best.model),
    }
    replace_text(recipe.output_dir / recipe.name / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    console.print(_table(start, rounds, list(finished[0].scores)))
    watch = recipe.rounds.watch
    if watch is not None and start.get(watch, float("-inf")) >= best.scores.get(watch, float("-inf")):
        what = f"no round is better at {watch} than the start; the model below is the best of the rounds"
        console.print(what, style="yellow", soft_wrap=True)
    console.print(f"model   {escape(str(best.model))}, of {best.record.folder.name}", soft_wrap=True)
    console.print(f"chat    zephyr chat {escape(str(best.model))}", soft_wrap=True)
    return summary


def _table(start: Mapping[str, float], rounds: Sequence[Plain], names: Sequence[str]) -> Table:
    """A column for the start and for each round: what its policy answered before, and its model's scores after."""
    table = Table("", "start", *(str(at(one, "folder")) for one in rounds))
    for name, title in zip(_DRIFT_COLUMNS, _DRIFT_TITLES, strict=True):
        table.add_row(title, "", *(f"{number(at(one, 'drift', name)) or 0:,.4g}" for one in rounds))
    for name in names:
        before = f"{start[name]:.4g}" if name in start else ""
        table.add_row(name, before, *(f"{number(entries(at(one, 'scores')).get(name)) or 0:.4g}" for one in rounds))
    return table
