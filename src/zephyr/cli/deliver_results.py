"""Evaluations made outside of a run, in the words of its card and report."""

from collections.abc import Sequence
from pathlib import Path

from zephyr.deliver.report import OutsideResults
from zephyr.deliver.run_facts import Score
from zephyr.evaluate.compare_radar import category_means, radar_svg, top_of
from zephyr.evaluate.published import beside_published, published_deviations
from zephyr.evaluate.results import Result, read_results
from zephyr.runs.reader import RunRecord, at, number

LEAST_AXES = 3


def outside_of(run: RunRecord, folders: Sequence[Path], published: str | None) -> OutsideResults:
    """The scores of the evaluations, radars of those with categories, and all beside `published`."""
    read = [(folder, result) for folder in folders for result in read_results(folder)]
    beside: list[list[str]] = []
    deviations: dict[str, None] = {}  # each once, in order
    for _, result in read if published is not None else []:
        assert published is not None
        rows = [row for row in beside_published(result, published) if _is_complete(result, row.metric)]
        for row in rows:
            verdict = f"{'agrees' if row.agrees else 'differs'} ({_model(run, result)}, {published})"
            numbers = (f"{value:.4g}" for value in (row.run, row.published, row.tolerance))
            beside.append([row.benchmark, row.metric, *numbers, verdict])
        if rows:
            deviations |= {f"{result.benchmark}, published first: {one}": None for one in published_deviations(result)}
    return OutsideResults(
        scores=[score for folder, result in read for score in _scores(run, folder, result)],
        radars=_radars([(_model(run, result), result) for _, result in read]),
        beside=beside,
        deviations=list(deviations),
    )


def _scores(run: RunRecord, folder: Path, result: Result) -> list[Score]:
    """The scores of a result; what lacks too many judgments is none."""
    found = []
    for metric, told in result.scores.items():
        value = number(at(told, "score"))
        if value is None or not _is_complete(result, metric):
            continue
        count = number(at(told, "n"))
        found.append(
            Score(
                model=_model(run, result),
                benchmark=result.benchmark,
                metric=metric,
                value=value,
                low=number(at(told, "low")),
                high=number(at(told, "high")),
                n=None if count is None else int(count),
                standard_error=number(at(told, "standard_error")),
                source=folder.name,
            )
        )
    return found


def _is_complete(result: Result, metric: str) -> bool:
    return at(result.scores, metric, "label") != "incomplete"


def _model(run: RunRecord, result: Result) -> str:
    """The run's own word for a model of its stages, the result's for another."""
    own = (run.title_of(name) for name, stage in run.stages.items() if stage.folder.name in result.model)
    return next(own, result.model)


def _radars(results: Sequence[tuple[str, Result]]) -> list[tuple[str, str]]:
    """A picture for every task that has three categories or more."""
    means = [(model, category_means([result])) for model, result in results]
    tasks = dict.fromkeys(task for _, of in means for task, by in of.items() if len(by) >= LEAST_AXES)
    pictures = []
    for task in tasks:
        there = {model: of[task] for model, of in means if task in of}
        axes = list(dict.fromkeys(category for by in there.values() for category in by))
        series = {model: [by.get(category) for category in axes] for model, by in there.items()}
        pictures.append((task, radar_svg(task, axes, series, top=top_of(task, series))))
    return pictures
