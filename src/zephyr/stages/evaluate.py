"""The evaluate stage: the models of the run are measured one after the other; what is measured stays measured.

An evaluation task is one `Measurement` in `MEASUREMENTS`: its recipe section, its check, its estimate and its function.
To add one: a section in `zephyr.recipe.evaluate_section`, and its record here.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from zephyr.atomic import replace_text
from zephyr.data.read.mixture import Mixture, mix
from zephyr.data.read.sources import Records
from zephyr.data.read.stage_rows import open_all
from zephyr.recipe.data_section import DataSection, DataSource
from zephyr.recipe.evaluate_section import (
    EvaluateSection,
    HarnessTask,
    PerplexityTask,
    PreferenceTask,
    Task,
    WorldTask,
)
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain, Section
from zephyr.recipe.stage_sections import ALIGN, EVALUATE, PRETRAIN, SFT, TRAINING_STAGES
from zephyr.recipe.teacher_section import EndpointSection, LocalSection, TeacherSection, VllmSection
from zephyr.recipe.train_section import SftObjective
from zephyr.records.messages import Messages
from zephyr.records.rows import Chat, Preference, Prompt, Record
from zephyr.runs.layout import LEDGER, MODEL, SAMPLES_FILE, measurement_file
from zephyr.runs.reader import model_title
from zephyr.runs.stage_folder import Facts
from zephyr.stages.preview import Preview
from zephyr.stages.stage import Stage, Work
from zephyr.world import prompts

if TYPE_CHECKING:
    from zephyr.data.tokenize.encoding import DialogueEncoder
    from zephyr.evaluate.held_out import Pair
    from zephyr.evaluate.results import Result
    from zephyr.trees.forest import ScoredSequence

SHOWN_SAMPLES = 12
MAX_TOKENS = 8192  # that are scored together
Value = TypeVar("Value")
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

    ``rows``: the kind of record in its sources, None if it has none. ``check``: lines on its inputs, by recipe, task
    and dotted key; raises what is wrong with them. ``estimate``: its work, by task and number of models. ``run``: what
    it finds, by work, task and number of the task.
    """

    section: type[Section]
    rows: type[Record] | None
    check: Callable[[Recipe, Task, str], Iterator[str]]
    estimate: Callable[[Task, int], str]
    run: Callable[[Work, Task, int], Measured]


def measurement(
    section: type[OneTask],
    *,
    rows: type[Record] | None = None,
    check: Callable[[Recipe, OneTask, str], Iterator[str]] = lambda *_: iter(()),
    estimate: Callable[[OneTask, int], str],
    run: Callable[[Work, OneTask, int], Measured],
) -> Measurement:
    """The record of a task, whose functions take its own section."""

    def own(task: Task) -> OneTask:
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
    """The stages whose models are measured."""
    return tuple(stage for stage in TRAINING_STAGES if stage in recipe.stages)


def sources(recipe: Recipe) -> list[DataSource]:
    """The held-out rows that its tasks name."""
    return [source for task in _section(recipe).tasks for source in _sources(task)]


def outputs(_recipe: Recipe) -> list[str]:
    """The names in its finished folder."""
    return [SAMPLES_FILE, "a file for every measurement"]


def depends_on(recipe: Recipe) -> dict[str, Plain]:
    """The chat template, and the base model where no stage before has trained one."""
    template: dict[str, Plain] = {"chat_template": recipe.template_of(EVALUATE).model_dump(mode="json")}
    has_base = PRETRAIN in recipe.stages or SFT in recipe.stages
    return template if has_base else {**template, "model": recipe.model.model_dump(mode="json")}


def check(preview: Preview) -> Iterator[str]:
    """Lines on the rows of its tasks, and on its benchmarks."""
    recipe = preview.recipe
    if not sources(recipe):
        yield f"reads {', '.join(reads(recipe)) or 'nothing from outside'}"
    for number, task in enumerate(_section(recipe).tasks):
        known, parts = MEASUREMENTS[task.name], list[Records[Record]]()
        if known.rows is not None:
            yield from preview.open_sources(_sources(task), known.rows, parts)
        with preview.problems.noted():
            yield from known.check(recipe, task, _key(number))


def estimate(preview: Preview) -> Iterator[str]:
    """A line for every task: what is measured of how many models."""
    num_models = len(reads(preview.recipe))
    yield from (MEASUREMENTS[task.name].estimate(task, num_models) for task in _section(preview.recipe).tasks)


def preflight(work: Work) -> Facts:
    """The rows that its tasks read and the benchmarks they run. Raises ZephyrError for what cannot be."""
    rows, lines = 0, list[str]()
    for number, task in enumerate(_section(work.recipe).tasks):
        known = MEASUREMENTS[task.name]
        if known.rows is not None:
            rows += sum(map(len, open_all(work.recipe, _sources(task), known.rows)))
        lines += known.check(work.recipe, task, _key(number))
    facts: Facts = {"rows": rows} if rows else {}
    return {**facts, "benchmarks": "; ".join(lines)} if lines else facts


def run(work: Work) -> Facts:
    """The facts of the stage: `scores` and `benchmarks` by model, and further `metrics` by name."""
    found = Measured()
    for number, task in enumerate(_section(work.recipe).tasks):
        found.add(MEASUREMENTS[task.name].run(work, task, number))
    return {"scores": found.scores, "metrics": found.metrics, "benchmarks": dict(found.benchmarks)}


def titles(work: Work) -> dict[str, str]:
    """The stages whose models are measured, and what tables call them."""
    objective = work.recipe.align.objective.name if work.recipe.align is not None else ""
    return {stage: model_title(stage, objective) for stage in TRAINING_STAGES if stage in work.inputs}


def _sources(task: Task) -> list[DataSource]:
    return task.sources if isinstance(task, PreferenceTask | PerplexityTask) else []


def _key(number: int) -> str:
    return f"{EVALUATE}.tasks.{number}"


def _kept(path: Path, measure: Callable[[], Facts]) -> Facts:
    """What `measure` gives, or what it gave in a try that was stopped later."""
    if not path.exists():
        replace_text(path, json.dumps(measure(), indent=1, ensure_ascii=False))
    found: Facts = json.loads(path.read_bytes())
    return found


# ---- the closed world ----


def _world(work: Work, task: WorldTask, number: int) -> Measured:
    """The world's score of every model; their answers to a few prompts go to a file."""
    questions = list(prompts("heldout", work.recipe.seed, task.num_prompts))
    measured = Measured()
    answers: dict[str, list[str]] = {}
    for stage, title in titles(work).items():
        path = work.folder / measurement_file(number, task.name, stage)
        found = _kept(path, partial(_world_of, stage, work, questions, task))
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
    from zephyr.evaluate.world import score_world
    from zephyr.teachers.opening import TeacherContext, open_teacher

    context = TeacherContext(
        seed=work.recipe.seed,
        offline=work.recipe.offline,
        template=work.recipe.template_of(EVALUATE),
        cache_tokens=_section(work.recipe).batch_tokens,
    )
    model = LocalSection(model=str(work.inputs[stage] / MODEL))
    found = score_world(open_teacher(model, "writes", context).teacher, questions, task, seed=work.recipe.seed)
    by_task: Facts = {name: round(one.score, 4) for name, one in found.by_task.items()}
    score: Facts = {name: round(value, 6) for name, value in found.score._asdict().items()}
    answers: list[Plain] = list(_spread(found.answers))
    return {"score": score, "by_task": by_task, "answers": answers, "missing": found.missing}


def _spread(values: Sequence[Value]) -> Sequence[Value]:
    """Some of the values, from all over: the world's prompts come task after task, so the first are of few tasks."""
    return values[:: max(1, len(values) // SHOWN_SAMPLES)][:SHOWN_SAMPLES]


def _as_line(messages: Messages) -> str:
    """What was said, one message after the other."""
    return " / ".join(message.content for message in messages)


# ---- held-out rows ----


def _preference(work: Work, task: PreferenceTask, number: int) -> Measured:
    """Reward accuracy and margins on held-out pairs, and of a list on its best and worst answer."""
    return Measured(metrics=_kept(work.folder / measurement_file(number, task.name), lambda: _preferences(work, task)))


def _preferences(work: Work, task: PreferenceTask) -> Facts:
    from zephyr.evaluate.held_out import answer_logps, preference_metrics, prompt_numbers
    from zephyr.models.loading import Source, load_model
    from zephyr.pipeline.ready import starting_source

    align = work.recipe.align
    assert align is not None
    held = _pairs(work, task)
    if not held:
        return {"preference/pairs": 0}
    policy, reference = Source(str(work.inputs[ALIGN] / MODEL), offline=True), starting_source(work, ALIGN)
    logps, ref_logps = (
        answer_logps(load_model(source, dtype="float32"), held, max_tokens=MAX_TOKENS) for source in (policy, reference)
    )
    found = preference_metrics(
        logps, ref_logps, prompts=prompt_numbers(held), beta=align.objective.beta, seed=work.recipe.seed
    )
    return {
        "preference/accuracy": round(found.accuracy.score, 6),
        "preference/accuracy_low": round(found.accuracy.low, 6),
        "preference/accuracy_high": round(found.accuracy.high, 6),
        "preference/margin": round(found.margin.score, 6),
        "preference/margin_low": round(found.margin.low, 6),
        "preference/margin_high": round(found.margin.high, 6),
        "preference/pairs": found.num_pairs,
        "preference/prompts": found.accuracy.n,
        "preference/rewards_chosen": round(found.chosen_reward, 6),
        "preference/rewards_rejected": round(found.rejected_reward, 6),
    }


def _pairs(work: Work, task: PreferenceTask) -> "list[Pair]":
    """The pairs of the task's sources, tokenised as align tokenises its own, or those that align has held out."""
    from zephyr.data.tokenize.truncation import TruncationReport, fit_preference
    from zephyr.evaluate.held_out import Pair
    from zephyr.pipeline.tokens import comparisons

    align = work.recipe.align
    assert align is not None
    if not task.sources:
        held = comparisons(work.inputs[ALIGN], "eval")
        found = [(one.prompt, one.completions, one.ratings) for one in held]
    else:
        encoder, report = _encoder(work, ALIGN, work.recipe.template_of(ALIGN)), TruncationReport(align.data)
        found = []
        for row in _rows(work.recipe, task.sources, Preference):
            completions = [encoder.completion(text) for text in row.completions]
            fitted = fit_preference(encoder.prompt(row.prompt), completions, align.data)
            if report.add(row.name, fitted.loss):
                found.append((fitted.prompt, fitted.completions, row.ratings))
        report.check()
    return [
        Pair(prompt, completions[0], completions[-1])
        for prompt, completions, ratings in found
        if len(completions) == 2 or ratings[0] > ratings[-1]
    ]


def _perplexity(work: Work, task: PerplexityTask, number: int) -> Measured:
    """Perplexity of every model on held-out dialogues."""
    return Measured(metrics=_kept(work.folder / measurement_file(number, task.name), lambda: _perplexities(work, task)))


def _perplexities(work: Work, task: PerplexityTask) -> Facts:
    from zephyr.evaluate.held_out import perplexity
    from zephyr.models.loading import Source, load_model

    facts: Facts = {}
    for stage, title in titles(work).items():
        held = _dialogues(work, task, stage)
        if held:
            model = load_model(Source(str(work.inputs[stage] / MODEL), offline=True), dtype="float32")
            facts[f"perplexity/{title}"] = round(perplexity(model, held, max_tokens=MAX_TOKENS).perplexity, 4)
    return facts


def _dialogues(work: Work, task: PerplexityTask, stage: str) -> "list[ScoredSequence]":
    """The dialogues of the task's sources as sft's, by the tokenizer of a stage's model, or those sft has held out."""
    from zephyr.data.tokenize.truncation import TruncationReport, fit_dialogue
    from zephyr.pipeline.tokens import dialogues
    from zephyr.trees.forest import ScoredSequence

    if not task.sources:
        return [ScoredSequence(one.ids, one.scored) for one in dialogues(work.inputs[SFT], "eval")]
    recipe = work.recipe
    data = _dialogue_data(recipe)
    loss_on = recipe.sft.objective.loss_on if recipe.sft is not None else SftObjective().loss_on
    encoder, report = _encoder(work, stage, recipe.template_of(SFT)), TruncationReport(data)
    found = []
    for row in _rows(recipe, task.sources, Chat):
        fitted = fit_dialogue(encoder.dialogue(row.messages, loss_on=loss_on), data)
        if report.add(row.name, fitted.loss):
            found.append(ScoredSequence(fitted.encoded.ids, fitted.encoded.scored))
    report.check()
    return found


def _dialogue_data(recipe: Recipe) -> DataSection:
    """The window of sft; without such a stage, that of the last one that trains."""
    section = recipe.sft or recipe.align or recipe.pretrain
    return section.data if section is not None else DataSection()


RowKind = TypeVar("RowKind", bound=Record)


def _rows(recipe: Recipe, named: Sequence[DataSource], kind: type[RowKind]) -> Mixture[RowKind]:
    """The rows of the sources, as a training stage reads its `eval_sources`: not filtered, not shuffled."""
    return mix(open_all(recipe, named, kind), seed=recipe.seed, shuffle=False)


def _encoder(work: Work, stage: str, template: ChatTemplateSection) -> "DialogueEncoder":
    """The way to tokens by the tokenizer of a stage's model."""
    from zephyr.data.tokenize.encoding import DialogueEncoder
    from zephyr.models.loading import Source, load_tokenizer

    return DialogueEncoder(load_tokenizer(Source(str(work.inputs[stage] / MODEL), offline=True)), template)


# ---- benchmarks ----


def _harness(work: Work, task: HarnessTask, number: int) -> Measured:
    """The scores of every model by benchmark, in percent or marks; requests that have an answer are not sent again."""
    from zephyr.evaluate.benchmarks import run_benchmarks
    from zephyr.evaluate.harness.run import HarnessRun
    from zephyr.evaluate.judged.bench import JudgedBench, parse_contestant

    recipe, measured = work.recipe, Measured()
    located = _located(recipe, task)
    judge = None if task.judge is None else _judge(work, task.judge)
    cache_tokens = _section(recipe).batch_tokens
    for stage, title in titles(work).items():
        model, out = str(work.inputs[stage] / MODEL), work.folder / f"{number}-{task.name}-{stage}"
        run = HarnessRun(out, recipe.offline, cache_tokens=cache_tokens)
        bench = None
        if judge is not None:
            bench = JudgedBench(
                contestants=(parse_contestant(model),),
                judge=judge,
                out=out,
                seed=recipe.seed,
                offline=recipe.offline,
                cache_tokens=cache_tokens,
                # What an endpoint is paid for serves the whole run, and counts for its caps.
                judge_ledger=work.run_folder / LEDGER if isinstance(judge, EndpointSection) else None,
            )
        found = run_benchmarks(model, located.model_copy(update={"judge": judge}), run, bench)
        results = (*found.tasks.results, *found.judged)
        measured.benchmarks[title] = {one.benchmark: _score(one, out.name) for one in results}
    return measured


def _benchmark_lines(recipe: Recipe, task: HarnessTask, key: str) -> Iterator[str]:
    """A line on the benchmarks, and one on those that are left out. Raises ZephyrError for what cannot be run."""
    from zephyr.evaluate.benchmarks import check_benchmarks, count_documents

    located = _located(recipe, task)
    checked = check_benchmarks(located, offline=recipe.offline, where=f"{key}.judge")
    num_tasks, num_documents = count_documents(located, offline=recipe.offline)
    others = f", {len(checked.judged)} judged benchmarks" if checked.judged else ""
    yield f"{', '.join(task.tasks)}: {num_tasks} tasks of {num_documents:,} documents{others}"
    yield from checked.left_out


def _located(recipe: Recipe, task: HarnessTask) -> HarnessTask:
    """The task with its data looked up in the recipe's `data_dir`."""
    return task if task.data is None else task.model_copy(update={"data": recipe.data_dir / task.data})


def _judge(work: Work, judge: TeacherSection) -> TeacherSection:
    """The judge, `stage:NAME` in it replaced by the folder of that model."""
    from zephyr.teachers.opening import TeacherContext, model_source

    if not isinstance(judge, LocalSection | VllmSection):
        return judge
    context = TeacherContext(offline=True, models={stage: folder / MODEL for stage, folder in work.inputs.items()})
    return judge.model_copy(update={"model": model_source(judge.model, context, where=EVALUATE).name})


def _score(result: "Result", folder: str) -> dict[str, Plain]:
    """The score that the benchmark is known by, with its interval and the file that it stands in."""
    from zephyr.evaluate.harness.report import MAIN
    from zephyr.evaluate.results import AS_PUBLISHED, RESULT

    score = result.scores[AS_PUBLISHED if AS_PUBLISHED in result.scores else MAIN]
    assert isinstance(score, dict)
    # A judged benchmark has one score by which it is known, as published.
    metric = result.protocol.get("metric", AS_PUBLISHED)
    return {**score, "metric": metric, "file": f"{folder}/{result.benchmark}/{RESULT}"}


# ---- the tables ----


def _world_work(task: WorldTask, num_models: int) -> str:
    answers, longest = task.num_prompts * task.num_samples * num_models, task.sampling.max_new_tokens
    return f"world: {answers:,} answers by {num_models} models, {longest} tokens at most"


def _held_out_work(task: PreferenceTask | PerplexityTask, num_models: int) -> str:
    models = 2 if isinstance(task, PreferenceTask) else num_models
    return f"{task.name}: one forward pass over held-out rows for each of {models} models"


MEASUREMENTS: dict[str, Measurement] = {
    "world": measurement(WorldTask, estimate=_world_work, run=_world),
    "preference": measurement(PreferenceTask, rows=Preference, estimate=_held_out_work, run=_preference),
    "perplexity": measurement(PerplexityTask, rows=Chat, estimate=_held_out_work, run=_perplexity),
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
    check=check,
    estimate=estimate,
    preflight=preflight,
    run=run,
    depends_on=depends_on,
)
