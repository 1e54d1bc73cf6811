"""The report of a run: one HTML page of what it did, what it cost, how it went and what came out.

All of it is what the run recorded, and what evaluations outside of it have measured; the page's look is `page`,
its pictures are `charts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zephyr.deliver.charts import Interval, Series, histogram, interval_chart, line_chart
from zephyr.deliver.page import bullets, grid, page, paragraph, section, shown, side_by_side, table
from zephyr.deliver.published_runs import PUBLISHED_RUNS
from zephyr.deliver.report_numbers import (
    answers_of,
    costs_of,
    example_lengths,
    preference_lengths,
    scores_by_task,
    seconds_in_words,
)
from zephyr.deliver.run_facts import (
    EVAL_COLUMNS,
    STAGE_WORDS,
    Score,
    counts_of,
    evaluations,
    health_of,
    makers_of,
    scores_of,
    spread,
    written,
)
from zephyr.records.fields import Json
from zephyr.runs.reader import FinishedStage, RunRecord, at, number

PAIR_CURVES = (
    ("Rewards", ("rewards/chosen", "rewards/rejected")),
    ("Reward margin", ("rewards/margins", "eval_rewards/margins")),
    ("Reward accuracy", ("rewards/accuracies", "eval_rewards/accuracies")),
    ("Log-probabilities of answers", ("logps/chosen", "logps/rejected")),
)


@dataclass(frozen=True)
class Outside:
    """What was measured outside the run: scores, radars (SVG of our own making) by title, scores beside published ones.

    The rows of `beside` are: benchmark, metric, run, published, what may lie between them, the verdict.
    """

    scores: Sequence[Score] = ()
    radars: Sequence[tuple[str, str]] = ()
    beside: Sequence[Sequence[str]] = ()
    deviations: Sequence[str] = ()


def report_of(run: RunRecord, *, outside: Outside | None = None) -> str:
    """The page."""
    beyond = outside or Outside()
    sections = {
        "Scores": _scores([*scores_of(run), *beyond.scores], beyond.radars) + _by_task(run),
        "Answers side by side": [side_by_side(prompt, answers) for prompt, answers in answers_of(run)],
        "Pipeline": _pipeline(run),
        "Data": _data(run),
        "Training": [part for stage in run.stages.values() for part in _curves(stage)],
        "Health": _health(run),
        "Beside the published run": _published(run, beyond),
        "Made with": _versions(run),
    }
    told = {title: "".join(parts) for title, parts in sections.items()}
    links = "".join(
        f'<a href="#{title.lower().replace(" ", "-")}">{shown(title)}</a>' for title, body in told.items() if body
    )
    head = [f"<h1>{shown(run.name)}</h1>", paragraph(str(run.recipe.get("description") or "")), f"<nav>{links}</nav>"]
    return page(f"{run.name}: report", [*head, *(section(title, [body]) for title, body in told.items())])


def _scores(scores: Sequence[Score], radars: Sequence[tuple[str, str]]) -> list[str]:
    groups: dict[tuple[str, str], list[Interval]] = {}
    models = list(dict.fromkeys(score.model for score in scores))
    for score in scores:
        row = Interval(score.model, score.value, score.low, score.high, models.index(score.model))
        groups.setdefault((score.benchmark, score.metric), []).append(row)
    pictures = [interval_chart(": ".join(name), rows) for name, rows in groups.items() if len(rows) > 1]
    drawn = [f'<figure class="radar"><figcaption>{shown(title)}</figcaption>{svg}</figure>' for title, svg in radars]
    lines = [[f"{one.benchmark}: {one.metric}", one.model, f"{one.value:.4g}", spread(one)] for one in scores]
    return [grid(pictures), grid(drawn), table(["measured", "model", "score", "95 % interval"], lines, numbers=(2,))]


def _by_task(run: RunRecord) -> list[str]:
    models, rows = scores_by_task(run)
    if not rows:
        return []
    columns = range(1, len(models) + 1)
    return ["<h3>By task</h3>", table(["task", *models], rows, numbers=columns)]


def _pipeline(run: RunRecord) -> list[str]:
    # What this page took is nothing to tell on it.
    stages = [stage for stage in run.stages.values() if stage.name != "deliver"]
    total = sum(stage.seconds for stage in stages)
    rows = [
        [stage.name, STAGE_WORDS.get(stage.name, ""), seconds_in_words(stage.seconds), _share(stage.seconds, total)]
        for stage in stages
    ]
    rows.append(["all", "", seconds_in_words(total), ""])
    makers = [f"{role}: {name}" for role, name in makers_of(run).items()]
    costs = table(
        ["asked", "requests", "prompt tokens", "completion tokens", "price", "seconds a request"],
        costs_of(run),
        numbers=range(1, 6),
    )
    return [
        table(["stage", "what happens", "time", "share"], rows, numbers=(2, 3)),
        bullets(makers),
        f"<h3>Calls to teachers and judges</h3>{costs}" if costs else "",
    ]


def _data(run: RunRecord) -> list[str]:
    rows = [list(count) for count in counts_of(run)]
    pictures = [histogram("Length of preferred and rejected answers", preference_lengths(run), x_label="tokens")]
    pictures += [
        histogram(f"Length of what {stage} reads", [(stage, lengths)], x_label="tokens")
        for stage, lengths in example_lengths(run).items()
    ]
    return [grid(pictures), table(["stage", "what", "count"], rows)]


def _curves(stage: FinishedStage) -> list[str]:
    log = stage.log()
    if not log:
        return []
    figures = [_chart("Loss", log, ("loss", "eval_loss"))]
    figures += [_chart(title, log, names) for title, names in PAIR_CURVES]
    figures += [_chart("Gradient norm", log, ("grad_norm",)), _chart("Learning rate", log, ("learning_rate",))]
    measured = evaluations(log)
    titles = {title: name for title, name in EVAL_COLUMNS.items() if any(name in line for line in measured)}
    rows = [
        [written(line.get("step")), _four(line.get("loss")), *(_four(line.get(name)) for name in titles.values())]
        for line in measured
    ]
    columns = ["Step", "Training Loss", *titles]
    return [f"<h3>{shown(stage.name)}</h3>", grid(figures), table(columns, rows, numbers=range(len(columns)))]


def _chart(title: str, log: Sequence[Mapping[str, Json]], names: Sequence[str]) -> str:
    series = [Series(name, _points(log, name)) for name in names]
    return line_chart(title, series, x_label="step")


def _points(log: Sequence[Mapping[str, Json]], name: str) -> list[tuple[float, float]]:
    pairs = [(number(line.get("step")), number(line.get(name))) for line in log]
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def _health(run: RunRecord) -> list[str]:
    if not any(stage.log() for stage in run.stages.values()):
        return []
    notes = health_of(run)
    return [bullets(notes) if notes else paragraph("Nothing was noticed while the models were trained.")]


def _published(run: RunRecord, beyond: Outside) -> list[str]:
    parts = [
        table(["benchmark", "metric", "this run", "published", "may differ by", ""], beyond.beside, numbers=(2, 3, 4)),
        bullets(beyond.deviations),
    ]
    align = run.stages.get("align")
    if align is None or at(run.recipe, "align", "objective", "name") != "dpo":
        return parts
    here = {
        "objective": "dpo",
        "beta": at(run.recipe, "align", "objective", "beta"),
        **{name: at(run.recipe, "align", "train", name) for name in ("learning_rate", "train_batch_size")},
        **{name: at(run.recipe, "align", "train", name) for name in ("num_train_epochs", "lr_scheduler_type")},
    }
    published = PUBLISHED_RUNS.values()
    rows = [[name, _plain(value), *(one.settings[name] for one in published)] for name, value in here.items()]
    last = evaluations(align.log())[-1:]
    rows += [
        [name, _four(line.get(name)), *(f"{one.evaluation[name]:.4f}" for one in published)]
        for line in last
        for name in EVAL_COLUMNS.values()
        if name in line
    ]
    words = (
        "Settings and last evaluation of the preference training. Other models and other rows: log-probabilities and "
        "losses compare in their signs and orders, not in their sizes. The published rewards are those of 64 rows, so "
        "their accuracy of 0.78 has a standard error of 0.05."
    )
    return [*parts, paragraph(words, "soft"), table(["", "this run", *PUBLISHED_RUNS], rows, numbers=(1, 2, 3))]


def _versions(run: RunRecord) -> list[str]:
    rows = [[name, str(value)] for name, value in (*run.packages.items(), *run.machine.items())]
    return [table(["what", "which"], rows)]


def _share(part: float, total: float) -> str:
    return f"{part / total:.0%}" if total else ""


def _plain(value: Json) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _four(value: Json) -> str:
    found = number(value)
    return "" if found is None else f"{found:.4f}"
