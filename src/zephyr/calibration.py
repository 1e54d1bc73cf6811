"""How long a recipe's stages take on this machine: some steps of training, some answers and some ratings are timed.

Nothing is kept. The model is new and untrained, which changes no time: its answers are cut where the stage's own would
end.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from statistics import mean
from typing import TYPE_CHECKING

import torch
from torch import nn

from zephyr.data.tokenize.token_store import Comparison
from zephyr.estimate.duration import measured_seconds
from zephyr.feedback.candidates import answer_prompts
from zephyr.feedback.judge import judge
from zephyr.models.generation import generate
from zephyr.models.reward_model import reward_model_of
from zephyr.recipe.evaluate_section import WorldTask
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import EVALUATE, FEEDBACK, PreferenceSection, RewardSection
from zephyr.recipe.steps import count_steps
from zephyr.recipe.synth_section import WorldSynth
from zephyr.recipe.teacher_section import SamplingSection, ScriptedSection
from zephyr.stages.preview import SampledStage
from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher
from zephyr.train.job import build_scorer
from zephyr.train.objectives import build_objective
from zephyr.train.optimizers import build_optimizer
from zephyr.train.step import accumulate_gradients, make_batch, step_indices
from zephyr.world import FEEDBACK_SPLIT, prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Answers in one batch. They end one by one, and the last ones run almost alone: the batch takes as long as if all had
# so many times the mean length.
ANSWERS = 512
LENGTH_FACTOR = 1.5
RATED_PROMPTS = 100
# Share of the time that goes to training steps.
STEPS_SHARE = 0.7


def estimated_seconds(
    recipe: Recipe, model: "PreTrainedModel", stages: Mapping[str, SampledStage], *, seconds: float
) -> dict[str, float]:
    """Seconds by stage, as far as they can be estimated, from a calibration of about `seconds` seconds."""
    step_seconds = _step_seconds({stage: _stepper(model, one, recipe) for stage, one in stages.items()}, seconds)
    found = {
        stage: measured_seconds(sampled.workload, step_seconds[stage], sampled.seconds_per_row)
        for stage, sampled in stages.items()
    }
    pairs = next((one for one in stages.values() if isinstance(one.workload.section, PreferenceSection)), None)
    if pairs is not None:
        num_samples = 1 if recipe.feedback is None else recipe.feedback.candidates.num_completions
        compared = [one for one in pairs.examples if isinstance(one, Comparison)]
        token_seconds = _token_seconds(model, compared, num_samples)
        answer_seconds = LENGTH_FACTOR * pairs.workload.rows.completion_tokens * token_seconds
        found[FEEDBACK] = _of_feedback(recipe, answer_seconds)
        found[EVALUATE] = _of_evaluation(recipe, answer_seconds, token_seconds)
    return {stage: found[stage] for stage in recipe.stages if found.get(stage)}


def _stepper(model: "PreTrainedModel", sampled: SampledStage, recipe: Recipe) -> Callable[[int], None]:
    """A function that makes the step of a number, after one to warm up."""
    workload, every = sampled.workload, sampled.examples
    objective = build_objective(workload.section.objective, every, data_dir=recipe.data_dir)
    is_reward = isinstance(workload.section, RewardSection)
    scorer = build_scorer(reward_model_of(copy.deepcopy(model)) if is_reward else model, workload.train)
    optimizer = build_optimizer(scorer, workload.train)
    steps = count_steps(workload.train, len(every), batch_size=workload.examples_per_step)

    def step(number: int) -> None:
        examples = [every[index] for index in step_indices(steps, number % steps.steps_per_epoch, seed=recipe.seed)]
        columns = max(len(one.completions) if isinstance(one, Comparison) else 1 for one in examples)
        # As if the reference had computed them; any number takes the same time.
        before = torch.zeros(len(examples), columns, dtype=torch.float64)
        accumulate_gradients(scorer, make_batch(objective, examples, before), workload.train)
        nn.utils.clip_grad_norm_(scorer.parameters(), workload.train.max_grad_norm or 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(0)
    return step


def _step_seconds(steppers: Mapping[str, Callable[[int], None]], seconds: float) -> dict[str, float]:
    """Seconds of a step by stage. The stages take turns, so that other load on the machine slows all alike."""
    spent = dict.fromkeys(steppers, 0.0)
    number = 0
    while steppers and (number == 0 or sum(spent.values()) < STEPS_SHARE * seconds):
        number += 1
        for stage, step in steppers.items():
            started = time.perf_counter()
            step(number)
            spent[stage] += time.perf_counter() - started
    return {stage: total / number for stage, total in spent.items()}


def _token_seconds(model: "PreTrainedModel", examples: Sequence[Comparison], num_samples: int) -> float:
    """Seconds of one sampled token among many, with its share of the prompt; 0 without examples."""
    asked = [[int(token) for token in one.prompt] for one in islice(examples, max(1, ANSWERS // num_samples))]
    if not asked:
        return 0.0
    lengths = [len(ids) for pair in examples for ids in pair.completions]
    sampling = SamplingSection(max_new_tokens=max(1, round(LENGTH_FACTOR * mean(lengths))))
    module: nn.Module = model
    module.eval()
    started = time.perf_counter()
    generate(model, asked, sampling, num_samples=num_samples)
    return (time.perf_counter() - started) / (len(asked) * num_samples * sampling.max_new_tokens)


def _of_feedback(recipe: Recipe, answer_seconds: float) -> float:
    """Seconds in which local models answer the closed world's prompts and the judge rates them; 0 if not known."""
    synth, section = recipe.synth, recipe.feedback
    if section is None or synth is None or not isinstance(synth.generator, WorldSynth) or not answer_seconds:
        return 0.0
    num_prompts = synth.generator.num_feedback_prompts
    answers = num_prompts * section.candidates.num_completions
    return answers * answer_seconds + num_prompts * (_rating_seconds(recipe) if num_prompts else 0.0)


def _rating_seconds(recipe: Recipe) -> float:
    """Seconds in which the scripted judge rates one prompt's answers; 0 where another judges."""
    section = recipe.feedback
    if section is None or section.recorded or not isinstance(section.judge, ScriptedSection):
        return 0.0
    asked = list(prompts(FEEDBACK_SPLIT, recipe.seed, RATED_PROMPTS))
    teacher = ScriptedTeacher(ScriptedSection(fault_rate=0.5), seed=recipe.seed)
    found = answer_prompts(asked, [teacher], section.candidates, seed=recipe.seed)
    rated = [one.rated for one in found]
    judging = section.judging.below(recipe.data_dir)
    started = time.perf_counter()
    for _ in judge(rated, ScriptedJudge(seed=recipe.seed), judging, seed=recipe.seed):
        pass
    return (time.perf_counter() - started) / len(asked)


def _of_evaluation(recipe: Recipe, answer_seconds: float, token_seconds: float) -> float:
    """Seconds of the answers to the closed world's prompts: trained models' answers end, a base model's do not."""
    trained = sum(section is not None for section in (recipe.sft, recipe.align))
    seconds = 0.0
    for task in [] if recipe.evaluate is None else recipe.evaluate.tasks:
        if isinstance(task, WorldTask):
            answers = task.num_prompts * task.num_samples
            seconds += trained * answers * answer_seconds
            if recipe.pretrain is not None:
                seconds += answers * task.sampling.max_new_tokens * token_seconds
    return seconds
