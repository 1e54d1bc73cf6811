"""The evaluate stage: the models of the run are measured one after the other; what is measured stays measured.

An evaluation task is one `Measurement` in `MEASUREMENTS`: its recipe section, its check, its estimate and its function.
To add one: a section in `zephyr.recipe.evaluate_section`, and its record here.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeVar, cast

from zephyr.atomic import replace_text
from zephyr.data.read.sources import Records
from zephyr.data.read.stage_rows import open_all
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.evaluate_section import (
    EvaluateSection,
    EvaluationTask,
    HarnessTask,
    PerplexityTask,
    PreferenceTask,
    RewardTask,
    WorldTask,
)
from zephyr.recipe.model_section import STAGE_REFERENCE
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain, Section
from zephyr.recipe.stage_sections import EVALUATE, POLICY_STAGES, REWARD
from zephyr.recipe.teacher_section import EndpointSection, LocalSection, TeacherSection, VllmSection
from zephyr.records.messages import Messages
from zephyr.records.rows import Chat, Preference, Prompt, Record
from zephyr.runs.layout import LEDGER, MODEL, SAMPLES_FILE, measurement_file
from zephyr.runs.reader import model_title
from zephyr.runs.stage_folder import Facts
from zephyr.stages.held_out import kept, perplexity_facts, preference_facts, reward_facts
from zephyr.stages.overlap import refuse_trained, task_lines
from zephyr.stages.preview import Preview
from zephyr.stages.stage import Stage, Work
from zephyr.stages.start import BASE, model_made, stage_teacher, template_and_model
from zephyr.world import HELDOUT_SPLIT, prompts

if TYPE_CHECKING:
    from zephyr.evaluation.results import Result
    from zephyr.models.source import Source

_SHOWN_SAMPLES = 12
STAGE_REWARD = f"{STAGE_REFERENCE}{REWARD}"
MAX_TOKENS = 8192  # that are scored together
_Value = TypeVar("_Value")
OneTask = TypeVar("OneTask", bound=Section)


@dataclass
class Measured:
    """What tasks have found: scores and benchmarks by model, and further metrics by name."""

    scores: Facts = field(default_factory=dict)
    metrics: Facts = field(default_factory=dict)
    benchmarks: dict[str, Facts] = field(default_factory=dict)

    def add(self, other: "Measured") -> None:
        """Take over what another task has found."""
        self.scores |= other.scores
        self.metrics |= other.metrics
        for title, found in other.benchmarks.items():
            self.benchmarks.setdefault(title, {}).update(found)


@dataclass(frozen=True)
class Measurement:
    """An evaluation task.

    ``rows``: the kind of record of its sources or None. ``check``: lines on its inputs, by recipe, task and dotted key;
    raises what is wrong. ``estimate``: its work, by number of models. ``run``: what it finds, by number of the task.
    """

    section: type[Section]
    rows: type[Record] | None
    check: Callable[[Recipe, EvaluationTask, str], Iterator[str]]
    estimate: Callable[[EvaluationTask, int], str]
    run: Callable[[Work, EvaluationTask, int], Measured]


def measurement(
    section: type[OneTask],
    *,
    rows: type[Record] | None = None,
    check: Callable[[Recipe, OneTask, str], Iterator[str]] = lambda *_: iter(()),
    estimate: Callable[[OneTask, int], str],
    run: Callable[[Work, OneTask, int], Measured],
) -> Measurement:
    """The record of a task, whose functions take its own section."""

    def own(task: EvaluationTask) -> OneTask:
        assert isinstance(task, section)
        return task

    return Measurement(
        section,
        rows,
        lambda recipe, task, key: check(recipe, own(task), key),
        lambda task, num_models: estimate(own(task), num_models),
        lambda work, task, number: run(work, own(task), number),
    )


# ---- the stage ----


def _section(recipe: Recipe) -> EvaluateSection:
    assert recipe.evaluate is not None
    return recipe.evaluate


def reads(recipe: Recipe) -> tuple[str, ...]:
    """The stages whose models are measured, or measure."""
    measured = tuple(stage for stage in POLICY_STAGES if stage in recipe.stages)
    judged = any(isinstance(task, RewardTask) and task.model == STAGE_REWARD for task in _section(recipe).tasks)
    return (*measured, REWARD) if judged else measured


def sources(recipe: Recipe) -> list[DataSource]:
    """The held-out rows that its tasks name."""
    return [source for task in _section(recipe).tasks for source in _sources(task)]


def outputs(_recipe: Recipe) -> list[str]:
    """The names in its finished folder."""
    return [SAMPLES_FILE, "a file for every measurement"]


def _check(preview: Preview) -> Iterator[str]:
    """Lines on the rows of its tasks, and on its benchmarks."""
    recipe = preview.recipe
    if not sources(recipe):
        yield f"reads {', '.join(reads(recipe)) or 'nothing from outside'}"
    for number, task in enumerate(_section(recipe).tasks):
        known, parts = MEASUREMENTS[task.name], list[Records[Record]]()
        if known.rows is not None:
            yield from preview.open_sources(_sources(task), known.rows, parts)
        with preview.problems.noted():
            yield from task_lines(task, preview.trained, chain.from_iterable(parts))
        with preview.problems.noted():
            yield from known.check(recipe, task, _key(number))


def estimate(preview: Preview) -> Iterator[str]:
    """A line for every task: what is measured of how many models."""
    num_models = sum(stage in POLICY_STAGES for stage in reads(preview.recipe)) + _section(preview.recipe).base_model
    yield from (MEASUREMENTS[task.name].estimate(task, num_models) for task in _section(preview.recipe).tasks)


def _preflight(work: Work) -> Facts:
    """The rows that its tasks read and the benchmarks they run. Raises ZephyrError for what cannot be."""
    rows, lines = 0, list[str]()
    for number, task in enumerate(_section(work.recipe).tasks):
        known = MEASUREMENTS[task.name]
        if known.rows is not None:
            parts = open_all(work.recipe, _sources(task), known.rows)
            refuse_trained(task, work.inputs, chain.from_iterable(parts))
            rows += sum(map(len, parts))
        lines += known.check(work.recipe, task, _key(number))
    facts: Facts = {"rows": rows} if rows else {}
    return {**facts, "benchmarks": "; ".join(lines)} if lines else facts


def _run(work: Work) -> Facts:
    """The facts of the stage: `scores` and `benchmarks` by model, and further `metrics` by name."""
    found = Measured()
    for number, task in enumerate(_section(work.recipe).tasks):
        found.add(MEASUREMENTS[task.name].run(work, task, number))
    return {"scores": found.scores, "metrics": found.metrics, "benchmarks": dict(found.benchmarks)}


def titles(work: Work) -> dict[str, str]:
    """The stages whose models are measured, and what tables call them."""
    objective = work.recipe.align.objective.name if work.recipe.align is not None else ""
    made = {stage: model_title(stage, objective) for stage in POLICY_STAGES if stage in work.inputs}
    return {BASE: BASE, **made} if _section(work.recipe).base_model else made


def _sources(task: EvaluationTask) -> list[DataSource]:
    return task.sources if isinstance(task, PreferenceTask | PerplexityTask | RewardTask) else []


def _key(number: int) -> str:
    return f"{EVALUATE}.tasks.{number}"


# ---- the closed world ----


def _world(work: Work, task: WorldTask, number: int) -> Measured:
    """The world's score of every model; their answers to a few prompts go to a file."""
    questions = list(prompts(HELDOUT_SPLIT, work.recipe.seed, task.num_prompts))
    measured = Measured()
    answers: dict[str, list[str]] = {}
    for stage, title in titles(work).items():
        path = work.folder / measurement_file(number, task.name, stage)
        found = kept(path, partial(_world_of, stage, work, questions, task))
        measured.scores[title] = found["score"]
        answers[title] = cast("list[str]", found["answers"])
    samples = [
        {"prompt": _as_line(prompt.messages), "answers": {title: of[index] for title, of in answers.items()}}
        for index, prompt in enumerate(_spread(questions))
    ]
    replace_text(work.folder / SAMPLES_FILE, json.dumps(samples, indent=1, ensure_ascii=False))
    return measured


def _world_of(stage: str, work: Work, questions: Sequence[Prompt], task: WorldTask) -> Facts:
    """The world's score of one model, by task too, and some of its answers."""
    from zephyr.evaluation.world import score_world

    teacher = stage_teacher(work, stage, cache_tokens=_section(work.recipe).batch_tokens)
    found = score_world(teacher, questions, task, seed=work.recipe.seed)
    by_task: Facts = {name: round(one.score, 4) for name, one in found.by_task.items()}
    score: Facts = {name: round(value, 6) for name, value in found.score._asdict().items()}
    prompts_of: Facts = {name: one.n for name, one in found.by_task.items()}
    told: Facts = {"score": score, "by_task": by_task, "task_prompts": prompts_of, "missing": found.missing}
    return {**told, "answers": list(_spread(found.answers))}


def _spread(values: Sequence[_Value]) -> Sequence[_Value]:
    """Some of the values, from all over: the world's prompts come task after task, so the first are of few tasks."""
    return values[:: max(1, len(values) // _SHOWN_SAMPLES)][:_SHOWN_SAMPLES]


def _as_line(messages: Messages) -> str:
    """The contents of all messages, in order."""
    return " / ".join(message.content for message in messages)


# ---- held-out rows ----


def _held_out(work: Work, task: PreferenceTask | PerplexityTask, number: int) -> Measured:
    """Reward accuracy and margins of the aligned model, or the perplexity of every model."""

    def measure() -> Facts:
        if isinstance(task, PreferenceTask):
            return preference_facts(work, task)
        return perplexity_facts(work, task, titles(work))

    return Measured(metrics=kept(work.folder / measurement_file(number, task.name), measure))


# ---- a reward model ----


def _reward(work: Work, task: RewardTask, number: int) -> Measured:
    """The mean reward of every model's answers, and in percent how often it is above the reference's."""
    measured = Measured()
    of = "reward model of the run" if task.model == STAGE_REWARD else task.model
    for stage, title in titles(work).items():
        file = measurement_file(number, task.name, stage)
        found = kept(work.folder / file, partial(reward_facts, work, task, stage, _model_source(work, task.model)))
        scores = {metric: score for metric, score in found.items() if isinstance(score, dict)}
        measured.benchmarks[title] = {
            f"{of}: {metric}": {**score, "metric": metric, "file": file} for metric, score in scores.items()
        }
    return measured


def _reward_lines(recipe: Recipe, task: RewardTask, _key: str) -> Iterator[str]:
    """A line on the reward model. Raises ModelError for one from outside that is none."""
    if task.model != STAGE_REWARD:
        from zephyr.models.reward_model import check_reward_model
        from zephyr.models.source import Source

        check_reward_model(Source(task.model, offline=recipe.offline))
    yield f"reward: by {task.model}"


# ---- benchmarks ----


def _harness(work: Work, task: HarnessTask, number: int) -> Measured:
    """The scores of every model by benchmark, in percent or marks; requests that have an answer are not sent again."""
    from zephyr.evaluation.benchmarks import run_benchmarks
    from zephyr.evaluation.harness.run import HarnessRun
    from zephyr.evaluation.judged.bench import JudgedBench, parse_contestant

    recipe, measured = work.recipe, Measured()
    located, cache_tokens = _located(recipe, task), _section(recipe).batch_tokens
    judge = None if task.judge is None else _judge(work, task.judge)
    for stage, title in titles(work).items():
        model, out = str(model_made(work, stage)), work.folder / f"{number}-{task.name}-{stage}"
        run = HarnessRun(out, recipe.offline, dtype=recipe.inference_dtype, cache_tokens=cache_tokens)
        bench = None
        if judge is not None:
            bench = JudgedBench(
                contestants=(parse_contestant(model),),
                judge=judge,
                out=out,
                seed=recipe.seed,
                offline=recipe.offline,
                cache_tokens=cache_tokens,
                dtype=recipe.inference_dtype,
                # What an endpoint is paid for serves the whole run, and counts for its caps.
                judge_ledger=work.run_folder / LEDGER if isinstance(judge, EndpointSection) else None,
            )
        found = run_benchmarks(model, located.model_copy(update={"judge": judge}), run, bench)
        results = (*found.tasks.results, *found.judged)
        measured.benchmarks[title] = {one.benchmark: _score(one, out.name) for one in results}
    return measured


def _benchmark_lines(recipe: Recipe, task: HarnessTask, key: str) -> Iterator[str]:
    """A line on the benchmarks, and one on those that are left out. Raises ZephyrError for what cannot be run."""
    from zephyr.evaluation.benchmarks import check_benchmarks, count_documents

    located = _located(recipe, task)
    checked = check_benchmarks(located, offline=recipe.offline, where=f"{key}.judge")
    num_tasks, num_documents = count_documents(located, offline=recipe.offline)
    others = f", {len(checked.judged)} judged benchmarks" if checked.judged else ""
    yield f"{', '.join(task.tasks)}: {num_tasks} tasks of {num_documents:,} documents{others}"
    yield from checked.left_out


def _located(recipe: Recipe, task: HarnessTask) -> HarnessTask:
    """The task with its data looked up in the recipe's `data_dir`."""
    places = {"data": task.data, "include_path": task.include_path}
    return task.model_copy(update={key: recipe.data_dir / path for key, path in places.items() if path is not None})


def _judge(work: Work, judge: TeacherSection) -> TeacherSection:
    """The judge, `stage:NAME` in it replaced by the folder of that model."""
    if not isinstance(judge, LocalSection | VllmSection):
        return judge
    return judge.model_copy(update={"model": _model_source(work, judge.model).name})


def _model_source(work: Work, name: str) -> "Source":
    """The place of a model; `stage:NAME` is that of a stage."""
    from zephyr.teachers.opening import TeacherContext, model_source

    models = {stage: folder / MODEL for stage, folder in work.inputs.items()}
    return model_source(name, TeacherContext(offline=work.recipe.offline, models=models), where=EVALUATE)


def _score(result: "Result", folder: str) -> dict[str, Plain]:
    """The main score of the benchmark, with its interval, the file that holds it, and what is to be said beside it."""
    from zephyr.evaluation.harness.report import MAIN
    from zephyr.evaluation.results import AS_PUBLISHED, RESULT

    score = result.scores[AS_PUBLISHED if AS_PUBLISHED in result.scores else MAIN]
    assert isinstance(score, dict)
    # A judged benchmark has one score by which it is known, as published.
    metric = result.protocol.get("metric", AS_PUBLISHED)
    notes: list[Plain] = [*result.notes]
    return {**score, "metric": metric, "file": f"{folder}/{result.benchmark}/{RESULT}", "notes": notes}


# ---- the tables ----


def _world_work(task: WorldTask, num_models: int) -> str:
    answers, longest = task.num_prompts * task.num_samples * num_models, task.sampling.max_new_tokens
    return f"world: {answers:,} answers by {num_models} models, {longest} tokens at most"


def _held_out_work(task: PreferenceTask | PerplexityTask, num_models: int) -> str:
    models = 2 if isinstance(task, PreferenceTask) else num_models
    return f"{task.name}: one forward pass over held-out rows for each of {models} models"


MEASUREMENTS: dict[str, Measurement] = {
    "world": measurement(WorldTask, estimate=_world_work, run=_world),
    "preference": measurement(PreferenceTask, rows=Preference, estimate=_held_out_work, run=_held_out),
    "perplexity": measurement(PerplexityTask, rows=Chat, estimate=_held_out_work, run=_held_out),
    "reward": measurement(
        RewardTask,
        rows=Chat,
        check=_reward_lines,
        estimate=lambda task, num_models: f"reward: answers by {num_models} models, scored by {task.model}",
        run=_reward,
    ),
    "harness": measurement(
        HarnessTask,
        check=_benchmark_lines,
        estimate=lambda task, num_models: f"{', '.join(task.tasks)}: {num_models} models",
        run=_harness,
    ),
}

STAGE = Stage(
    name=EVALUATE,
    version=1,
    reads=reads,
    sources=sources,
    outputs=outputs,
    check=_check,
    estimate=estimate,
    preflight=_preflight,
    run=_run,
    depends_on=partial(template_and_model, stage=EVALUATE),
)
