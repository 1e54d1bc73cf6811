"""Answers measured by a reward model: their mean reward, and how often it is above that of the reference answer."""

from collections.abc import Sequence
from typing import NamedTuple

from zephyr.errors import DataError
from zephyr.intervals import Estimate, bootstrap_mean, mean_within
from zephyr.recipe.evaluate_section import RewardTask
from zephyr.records.fields import UnusableError
from zephyr.records.messages import Message
from zephyr.records.rows import Chat, prompt_id
from zephyr.teachers.protocol import ChatRequest, Teacher, paired, seed_for
from zephyr.teachers.reward_judge import RewardJudge


class RewardScore(NamedTuple):
    """The mean reward of the answers and of the references, and the share of wins, of which a tie is half a one.

    Over the prompts with both; ``missing`` counts the answers that failed to come or cannot be read as the references
    can.
    """

    reward: Estimate
    reference_reward: float
    win_rate: Estimate
    missing: int


def score_rewards(
    model: Teacher, judge: RewardJudge, dialogues: Sequence[Chat], task: RewardTask, *, seed: int
) -> RewardScore:
    """The rewards of the model's answers in place of the dialogues' last ones. Raises DataError if none can be read."""
    sampling = task.sampling
    requests = [
        ChatRequest(
            key=str(number),
            messages=dialogue.messages[:-1],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=seed_for(seed, task.name, prompt_id(dialogue.messages[:-1])),
        )
        for number, dialogue in enumerate(dialogues)
    ]
    read = []
    for dialogue, (_, reply) in zip(dialogues, paired(model, requests), strict=True):
        if reply.finish_reason == "error":
            continue
        answers = (Message("assistant", reply.text), dialogue.messages[-1])
        try:
            read.append(judge.dialogues(dialogue.messages[:-1], answers))
        except UnusableError:
            continue
    if not read:
        remedy = "see that the models answer, and that the dialogues fit the reward model's positions"
        raise DataError("evaluation by rewards", f"none of {len(dialogues)} answers has a reward", remedy)
    rewards = judge.rewards(read)
    wins = [(answer > reference) + (answer == reference) / 2 for answer, reference in rewards]
    return RewardScore(
        reward=bootstrap_mean([answer for answer, _ in rewards], seed=seed),
        reference_reward=sum(reference for _, reference in rewards) / len(rewards),
        win_rate=mean_within(wins, (0.0, 1.0), seed=seed),
        missing=len(dialogues) - len(read),
    )
