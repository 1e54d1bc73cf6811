"""What card and report have in common: scores, counts of rows, teachers and judges, evaluations, health notes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from zephyr.recipe.stage_sections import ALIGN, EVALUATE, FEEDBACK, POLICY_STAGES, SYNTH
from zephyr.records.fields import Json
from zephyr.runs.layout import STAGE_FILE
from zephyr.runs.reader import FinishedStage, RunRecord, at, elements, entries, number

# The published cards' columns, and the names of their numbers in the training log.
EVAL_COLUMNS = {
    "Validation Loss": "eval_loss",
    "Rewards/chosen": "eval_rewards/chosen",
    "Rewards/rejected": "eval_rewards/rejected",
    "Rewards/accuracies": "eval_rewards/accuracies",
    "Rewards/margins": "eval_rewards/margins",
    "Logps/rejected": "eval_logps/rejected",
    "Logps/chosen": "eval_logps/chosen",
    "Logits/rejected": "eval_logits/rejected",
    "Logits/chosen": "eval_logits/chosen",
}
_COUNTED = {
    "rows", "examples", "tokens", "held_out", "truncation", "texts", "asked", "answered", "answers", "ratings",
    "prompts", "pairs", "listwise", "kto", "made_of", "rule", "teacher", "dropped", "answers_left_out", "left_out",
    "filtered", "filtered_out", "unused_columns", "dialogues", "instructions", "families", "defects",
    "held_out_prompts_trained_on", "answers_of_the_pool",
}  # fmt: skip


class ModelScore(NamedTuple):
    """A score with its 95 % interval, where one is known, the file that it comes from, and what is said beside it."""

    model: str
    benchmark: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    standard_error: float | None = None
    source: str = ""
    notes: tuple[str, ...] = ()


class Count(NamedTuple):
    """A number or a text that a stage recorded about its rows."""

    stage: str
    what: str
    value: str


def scores_of(run: RunRecord) -> list[ModelScore]:
    """Every score of the evaluate stage, the closed world's first."""
    stage = run.stages.get(EVALUATE)
    if stage is None:
        return []
    return [*_world_scores(run, stage), *_benchmarks(run, stage), *_metrics(run, stage)]


def _world_scores(run: RunRecord, stage: FinishedStage) -> Iterator[ModelScore]:
    for model, found in entries(stage.facts, "scores").items():
        value = number(at(found, "score"))
        if value is not None:
            count = number(at(found, "n"))
            yield ModelScore(
                model=model,
                benchmark="closed world, held-out prompts",
                metric="share of right answers",
                value=value,
                low=number(at(found, "low")),
                high=number(at(found, "high")),
                n=None if count is None else int(count),
                source=_measurement(run, stage, "world", model),
            )


def _benchmarks(run: RunRecord, stage: FinishedStage) -> Iterator[ModelScore]:
    """Scores of public benchmarks; a judged one that lacks too many judgments is left out."""
    for model, by_benchmark in entries(stage.facts, "benchmarks").items():
        for benchmark, found in entries(by_benchmark).items():
            value, count = number(at(found, "score")), number(at(found, "n"))
            if value is None or at(found, "label") == "incomplete":
                continue
            yield ModelScore(
                model=model,
                benchmark=benchmark,
                metric=str(at(found, "metric")),
                value=value,
                low=number(at(found, "low")),
                high=number(at(found, "high")),
                n=None if count is None else int(count),
                standard_error=number(at(found, "standard_error")),
                source=run.relative(stage.folder / str(at(found, "file"))),
                notes=tuple(map(str, elements(found, "notes"))),
            )


def _metrics(run: RunRecord, stage: FinishedStage) -> Iterator[ModelScore]:
    metrics = entries(stage.facts, "metrics")
    pairs = number(metrics.get("preference/prompts"))
    for name, found in metrics.items():
        task, _, rest = name.partition("/")
        value = number(found)
        if value is None or rest in ("pairs", "prompts") or rest.endswith(("_low", "_high")):
            continue
        is_perplexity = task == "perplexity"
        yield ModelScore(
            model=rest if is_perplexity else run.title_of(ALIGN),
            benchmark="held-out dialogues" if is_perplexity else "held-out preferences",
            metric=task if is_perplexity else f"rewards {rest.removeprefix('rewards_')}",
            value=value,
            low=number(metrics.get(f"{name}_low")),
            high=number(metrics.get(f"{name}_high")),
            n=None if is_perplexity or pairs is None else int(pairs),
            source=_measurement(run, stage, task, ""),
        )


def _measurement(run: RunRecord, stage: FinishedStage, task: str, model: str) -> str:
    """The file of a measurement, relative to the run's folder."""
    made_by = next((name for name in POLICY_STAGES if run.title_of(name) == model), "")
    found = stage.measurements(task, made_by)
    return run.relative(found[0] if found else stage.folder / STAGE_FILE)


def interval_words(score: ModelScore) -> str:
    """The interval or standard error of a score in words, and its number of items."""
    of = [] if score.n is None else [f"n = {score.n:,}"]
    if score.low is not None and score.high is not None:
        return ", ".join([f"{readable(score.low)} to {readable(score.high)}", *of])
    error = [] if score.standard_error is None else [f"standard error {score.standard_error:.3g}"]
    return ", ".join([*error, *of])


def counts_of(run: RunRecord) -> list[Count]:
    """What every stage recorded about its rows, filters and drops."""
    return [
        Count(stage.name, what, value)
        for stage in run.stages.values()
        for name, fact in stage.facts.items()
        if name in _COUNTED
        for what, value in _flat(name.replace("_", " "), fact)
    ]


def _flat(what: str, fact: Json) -> Iterator[tuple[str, str]]:
    if isinstance(fact, dict):
        for name, inner in fact.items():
            yield from _flat(f"{what}: {name}", inner)
    elif not isinstance(fact, list) and fact is not None:
        yield what, readable(fact)


def readable(value: Json) -> str:
    """A value for readers: thousands separated, 4 significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.4g}"


def evaluations(log: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """The lines of a training log that hold an evaluation."""
    return [line for line in log if number(line.get("eval_loss")) is not None]


def health_of(run: RunRecord) -> list[str]:
    """The notes of the health checks during training, in words."""
    return [
        f"{stage.name}, step {readable(at(note, 'step'))}: {at(note, 'words')}"
        for stage in run.stages.values()
        for note in elements(stage.facts, "health")
    ]


def makers_of(run: RunRecord) -> dict[str, str]:
    """Who wrote, answered and rated, by role."""
    recipe = run.recipe
    found = {
        "teacher": _teacher_words(at(recipe, SYNTH, "teacher")) if _is_written(run) else "",
        "judge": "",
        "candidates": "",
    }
    recorded = elements(recipe, FEEDBACK, "recorded")
    if FEEDBACK in run.stages and (not recorded or elements(recipe, FEEDBACK, "prompts")):
        pool = elements(recipe, FEEDBACK, "candidates", "models")
        teachers = [_teacher_words(one) for one in elements(recipe, FEEDBACK, "candidates", "teachers")]
        judge = _judge_words(at(recipe, FEEDBACK, "judge"))
        found["judge"] = f"recorded ratings, and for its own answers {judge}" if recorded else judge
        found["candidates"] = ", ".join([*(_named(str(model)) for model in pool), *teachers])
    return {role: name for role, name in found.items() if name}


def _is_written(run: RunRecord) -> bool:
    """Whether a teacher wrote what the synth stage made; prompts with constraints are composed by rules."""
    return SYNTH in run.stages and at(run.recipe, SYNTH, "generator", "name") != "constraints"


def _judge_words(section: Json) -> str:
    """A judge in words; of one that checks, that it does, and the judge beside it with its weight."""
    if at(section, "name") != "checks":
        return _teacher_words(section)
    beside = at(section, "beside")
    weight = number(at(beside, "weight")) or 0.0
    return "checks (rules)" + (f", beside {_teacher_words(at(beside, 'judge'))} with {weight:.0%}" if beside else "")


def _teacher_words(section: Json) -> str:
    """A teacher in words, without its address, which may be private."""
    kind, model = at(section, "name"), at(section, "model")
    if kind == "scripted":
        fault_rate = number(at(section, "fault_rate"))
        return "scripted (rules)" + (f", {fault_rate:.0%} of its answers faulty on purpose" if fault_rate else "")
    shown = _named(str(model)) if kind != "endpoint" else str(model)
    return f"{shown} ({kind})" if model else str(kind or "")


def _named(model: str) -> str:
    """A model by its name: of a folder the last part, as the place of it is nobody's business."""
    is_folder = model.startswith(("/", "./", "../", "~", "\\")) or model.count("/") > 1 or Path(model).is_dir()
    return Path(model).name if is_folder else model


def decimals(value: Json) -> str:
    """A number with four decimals; an empty text for what is none."""
    found = number(value)
    return "" if found is None else f"{found:.4f}"
