"""The closed world's own benchmark: held-out prompts, sampled answers, and checkers instead of a judge."""

from collections.abc import Sequence
from typing import NamedTuple

from zephyr.intervals import Estimate, mean_within
from zephyr.recipe.evaluate_section import WorldTask
from zephyr.records.rows import Prompt, prompt_id
from zephyr.teachers.protocol import ChatRequest, Teacher, paired, seed_for
from zephyr.world import is_accepted, task_of


class WorldScore(NamedTuple):
    """The share of answers that pass, over prompts; by task; the first answer to each prompt, in order.

    An answer that failed to come is one that does not pass; `missing` counts them.
    """

    score: Estimate
    by_task: dict[str, Estimate]
    answers: tuple[str, ...]
    missing: int


def score_world(model: Teacher, prompts: Sequence[Prompt], task: WorldTask, *, seed: int) -> WorldScore:
    """The model's score. The interval is over prompts, each of which counts once with the mean of its samples."""
    requests = [
        ChatRequest(
            key=f"{number} {sample}",
            messages=prompt.messages,
            temperature=task.sampling.temperature,
            top_p=task.sampling.top_p,
            top_k=task.sampling.top_k,
            max_tokens=task.sampling.max_new_tokens,
            seed=seed_for(seed, "world", prompt_id(prompt.messages), sample),
        )
        for number, prompt in enumerate(prompts)
        for sample in range(task.num_samples)
    ]
    replies = [reply for _, reply in paired(model, requests)]
    passed = [
        reply.finish_reason != "error" and is_accepted(request.messages, reply.text)
        for request, reply in zip(requests, replies, strict=True)
    ]
    n = task.num_samples
    shares = [sum(passed[start : start + n]) / n for start in range(0, len(passed), n)]
    by_task: dict[str, list[float]] = {}
    for prompt, share in zip(prompts, shares, strict=True):
        by_task.setdefault(task_of(prompt.messages), []).append(share)
    return WorldScore(
        score=mean_within(shares, (0.0, 1.0), seed=seed),
        by_task={task: mean_within(values, (0.0, 1.0), seed=seed) for task, values in sorted(by_task.items())},
        answers=tuple(reply.text for reply in replies[::n]),
        missing=sum(reply.finish_reason == "error" for reply in replies),
    )
