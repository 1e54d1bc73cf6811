"""A card and a report of a run on request, with results of evaluations outside the run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from zephyr.atomic import replace_unedited
from zephyr.deliver.card import card_of, card_place
from zephyr.deliver.charts import Series, line_chart
from zephyr.deliver.report import OutsideResults, RunSeries, report_of
from zephyr.deliver.run_facts import ModelScore
from zephyr.errors import DataError
from zephyr.evaluation.compare_radar import category_means, radar_svg, top_of
from zephyr.evaluation.published import beside_published, published_deviations
from zephyr.evaluation.results import Result, read_results
from zephyr.records.fields import Json
from zephyr.runs.layout import LOCK_FILE, REPORT, SUMMARY
from zephyr.runs.reader import RunRecord, at, elements, entries, number, read_record, read_run

LEAST_AXES = 3


def write_card(run_folder: Path, *, out: Path | None = None, results: Sequence[Path] = (), force: bool = False) -> Path:
    """The path of the card that is now written: `out`, or in the model's folder.

    `results` are folders of evaluations outside the run, whose scores the card then has too. Raises DataError for what
    is no run, and without ``force`` for a card that was edited.
    """
    record, _ = _read(run_folder)
    place = out or card_place(record)
    replace_unedited(place, card_of(record, results=outside_results(record, results, None).scores), force=force)
    return place


def write_report(
    run_folder: Path,
    *,
    out: Path | None = None,
    results: Sequence[Path] = (),
    published: str | None = None,
    force: bool = False,
) -> Path:
    """The path of the report that is now written: `out`, or in the run's folder.

    `published` names a model whose published scores are set beside the results. Raises DataError for what is no run,
    where there are no results to compare, and without ``force`` for a file that was edited or is another's.
    """
    if published is not None and not results:
        raise DataError("--published", "needs results to compare with", "name an evaluation: --results FOLDER")
    record, rounds = _read(run_folder)
    place = out or run_folder / REPORT
    page = report_of(record, outside=outside_results(record, results, published), series=rounds)
    replace_unedited(place, page, force=force)
    return place


def _read(run_folder: Path) -> tuple[RunRecord, RunSeries | None]:
    """The run in the folder; of a run in rounds that of its best round, and the table of all."""
    path = run_folder / SUMMARY
    summary = read_record(path) if path.is_file() and not (run_folder / LOCK_FILE).is_file() else None
    best, rounds = at(summary, "best"), elements(summary, "rounds")
    if not best or not rounds:
        return read_run(run_folder), None
    names = list(entries(rounds[0], "scores"))
    drifts = [name for name in entries(rounds[0], "drift") if name != "prompts"]
    lines = [Series(name, list(_by_round(summary, rounds, name)), is_sparse=True) for name in names[:4]]
    rows = [["start", *[""] * len(drifts), *_cells(entries(summary, "start", "scores"), names)]]
    for one in rounds:
        title = str(at(one, "folder")) + (" (the best)" if at(one, "folder") == best else "")
        rows.append([title, *_cells(entries(one, "drift"), drifts), *_cells(entries(one, "scores"), names)])
    chart = line_chart("Scores by round, 0: before the first", lines, x_label="round")
    return read_run(run_folder / str(best)), RunSeries("Rounds", chart, ["round", *drifts, *names], rows)


def _by_round(summary: Json, rounds: Sequence[Json], name: str) -> Iterator[tuple[float, float]]:
    for index, one in enumerate([at(summary, "start"), *rounds]):
        value = number(at(one, "scores", name))
        if value is not None:
            yield index, value


def _cells(values: Mapping[str, Json], names: Sequence[str]) -> list[str]:
    return ["" if (value := number(values.get(name))) is None else f"{value:,.4g}" for name in names]


def outside_results(run: RunRecord, folders: Sequence[Path], published: str | None) -> OutsideResults:
    """Scores of the evaluations in the folders, radars of those with categories, and all beside `published`."""
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
            differs = published_deviations(result, published)
            deviations |= {f"{result.benchmark}, published first: {one}": None for one in differs}
    return OutsideResults(
        scores=[score for folder, result in read for score in _scores(run, folder, result)],
        radars=_radars([(_model(run, result), result) for _, result in read]),
        beside=beside,
        deviations=list(deviations),
    )


def _scores(run: RunRecord, folder: Path, result: Result) -> Iterator[ModelScore]:
    """The scores of a result; what lacks too many judgments has none."""
    for metric, found in result.scores.items():
        value, count = number(at(found, "score")), number(at(found, "n"))
        if value is None or not _is_complete(result, metric):
            continue
        yield ModelScore(
            model=_model(run, result),
            benchmark=result.benchmark,
            metric=metric,
            value=value,
            low=number(at(found, "low")),
            high=number(at(found, "high")),
            n=None if count is None else int(count),
            standard_error=number(at(found, "standard_error")),
            source=folder.name,
            notes=tuple(result.notes),
        )


def _is_complete(result: Result, metric: str) -> bool:
    return at(result.scores, metric, "label") != "incomplete"


def _model(run: RunRecord, result: Result) -> str:
    """The run's own word for a model of its stages, the result's for another."""
    own = (run.title_of(name) for name, stage in run.stages.items() if stage.folder.name in result.model)
    return next(own, result.model)


def _radars(results: Sequence[tuple[str, Result]]) -> list[tuple[str, str]]:
    """A chart for every task that has three categories or more: its title and its SVG."""
    means = [(model, category_means([result])) for model, result in results]
    tasks = dict.fromkeys(task for _, of in means for task, by in of.items() if len(by) >= LEAST_AXES)
    charts = []
    for task in tasks:
        there = {model: of[task] for model, of in means if task in of}
        axes = list(dict.fromkeys(category for by in there.values() for category in by))
        series = {model: [by.get(category) for category in axes] for model, by in there.items()}
        charts.append((task, radar_svg(task, axes, series, top=top_of(task, series))))
    return charts
