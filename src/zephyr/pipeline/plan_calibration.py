"""How fast this machine is at a recipe's own stages: some steps of training, some answers, some ratings, timed.

Nothing is kept. The model is new and knows nothing, which changes no time: what answers it gives are cut where the
stage's own would end.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from zephyr.data.tokenize.token_store import Comparison, Example
from zephyr.feedback.candidates import answer_prompts
from zephyr.feedback.judge import judge
from zephyr.models.generation import generate
from zephyr.models.sampling import Sampling
from zephyr.pipeline.feedback_settings import answering_of, judging_of
from zephyr.recipe.schema import Recipe
from zephyr.recipe.teacher_section import ScriptedSection
from zephyr.recipe.train_section import TrainSection
from zephyr.stages.stage import Work
from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher
from zephyr.train.job import TrainJob, build_engine
from zephyr.train.objectives import Objective
from zephyr.train.optimizers import build_optimizer
from zephyr.train.sampler import plan_steps
from zephyr.train.settings import TrainSettings
from zephyr.train.step import accumulate_gradients, make_batch
from zephyr.world import prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Answers in one batch. They end one by one, and the last ones go on almost alone: as long as if all had so many times
# the mean length.
ANSWERS = 512
LENGTH_FACTOR = 1.5
RATED_PROMPTS = 100
# Of the time, what goes to steps of training.
STEPS_SHARE = 0.7


class Timed(NamedTuple):
    """What is trained in a stage, for timing."""

    objective: Objective
    train: TrainSection
    examples: Sequence[Example]


class Speeds(NamedTuple):
    """Seconds of one optimizer step by stage, of one sampled token beside many others, and of rating one prompt."""

    step_seconds: Mapping[str, float]
    token_seconds: float
    rating_seconds: float


def measure_speeds(recipe: Recipe, model: "PreTrainedModel", stages: Mapping[str, Timed], *, seconds: float) -> Speeds:
    """The machine's speeds, measured for about so many seconds in all."""
    steps = _step_seconds({stage: _stepper(model, timed, recipe.seed) for stage, timed in stages.items()}, seconds)
    pairs = stages["align"].examples if "align" in stages else ()
    compared = [one for one in pairs if isinstance(one, Comparison)]
    return Speeds(steps, _token_seconds(model, compared, _answers_a_prompt(recipe)), _rating_seconds(recipe))


def _stepper(model: "PreTrainedModel", timed: Timed, seed: int) -> Callable[[int], None]:
    """A function that makes the step of a number, after one to warm up."""
    values = timed.train.model_dump() | {"report_to": (), "seed": seed}
    settings = TrainSettings(**values)
    engine = build_engine(TrainJob(model, timed.objective, settings, timed.examples, Path()))
    optimizer = build_optimizer(engine.scorer, settings)
    plan = plan_steps(len(timed.examples), settings)

    def step(number: int) -> None:
        examples = [timed.examples[index] for index in plan.indices(number % plan.steps_per_epoch)]
        columns = max(len(one.completions) if isinstance(one, Comparison) else 1 for one in examples)
        # As if the reference had computed them; any number takes the same time.
        before = torch.zeros(len(examples), columns, dtype=torch.float64)
        accumulate_gradients(engine, make_batch(timed.objective, examples, before))
        nn.utils.clip_grad_norm_(engine.scorer.parameters(), settings.max_grad_norm or 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(0)
    return step


def _step_seconds(steppers: Mapping[str, Callable[[int], None]], seconds: float) -> dict[str, float]:
    """Seconds of a step by stage, one after another again and again: what else the machine does slows all alike."""
    spent = dict.fromkeys(steppers, 0.0)
    number = 0
    while steppers and (number == 0 or sum(spent.values()) < STEPS_SHARE * seconds):
        number += 1
        for stage, step in steppers.items():
            started = time.perf_counter()
            step(number)
            spent[stage] += time.perf_counter() - started
    return {stage: total / number for stage, total in spent.items()}


def _answers_a_prompt(recipe: Recipe) -> int:
    return 1 if recipe.feedback is None else recipe.feedback.candidates.num_completions


def _token_seconds(model: "PreTrainedModel", examples: Sequence[Comparison], num_samples: int) -> float:
    """Seconds of one sampled token, the prompt's share in it; 0 without examples. Samples of a prompt share it."""
    asked = [[int(token) for token in one.prompt] for one in islice(examples, max(1, ANSWERS // num_samples))]
    if not asked:
        return 0.0
    lengths = [len(ids) for pair in examples for ids in pair.completions]
    sampling = Sampling(round(LENGTH_FACTOR * mean(lengths)), temperature=0.7, top_k=50, top_p=0.95)
    module: nn.Module = model
    module.eval()
    started = time.perf_counter()
    generate(model, asked, sampling, num_samples=num_samples)
    return (time.perf_counter() - started) / (len(asked) * num_samples * sampling.max_new_tokens)


def _rating_seconds(recipe: Recipe) -> float:
    """Seconds in which the scripted judge rates one prompt's answers; 0 where another judges."""
    section = recipe.feedback
    if section is None or section.recorded or not isinstance(section.judge, ScriptedSection):
        return 0.0
    work = Work(recipe, "feedback", Path(), {}, Path())
    asked = list(prompts("feedback", recipe.seed, RATED_PROMPTS))
    found = answer_prompts(asked, [ScriptedTeacher(0.5, seed=recipe.seed)], answering_of(section, work))
    rated = [one.rated for one in found]
    started = time.perf_counter()
    for _ in judge(rated, ScriptedJudge(seed=recipe.seed), judging_of(section, work)):
        pass
    return (time.perf_counter() - started) / len(asked)
