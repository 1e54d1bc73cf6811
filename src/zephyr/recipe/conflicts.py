"""Checks for settings that conflict with each other. Limits of single values are declared in the sections."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from zephyr.errors import RecipeError
from zephyr.recipe.data_section import DataSection, DataSource
from zephyr.recipe.evaluate_section import PerplexityTask, PreferenceTask, RewardTask
from zephyr.recipe.feedback_section import ChecksSection, reward_models_of, teachers_that_rate
from zephyr.recipe.model_section import POLICY, STAGE_REFERENCE, NewModel
from zephyr.recipe.objective_section import ListwiseObjective, PreferenceObjective, SftObjective
from zephyr.recipe.stage_sections import POLICY_STAGES, PreferenceSection, RecipeFields, TrainingSection
from zephyr.recipe.steps import check_warmup, count_steps
from zephyr.recipe.synth_section import ConstraintsSynth, WorldSynth, teachers_of
from zephyr.recipe.teacher_section import LocalSection, SamplingSection, ScriptedSection, TeacherSection, VllmSection
from zephyr.recipe.train_section import TrainSection

# The stages whose rows a training stage takes when it names no sources.
MAKERS = {"pretrain": "synth", "sft": "synth", "reward": "feedback", "align": "feedback"}
_SLICE = re.compile(r"(?P<split>[^\[\]]+)\[(?P<start>-?\d+)?%?:(?P<stop>-?\d+)?%?\]")


class Conflict(NamedTuple):
    """What is wrong at a key, what to do about it, and the other keys involved."""

    key: str
    what: str
    remedy: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.key}: {self.what}; {self.remedy}"


def find_conflicts(recipe: RecipeFields) -> list[Conflict]:
    """All settings of a recipe that conflict with each other."""
    return [conflict for check in CHECKS for conflict in check(recipe)]


def _inputs(recipe: RecipeFields) -> Iterator[Conflict]:
    if not recipe.stages:
        yield Conflict("recipe", "has no stage", "write at least one of sft, align, evaluate")
    for stage, maker in MAKERS.items():
        learner = recipe.trained.get(stage)
        if learner is not None and learner.data.reads_made and getattr(recipe, maker) is None:
            yield _no_made_rows(stage, learner.data, "no earlier stage makes rows", f"add a {maker} stage", maker)
    feedback = recipe.feedback
    if feedback is not None and feedback.with_made_prompts and recipe.synth is None:
        what = "asks for the prompts of a synth stage, and there is none"
        yield Conflict("feedback.with_made_prompts", what, "leave it out, or add a synth stage", ("synth",))
    elif feedback is not None and not (feedback.recorded or feedback.prompts or recipe.synth):
        remedy = "give recorded, prompts, or a synth stage"
        yield Conflict(
            "feedback.prompts", "is empty, and no other setting provides prompts", remedy, ("feedback", "synth")
        )


def _synth(recipe: RecipeFields) -> Iterator[Conflict]:
    if recipe.synth is None or isinstance(recipe.synth.generator, WorldSynth):
        return
    generator = recipe.synth.generator
    for key, teacher in teachers_of(recipe.synth).items():
        if isinstance(teacher, ScriptedSection):
            what = f"the scripted teacher knows only the closed world, not generator {generator.name}"
            yield Conflict(key, what, "choose local, vllm or endpoint", ("synth.generator",))
    lacking = {"pretrain": ("texts", "")}
    if isinstance(generator, ConstraintsSynth) and not generator.num_dialogues:
        lacking["sft"] = ("dialogues", "set synth.generator.num_dialogues")
    for stage, (rows, remedy) in lacking.items():
        learner = recipe.trained.get(stage)
        if learner is not None and learner.data.reads_made:
            what = f"generator {generator.name} makes no {rows}"
            yield _no_made_rows(stage, learner.data, what, remedy, "synth.generator")


def _no_made_rows(stage: str, data: DataSection, what: str, remedy: str, maker: str) -> Conflict:
    """A stage is to read rows that an earlier one makes, and ``what`` says that there will be none."""
    if data.with_made_rows:
        key, what, other = "with_made_rows", f"asks for the rows of an earlier stage, and {what}", "leave it out"
    else:
        key, what, other = "sources", f"is empty, and {what}", "name sources"
    return Conflict(f"{stage}.data.{key}", what, ", or ".join(filter(None, (other, remedy))), (maker,))


def _unchecked_prompts(recipe: RecipeFields) -> Iterator[Conflict]:
    """Checks alone as the judge of prompts that a generator makes without any."""
    if recipe.feedback is None or not recipe.feedback.reads_made or recipe.synth is None:
        return
    judge, generator = recipe.feedback.judge, recipe.synth.generator
    if isinstance(judge, ChecksSection) and judge.beside is None and not isinstance(generator, ConstraintsSynth):
        what = f"checks answers, and generator {generator.name} makes prompts without checks"
        remedy = "name prompts with checks, generator constraints, or a judge beside"
        yield Conflict("feedback.judge", what, remedy, ("synth.generator", "feedback.prompts"))


def _new_model(recipe: RecipeFields) -> Iterator[Conflict]:
    model = recipe.model
    if not isinstance(model, NewModel):
        return
    if recipe.pretrain is None:
        yield Conflict(
            "pretrain", "is missing", "a new model learns its tokenizer from the texts of pretrain", ("model",)
        )
    for stage, section in recipe.trained.items():
        longest = section.data.max_length
        if longest > model.max_position_embeddings:
            what = f"must be at most the model's {model.max_position_embeddings} positions, got {longest}"
            yield Conflict(f"{stage}.data.max_length", what, "shorten it, or enlarge the model", ("model",))
        if section.lora is not None and section.lora.load_in_4bit:
            yield Conflict(f"{stage}.lora.load_in_4bit", "is for models from the hub", "set it to false", ("model",))


def _held_out(recipe: RecipeFields) -> Iterator[Conflict]:
    for stage, section in recipe.trained.items():
        data, train = section.data, section.train
        if data.eval_sources and data.eval_share:
            what = f"is not used with eval_sources, got {data.eval_share}"
            yield Conflict(f"{stage}.data.eval_share", what, "leave one of them out", (f"{stage}.data.eval_sources",))
        for name in ("eval_steps", "metric_for_best_model"):
            value = getattr(train, name)
            if value is not None and not _holds_out(data):
                what = f"needs held-out rows, got {value!r}"
                remedy = f"give {stage}.data.eval_sources or eval_share, or leave it out"
                yield Conflict(f"{stage}.train.{name}", what, remedy, _held_out_keys(stage))
        if train.metric_for_best_model is not None and train.eval_steps is None and _holds_out(data):
            what = "needs more than the evaluation at the end"
            yield Conflict(f"{stage}.train.metric_for_best_model", what, f"give {stage}.train.eval_steps")
        if train.early_stopping_patience is not None and train.metric_for_best_model is None:
            what = f"needs a metric to watch, got {train.early_stopping_patience}"
            remedy = f"give {stage}.train.metric_for_best_model, such as eval_loss"
            yield Conflict(f"{stage}.train.early_stopping_patience", what, remedy)
        yield from _unknown_metric(stage, section.objective, train)
        yield from _overlaps(stage, data)


def _unknown_metric(
    stage: str, objective: SftObjective | PreferenceObjective, train: TrainSection
) -> Iterator[Conflict]:
    """A metric to choose the best checkpoint by that no evaluation of this objective gives."""
    watched = train.metric_for_best_model
    if watched is None:
        return
    known = ["eval_loss", *(f"eval_{name}" for name in objective.metrics)]
    if not {watched, f"eval_{watched}"} & {*known}:
        what = f"no evaluation gives '{watched}'"
        yield Conflict(f"{stage}.train.metric_for_best_model", what, f"name one of {', '.join(known)}")


def _overlaps(stage: str, data: DataSection) -> Iterator[Conflict]:
    for number, held_out in enumerate(data.eval_sources):
        if any(_share_rows(source, held_out) for source in data.sources):
            what = f"is also trained on, got {held_out.path} {held_out.split}"
            remedy = "hold out rows that are not in sources"
            yield Conflict(f"{stage}.data.eval_sources.{number}", what, remedy, (f"{stage}.data.sources",))


def _truncation(recipe: RecipeFields) -> Iterator[Conflict]:
    for stage, section in recipe.trained.items():
        data, has_preferences = section.data, isinstance(section, PreferenceSection)
        prompt, rule = data.max_prompt_length, data.truncation.rule
        if prompt is not None and prompt >= data.max_length:
            what = f"must leave room for an answer within max_length {data.max_length}, got {prompt}"
            yield Conflict(f"{stage}.data.max_prompt_length", what, "shorten it")
        elif prompt is not None and not has_preferences:
            what = f"limits the prompts of pairs alone, got {prompt}"
            yield Conflict(f"{stage}.data.max_prompt_length", what, "leave it out")
        if rule == "trl_0.7" and (prompt is None or not has_preferences):
            needed = "max_prompt_length" if has_preferences else "pairs of answers"
            what = f"trl_0.7 needs {needed}"
            yield Conflict(f"{stage}.data.truncation.rule", what, "choose keep_start, keep_end or drop")


def _schedules(recipe: RecipeFields) -> Iterator[Conflict]:
    for stage, section in recipe.trained.items():
        train, schedule = section.train, section.train.lr_scheduler_type
        if schedule in ("constant", "reduce_lr_on_plateau") and (train.warmup_ratio or train.warmup_steps):
            remedy = "choose constant_with_warmup, or leave the warm-up out"
            yield Conflict(f"{stage}.train.lr_scheduler_type", f"{schedule} has no warm-up", remedy)
        if schedule == "reduce_lr_on_plateau" and (train.eval_steps is None or not _holds_out(section.data)):
            what, remedy = "reduce_lr_on_plateau needs evaluations", f"give held-out rows and {stage}.train.eval_steps"
            yield Conflict(f"{stage}.train.lr_scheduler_type", what, remedy, _held_out_keys(stage))
        if train.precision == "pure_bf16" and train.optim not in ("adamw_torch", "adamw_8bit"):
            what = f"{train.optim} loses small updates of bfloat16 weights"
            yield Conflict(f"{stage}.train.optim", what, "choose adamw_torch or adamw_8bit, or precision bf16")
        if train.max_steps is not None:
            try:
                check_warmup(count_steps(train, 1), train, f"{stage}.train")
            except RecipeError as error:
                yield Conflict(error.where, error.what, error.remedy, (f"{stage}.train.max_steps",))
        yield from _schedule_free(stage, section)


def _schedule_free(stage: str, section: TrainingSection) -> Iterator[Conflict]:
    """What does not go with an optimizer that averages instead of a schedule."""
    train = section.train
    if not train.is_schedule_free:
        return
    if not train.lr_scheduler_type.startswith("constant"):
        what = f"{train.optim} takes the place of a schedule, got {train.lr_scheduler_type}"
        remedy = "choose constant or constant_with_warmup"
        yield Conflict(f"{stage}.train.lr_scheduler_type", what, remedy, (f"{stage}.train.optim",))
    if getattr(section.objective, "reference_sync_steps", None) is not None:
        what = f"the reference cannot follow the average of {train.optim}"
        yield Conflict(f"{stage}.objective.reference_sync_steps", what, "leave it out, or choose another optim")
    if not train.adam_beta1:
        yield Conflict(f"{stage}.train.adam_beta1", f"must be above 0 for {train.optim}", "leave it out for 0.9")


def _adapters(recipe: RecipeFields) -> Iterator[Conflict]:
    for stage, section in recipe.trained.items():
        if section.lora is not None and section.lora.lora_dropout and section.train.compile:
            what = "cannot be had with compile, which may not see what is drawn token by token"
            yield Conflict(f"{stage}.lora.lora_dropout", what, "leave one of them out", (f"{stage}.train.compile",))


def _objective(recipe: RecipeFields) -> Iterator[Conflict]:
    feedback = recipe.feedback
    for stage, learner in (("reward", recipe.reward), ("align", recipe.align)):
        if learner is None or feedback is None or not learner.data.reads_made:
            continue
        name = learner.objective.name
        wanted = "kto" if name == "kto" else "listwise" if name in ("listwise", "tpo", "best_of_n") else "pairs"
        if feedback.binarize.output != wanted:
            what = f"must be {wanted} for objective {name}, got {feedback.binarize.output}"
            remedy = f"write feedback.binarize.output={wanted}"
            yield Conflict("feedback.binarize.output", what, remedy, (f"{stage}.objective",))
    if recipe.align is None or feedback is None or not recipe.align.data.reads_made:
        return
    objective = recipe.align.objective
    asked = feedback.candidates.num_completions
    most = objective.num_completions if isinstance(objective, ListwiseObjective) else None
    if most is not None and feedback.asks_models and asked > most:
        what = f"must be at least the {asked} answers of feedback.candidates, got {most}"
        yield Conflict("align.objective.num_completions", what, f"write {asked}", ("feedback.candidates",))


def _asked_teachers(recipe: RecipeFields) -> Iterator[Conflict]:
    feedback = recipe.feedback
    if feedback is None:
        return
    candidates = feedback.candidates
    greedy = "the judge is greedy, and feedback.judging.max_new_tokens limits its replies"
    asked = {f"feedback.{key}": (one, greedy) for key, one in teachers_that_rate(feedback.judge).items()}
    for number, one in enumerate(candidates.teachers):
        asked[f"feedback.candidates.teachers.{number}"] = (
            one,
            "set feedback.candidates.sampling, which applies to all",
        )
    for key, (teacher, remedy) in asked.items():
        if getattr(teacher, "sampling", SamplingSection()) != SamplingSection():
            yield Conflict(f"{key}.sampling", "is not used here", f"leave it out; {remedy}")
    names = [*candidates.models, *(getattr(teacher, "model", teacher.name) for teacher in candidates.teachers)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        yield Conflict("feedback.candidates", f"two models have the same name, got '{twice}' twice", "name each once")


def _stage_references(recipe: RecipeFields) -> Iterator[Conflict]:
    feedback = recipe.feedback
    if feedback is not None and feedback.asks_models:
        models = feedback.candidates.models
        for number, name in enumerate(models):
            yield from _reference(recipe, "feedback", f"feedback.candidates.models.{number}", name)
        for number, teacher in enumerate(feedback.candidates.teachers):
            yield from _model_reference(recipe, "feedback", f"feedback.candidates.teachers.{number}", teacher)
        for key, teacher in teachers_that_rate(feedback.judge).items():
            yield from _model_reference(recipe, "feedback", f"feedback.{key}", teacher)
        for key, rewards in reward_models_of(feedback.judge).items():
            if rewards.model.startswith(STAGE_REFERENCE):
                remedy = "train the reward model by a recipe of its own, and name its model folder"
                what = f"the reward stage of a run comes after feedback, got {rewards.model}"
                yield Conflict(f"feedback.{key}.model", what, remedy, ("reward",))
    for key, teacher in ({} if recipe.synth is None else teachers_of(recipe.synth)).items():
        yield from _model_reference(recipe, "synth", key, teacher)
    for stage, learner in (("reward", recipe.reward), ("align", recipe.align)):
        if learner is not None and learner.start is not None:
            yield from _reference(recipe, stage, f"{stage}.start", learner.start)
    if recipe.align is not None and recipe.align.reference is not None:
        yield from _reference(recipe, "align", "align.reference", recipe.align.reference)
        if not recipe.align.objective.needs_reference:
            what = f"is not used by objective {recipe.align.objective.name}"
            yield Conflict("align.reference", what, "leave it out", ("align.objective",))


def _model_reference(recipe: RecipeFields, stage: str, key: str, teacher: TeacherSection) -> Iterator[Conflict]:
    if isinstance(teacher, LocalSection | VllmSection):
        yield from _reference(recipe, stage, f"{key}.model", teacher.model)


def _reference(recipe: RecipeFields, stage: str, key: str, name: str) -> Iterator[Conflict]:
    if not name.startswith(STAGE_REFERENCE):
        return
    before = recipe.stages[: recipe.stages.index(stage)]
    there = [made for made in before if made in POLICY_STAGES]
    wanted = name.removeprefix(STAGE_REFERENCE)
    if wanted == POLICY and stage == "feedback":
        if recipe.align is not None and recipe.align.start is not None:
            yield Conflict(key, "align starts from a model that it names", f"write {recipe.align.start}", ("align",))
        if isinstance(recipe.model, NewModel) and not there:
            yield Conflict(key, "a new model answers nothing before it is trained", "add pretrain or sft", ("model",))
    elif wanted not in there:
        known = f"known are {', '.join(there)}" if there else "none is"
        what = f"no stage before {stage} of that name makes a model, got {name}"
        yield Conflict(key, what, f"{known}; or name a folder or a hub id", (wanted,))


def _tasks(recipe: RecipeFields) -> Iterator[Conflict]:
    needed = {PreferenceTask: "align", PerplexityTask: "sft"}
    tasks = recipe.evaluate.tasks if recipe.evaluate is not None else []
    for number, task in enumerate(tasks):
        made = f"{STAGE_REFERENCE}reward" if recipe.reward is not None else ""
        if isinstance(task, RewardTask) and task.model.startswith(STAGE_REFERENCE) and task.model != made:
            what, remedy = f"no stage of that name makes a reward model, got {task.model}", "add a reward stage"
            yield Conflict(f"evaluate.tasks.{number}.model", what, f"{remedy}, or name a folder", ("reward",))
        stage = needed.get(type(task))
        if isinstance(task, PreferenceTask) and task.sources and recipe.align is None:
            what = "preference measures the aligned model, and there is no align stage"
            yield Conflict(f"evaluate.tasks.{number}", what, "leave it out, or add an align stage", ("align",))
        if stage is None or getattr(task, "sources", None):
            continue
        learner = recipe.trained.get(stage)
        if learner is None or not _holds_out(learner.data):
            what = f"is empty, and {stage} holds out no rows"
            remedy = f"name sources, or give {stage}.data.eval_sources or eval_share"
            yield Conflict(f"evaluate.tasks.{number}.sources", what, remedy, _held_out_keys(stage))


def _holds_out(data: DataSection) -> bool:
    return bool(data.eval_sources or data.eval_share)


def _held_out_keys(stage: str) -> tuple[str, ...]:
    return (f"{stage}.data.eval_sources", f"{stage}.data.eval_share")


def _share_rows(one: DataSource, other: DataSource) -> bool:
    """Whether two sources certainly have rows in common: the same split, or slices of it that overlap."""
    if (one.path, one.config, one.revision, one.where) != (other.path, other.config, other.revision, other.where):
        return False
    first, second = _rows(one.split), _rows(other.split)
    if first.split != second.split or not first.unit or not second.unit:
        return first.split == second.split
    return first.unit == second.unit and max(first.start, second.start) < min(first.stop, second.stop)


class _Rows(NamedTuple):
    """Rows `start` up to `stop` of a split, in percent or rows; without a unit all of them."""

    split: str
    unit: str
    start: int
    stop: int


def _rows(split: str) -> _Rows:
    found = _SLICE.fullmatch(split)
    if found is None:
        return _Rows(split, "", 0, 0)
    unit, end = ("%", 100) if "%" in split else ("rows", 2**62)
    start, stop = int(found["start"] or 0), int(found["stop"] or end)
    # A negative bound counts from the end.
    return _Rows(found["split"], unit, start + end * (start < 0), stop + end * (stop < 0))


CHECKS: tuple[Callable[[RecipeFields], Iterator[Conflict]], ...] = (
    _inputs,
    _synth,
    _unchecked_prompts,
    _new_model,
    _held_out,
    _truncation,
    _schedules,
    _adapters,
    _objective,
    _asked_teachers,
    _stage_references,
    _tasks,
)
