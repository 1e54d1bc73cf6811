"""The report of a run: one HTML page of what it did, what it cost, how it went and what came out.

Here the values are gathered from what the run recorded, and from what evaluations outside of it measured; the page is
`templates/report.html.j2`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zephyr.data.tokenize.token_store import DialogueStore, PreferenceStore
from zephyr.deliver.charts import Chart, Series, histogram, line_chart
from zephyr.deliver.curve_notes import curve_notes
from zephyr.deliver.published_run import PUBLISHED_RUNS, published_rows, shown_setting
from zephyr.deliver.rendering import render_html
from zephyr.deliver.run_facts import (
    EVAL_COLUMNS,
    ModelScore,
    counts_of,
    decimals,
    evaluations,
    health_of,
    makers_of,
    readable,
    scores_of,
)
from zephyr.deliver.scores import RunVerdict, score_groups, verdict_of
from zephyr.recipe.stage_sections import ALIGN, DELIVER, EVALUATE, FEEDBACK, POLICY_STAGES, PRETRAIN, REWARD, SFT, SYNTH
from zephyr.records.fields import Json
from zephyr.runs.layout import LOCK_FILE
from zephyr.runs.reader import FinishedStage, RunRecord, at, count_weights, entries, number, read_record
from zephyr.teachers.ledger.file import open_file
from zephyr.teachers.ledger.report import TeacherSummary, summarize

MOST_PAIRS = 20_000
_STAGE_WORDS = {
    SYNTH: "a teacher writes",
    PRETRAIN: "the base model reads",
    SFT: "supervised fine-tuning",
    FEEDBACK: "answers are rated",
    REWARD: "a reward model learns",
    ALIGN: "preference optimization",
    EVALUATE: "models are measured",
}
_CURVES = (
    ("Loss", ("loss", "eval_loss")),
    ("Rewards", ("rewards/chosen", "rewards/rejected")),
    ("Reward margin", ("rewards/margins", "eval_rewards/margins")),
    ("Reward accuracy", ("rewards/accuracies", "eval_rewards/accuracies")),
    ("Log-probabilities of answers", ("logps/chosen", "logps/rejected")),
    ("Gradient norm", ("grad_norm",)),
    ("Learning rate", ("learning_rate",)),
)
# What a reader asks first of a training's settings, by its section in the recipe.
_SETTINGS = (
    ("objective", "name"), ("objective", "beta"), ("objective", "loss_type"), ("train", "learning_rate"),
    ("train", "lr_scheduler_type"), ("train", "warmup_ratio"), ("train", "num_train_epochs"), ("train", "max_steps"),
    ("train", "train_batch_size"), ("train", "optim"), ("train", "weight_decay"), ("train", "max_grad_norm"),
    ("train", "precision"), ("data", "max_length"), ("lora", "r"), ("lora", "lora_alpha"),
)  # fmt: skip


@dataclass(frozen=True)
class OutsideResults:
    """What was measured outside the run: scores, radars (SVG of our own making) by title, scores beside published ones.

    The rows of `beside` are: benchmark, metric, run, published, tolerance, verdict.
    """

    scores: Sequence[ModelScore] = ()
    radars: Sequence[tuple[str, str]] = ()
    beside: Sequence[Sequence[str]] = ()
    deviations: Sequence[str] = ()


class TaskTable(NamedTuple):
    """The models, how many prompts there are, and for every task its name, its prompts, each model's right answers."""

    models: Sequence[str]
    total: str
    rows: Sequence[tuple[str, str, Sequence[float | None]]]


class RunSeries(NamedTuple):
    """Runs beside each other, such as rounds: what they are called, a chart of their scores, and a table."""

    title: str
    chart: Chart | None
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class TrainingCurves(NamedTuple):
    """The charts of a training, and its evaluations as a table."""

    stage: str
    charts: Sequence[Chart]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def report_of(run: RunRecord, *, outside: OutsideResults | None = None, series: RunSeries | None = None) -> str:
    """The page; `series`: the runs that this one was the best of, as rounds."""
    results = outside or OutsideResults()
    scores = [*scores_of(run), *results.scores]
    trainings = [found for stage in run.stages.values() if (found := _training_curves(stage)) is not None]
    calls = calls_of(run)
    values = {
        "name": run.name,
        "description": str(run.recipe.get("description") or ""),
        "verdict": _verdict(run, scores, calls),
        "made_from": list(_made_from(run)),
        "series": series,
        "score_groups": score_groups(scores),
        "radars": results.radars,
        "tasks": tasks_of(run),
        "answers": answers_of(run),
        "stages": _stage_rows(run),
        "makers": [f"{role}: {name}" for role, name in makers_of(run).items()],
        "calls": [_call_cells(one) for one in calls],
        "length_charts": _length_charts(run),
        "counts": counts_of(run),
        "settings": _settings(run),
        "trainings": trainings,
        "health": health_of(run),
        "curve_notes": curve_notes(run),
        "beside": results.beside,
        "deviations": results.deviations,
        "published_runs": PUBLISHED_RUNS,
        "published": published_rows(run),
        "versions": [[name, str(value)] for name, value in (*run.packages.items(), *run.machine.items())],
    }
    return render_html("report.html.j2", values)


def answers_of(run: RunRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """The recipe's sample prompts and the first that were measured, each with what all models answered."""
    found = []
    for name in (DELIVER, EVALUATE):
        for one in run.stages[name].samples() if name in run.stages else []:
            answers = [(model, str(text)) for model, text in entries(one, "answers").items()]
            found.append((str(at(one, "prompt") or ""), answers))
    return found


def tasks_of(run: RunRecord) -> TaskTable | None:
    """Each model's share of right answers by task of the closed world, the last model's best first; None if unknown."""
    stage = run.stages.get(EVALUATE)
    shares: dict[str, dict[str, float]] = {}
    counts: dict[str, Json] = {}
    total: Json = None
    models = []
    for name in POLICY_STAGES if stage is not None else ():
        assert stage is not None
        for path in stage.measurements("world", name):
            models.append(run.title_of(name))
            measured = read_record(path)
            counts |= entries(measured, "task_prompts")
            total = at(measured, "score", "n")
            for task, share in entries(measured, "by_task").items():
                shares.setdefault(task, {})[models[-1]] = number(share) or 0.0
    if not shares:
        return None
    rows = [
        (
            task.replace("_", " "),
            "" if counts.get(task) is None else readable(counts[task]),
            [of.get(m) for m in models],
        )
        for task, of in sorted(shares.items(), key=lambda one: -one[1].get(models[-1], 0.0))
    ]
    return TaskTable(models, "" if total is None else readable(total), rows)


def preference_lengths(run: RunRecord) -> list[tuple[str, list[int]]]:
    """The lengths in tokens of the best and the other answers that align trained on; of the first 20,000 rows."""
    folder = run.stages[ALIGN].train_tokens() if ALIGN in run.stages else None
    if folder is None:
        return []
    store = PreferenceStore(folder, verify=False)
    rows = [[len(one) for one in store[index].completions] for index in range(min(len(store), MOST_PAIRS))]
    return [("preferred", [row[0] for row in rows]), ("rejected", [each for row in rows for each in row[1:]])]


def example_lengths(run: RunRecord) -> dict[str, list[int]]:
    """The lengths in tokens of the rows of the stages that read whole texts."""
    found = {}
    for stage in (PRETRAIN, SFT):
        folder = run.stages[stage].train_tokens() if stage in run.stages else None
        if folder is not None:
            store = DialogueStore(folder, verify=False)
            found[stage] = [int(length) for length in store.lengths()]
    return found


def calls_of(run: RunRecord) -> list[TeacherSummary]:
    """The calls to every teacher and judge, from the ledgers."""
    found: list[TeacherSummary] = []
    for path in run.ledgers():
        with closing(open_file(path, read_only=True)) as ledger:
            found += summarize(ledger)
    return found


def _call_cells(one: TeacherSummary) -> list[str]:
    tokens = (f"{one.prompt_tokens:,}", f"{one.completion_tokens:,}")
    return [one.teacher, f"{one.requests:,}", *tokens, f"{one.price:,.2f}", f"{one.mean_seconds:.3f}"]


def seconds_in_words(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _verdict(run: RunRecord, scores: Sequence[ModelScore], calls: Sequence[TeacherSummary]) -> RunVerdict:
    """The verdict on the last model, with what it cost, how long it took, when and by which recipe."""
    last = run.title_of(run.trained.name) if run.trained is not None else "The model"
    found = verdict_of(scores, last)
    price, requests = sum(one.price for one in calls), sum(one.requests for one in calls)
    tokens = sum(one.prompt_tokens + one.completion_tokens for one in calls)
    called = f"{requests:,} recorded calls, {tokens:,} tokens" if requests else "no recorded call to a teacher or judge"
    paid = f"{price:,.2f}" if price else "0.00"
    seconds = sum(stage.seconds for stage in run.stages.values())
    machine = f"on {run.machine.get('cores', '?')} CPU cores, {run.machine.get('memory_gb', '?')} GB of memory"
    finished = max((stage.finished for stage in run.stages.values()), default="")[:10]
    tiles = (
        *found.tiles,
        ("Price of calls", paid, called),
        ("Time", seconds_in_words(seconds), machine),
        ("Finished", finished, f"with Zephyr {run.packages.get('zephyr', '')}"),
        ("Recipe", run.name, f"seed {run.recipe.get('seed', '')}; zephyr run {LOCK_FILE} repeats it"),
    )
    return found._replace(tiles=tiles)


def _made_from(run: RunRecord) -> Iterator[tuple[str, str]]:
    """What the last model was made from, step by step: the name of the step, and what it read."""
    base = at(run.recipe, "model", "name_or_path")
    folder = run.model_folder
    weights = count_weights(folder) if folder is not None else 0
    size = f"{weights:,} parameters" if weights else ""
    if base:
        yield "start", ", ".join(filter(None, (str(base) if run.model_revision else Path(str(base)).name, size)))
    else:
        kind = at(run.recipe, "model", "architecture") or "model"
        yield "start", ", ".join(filter(None, (f"a new {kind}, random weights", size)))
    judge = makers_of(run).get("judge")
    for name, stage in run.stages.items():
        rows, steps = number(stage.facts.get("examples")), number(stage.facts.get("steps"))
        if name in (PRETRAIN, SFT, ALIGN, REWARD) and steps is not None:
            how = str(at(run.recipe, name, "objective", "name") or "").upper() if name == ALIGN else ""
            read = f"{rows or 0:,.0f} {'pairs' if name in (ALIGN, REWARD) else 'texts'}, {steps:,.0f} steps"
            yield name, ": ".join(filter(None, (how, read)))
        elif name == FEEDBACK:
            told = [f"{readable(stage.facts[what])} {what}" for what in ("prompts", "pairs") if what in stage.facts]
            yield name, ", ".join([*told, *([f"rated by {judge}"] if judge else [])])


def _settings(run: RunRecord) -> tuple[list[str], list[list[str]]]:
    """The stages that train, and a row for each of their main settings."""
    stages = [name for name in (PRETRAIN, SFT, REWARD, ALIGN) if name in run.stages]
    rows = []
    for section, name in _SETTINGS:
        found = [at(run.recipe, stage, section, name) for stage in stages]
        if any(value is not None for value in found):
            rows.append(
                [
                    section if name == "name" else name,
                    *("" if value is None else shown_setting(value) for value in found),
                ]
            )
    return stages, rows


def _stage_rows(run: RunRecord) -> list[list[str]]:
    """Name, work, time and share of the time of every stage, then of all; without the stage that writes this page."""
    stages = [stage for stage in run.stages.values() if stage.name != DELIVER]
    total = sum(stage.seconds for stage in stages)
    shares = [f"{stage.seconds / total:.0%}" if total else "" for stage in stages]
    rows = [
        [stage.name, _STAGE_WORDS.get(stage.name, ""), seconds_in_words(stage.seconds), share]
        for stage, share in zip(stages, shares, strict=True)
    ]
    return [*rows, ["all", "", seconds_in_words(total), ""]]


def _length_charts(run: RunRecord) -> list[Chart]:
    pairs = histogram("Length of preferred and rejected answers", preference_lengths(run), x_label="tokens")
    texts = (
        histogram(f"Length of what {stage} reads", [(stage, lengths)], x_label="tokens")
        for stage, lengths in example_lengths(run).items()
    )
    return _drawn([pairs, *texts])


def _training_curves(stage: FinishedStage) -> TrainingCurves | None:
    log = stage.log()
    if not log:
        return None
    charts = _drawn(
        line_chart(
            title, [Series(name, _points(log, name), name.startswith("eval_")) for name in names], x_label="step"
        )
        for title, names in _CURVES
    )
    measured = evaluations(log)
    titles = {title: name for title, name in EVAL_COLUMNS.items() if any(name in line for line in measured)}
    rows = [
        [
            readable(line.get("step")),
            decimals(line.get("loss")),
            *(decimals(line.get(name)) for name in titles.values()),
        ]
        for line in measured
    ]
    return TrainingCurves(stage.name, charts, ["Step", "Training Loss", *titles], rows)


def _points(log: Sequence[Mapping[str, Json]], name: str) -> list[tuple[float, float]]:
    pairs = [(number(line.get("step")), number(line.get(name))) for line in log]
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def _drawn(charts: Sequence[Chart | None] | Iterator[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]
