"""The report of a run: one HTML page of what it did, what it cost, how it went and what came out.

Here the values are gathered from what the run recorded, and from what evaluations outside of it measured; the page is
`templates/report.html.j2`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from zephyr.data.tokenize.token_store import DialogueStore, PreferenceStore
from zephyr.deliver.charts import Chart, IntervalRow, Series, histogram, interval_chart, line_chart
from zephyr.deliver.rendering import render_html
from zephyr.deliver.run_facts import (
    EVAL_COLUMNS,
    ModelScore,
    counts_of,
    decimals,
    evaluations,
    health_of,
    interval_words,
    makers_of,
    readable,
    scores_of,
)
from zephyr.recipe.stage_sections import ALIGN, DELIVER, EVALUATE, FEEDBACK, POLICY_STAGES, PRETRAIN, REWARD, SFT, SYNTH
from zephyr.records.fields import Json
from zephyr.runs.reader import FinishedStage, RunRecord, at, entries, number, read_record
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
# How the published Zephyr models were trained and how their training ended. Sources: their cards (hyper-parameters and
# last evaluation) and arXiv 2310.16944; alpha's beta follows from its card's table (`card_audit`).
_PUBLISHED_RUNS = ("zephyr-7b-beta", "zephyr-7b-alpha")
_PUBLISHED_SETTINGS = {
    "objective": ("dpo", "dpo"),
    "beta": ("0.1", "0.05"),
    "learning_rate": ("5e-07", "5e-07"),
    "train_batch_size": ("32", "32"),
    "num_train_epochs": ("3", "1"),
    "lr_scheduler_type": ("linear", "linear"),
}
_PUBLISHED_EVALUATION = {
    "eval_loss": (0.7496, 0.4605),
    "eval_rewards/chosen": (-4.5221, -0.5053),
    "eval_rewards/rejected": (-8.3184, -1.8752),
    "eval_rewards/accuracies": (0.7812, 0.7812),
    "eval_rewards/margins": (3.7963, 1.3699),
    "eval_logps/rejected": (-340.1541, -327.4286),
    "eval_logps/chosen": (-299.4561, -297.1040),
    "eval_logits/rejected": (-2.3081, -2.7153),
    "eval_logits/chosen": (-2.3531, -2.7447),
}


@dataclass(frozen=True)
class OutsideResults:
    """What was measured outside the run: scores, radars (SVG of our own making) by title, scores beside published ones.

    The rows of `beside` are: benchmark, metric, run, published, tolerance, verdict.
    """

    scores: Sequence[ModelScore] = ()
    radars: Sequence[tuple[str, str]] = ()
    beside: Sequence[Sequence[str]] = ()
    deviations: Sequence[str] = ()


class TrainingCurves(NamedTuple):
    """The charts of a training, and its evaluations as a table."""

    stage: str
    charts: Sequence[Chart]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def report_of(run: RunRecord, *, outside: OutsideResults | None = None) -> str:
    """The page."""
    results = outside or OutsideResults()
    scores = [*scores_of(run), *results.scores]
    models, tasks = scores_by_task(run)
    has_training = any(stage.log() for stage in run.stages.values())
    values = {
        "name": run.name,
        "description": str(run.recipe.get("description") or ""),
        "score_charts": _score_charts(scores),
        "radars": results.radars,
        "scores": [
            [f"{one.benchmark}: {one.metric}", one.model, f"{one.value:.4g}", interval_words(one)] for one in scores
        ],
        "task_models": models,
        "tasks": tasks,
        "answers": answers_of(run),
        "stages": _stage_rows(run),
        "makers": [f"{role}: {name}" for role, name in makers_of(run).items()],
        "calls": calls_of(run),
        "length_charts": _length_charts(run),
        "counts": counts_of(run),
        "trainings": [found for stage in run.stages.values() if (found := _training_curves(stage)) is not None],
        "health": health_of(run) if has_training else None,
        "beside": results.beside,
        "deviations": results.deviations,
        "published_runs": _PUBLISHED_RUNS,
        "published": _published_rows(run),
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


def scores_by_task(run: RunRecord) -> tuple[list[str], list[list[str]]]:
    """The models, and for every task of the closed world its name and each model's share of right answers."""
    stage = run.stages.get(EVALUATE)
    found: dict[str, dict[str, str]] = {}
    models = []
    for name in POLICY_STAGES if stage is not None else ():
        assert stage is not None
        for path in stage.measurements("world", name):
            models.append(run.title_of(name))
            for task, share in entries(read_record(path), "by_task").items():
                value = number(share)
                found.setdefault(task, {})[models[-1]] = "" if value is None else f"{value:.0%}"
    return models, [[task, *(by.get(model, "") for model in models)] for task, by in sorted(found.items())]


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


def calls_of(run: RunRecord) -> list[list[str]]:
    """A line for every teacher and judge whose calls are in a ledger: requests, tokens, price, seconds."""
    found: list[TeacherSummary] = []
    for path in run.ledgers():
        with closing(open_file(path, read_only=True)) as ledger:
            found += summarize(ledger)
    return [
        [
            one.teacher,
            f"{one.requests:,}",
            f"{one.prompt_tokens:,}",
            f"{one.completion_tokens:,}",
            f"{one.price:,.2f}" if one.price else "",
            f"{one.mean_seconds:.3f}",
        ]
        for one in found
    ]


def seconds_in_words(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _score_charts(scores: Sequence[ModelScore]) -> list[Chart]:
    """A chart for every metric that several models have, one colour a model."""
    groups: dict[tuple[str, str], list[IntervalRow]] = {}
    models = list(dict.fromkeys(score.model for score in scores))
    for score in scores:
        row = IntervalRow(score.model, score.value, score.low, score.high, models.index(score.model))
        groups.setdefault((score.benchmark, score.metric), []).append(row)
    return _drawn(interval_chart(": ".join(name), rows) for name, rows in groups.items() if len(rows) > 1)


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
        line_chart(title, [Series(name, _points(log, name)) for name in names], x_label="step")
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


def _published_rows(run: RunRecord) -> list[list[str]]:
    """Settings and last evaluation of the preference training beside those of the published runs; of DPO alone."""
    align = run.stages.get(ALIGN)
    if align is None or at(run.recipe, ALIGN, "objective", "name") != "dpo":
        return []
    here = entries(run.recipe, ALIGN, "train") | {
        "objective": "dpo",
        "beta": at(run.recipe, ALIGN, "objective", "beta"),
    }
    rows = [[name, _plain(here.get(name)), *published] for name, published in _PUBLISHED_SETTINGS.items()]
    last = evaluations(align.log())[-1:]
    return rows + [
        [name, decimals(line.get(name)), *(f"{value:.4f}" for value in published)]
        for line in last
        for name, published in _PUBLISHED_EVALUATION.items()
        if name in line
    ]


def _drawn(charts: Sequence[Chart | None] | Iterator[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _plain(value: Json) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
