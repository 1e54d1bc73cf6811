"""Several answers to every prompt, from a pool of teachers or as several samples of one.

Rating them is left to `judge`. What a prompt gets depends on the seed and the prompt alone, never on the order
of prompts, on what stands beside them, or on the order of the pool.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zephyr.records.rows import Answer, Prompt, Rated, prompt_id
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for


@dataclass(frozen=True)
class CandidateSettings:
    """How many answers a prompt gets, and how they are sampled."""

    num_answers: int = 4
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 50
    max_tokens: int = 256
    seed: int = 0
    chunk_prompts: int = 1024  # prompts in one call of a teacher


class Candidates(NamedTuple):
    """A prompt with its answers, not rated yet, and what became of the requests.

    The counts are asked = answered + repeated + the failures by reason; besides, how many answers are "cut off"
    at their longest length. They add up over prompts.
    """

    rated: Rated
    counts: Counter[str]


def answer_prompts(
    prompts: Iterable[Prompt], pool: Sequence[Teacher], settings: CandidateSettings
) -> Iterator[Candidates]:
    """The candidates of every prompt, in order.

    Of a pool larger than one, teachers are drawn without replacement (anew when all have been drawn). Equal
    answers to a prompt are kept once: the first. UltraFeedback: arXiv 2310.01377
    """
    by_name = {teacher.name: teacher for teacher in pool}
    if not by_name or len(by_name) < len(pool):
        raise ValueError(f"a pool needs teachers of different names, got {[teacher.name for teacher in pool]}")
    waiting = iter(prompts)
    while chunk := list(itertools.islice(waiting, settings.chunk_prompts)):
        yield from _answer_chunk(chunk, by_name, settings)


def draw_teachers(names: Iterable[str], num_answers: int, *, seed: int) -> list[str]:
    """`num_answers` of the names, without replacement for as long as there are any left."""
    dice = random.Random(seed)
    ordered = sorted(names)
    drawn: list[str] = []
    while len(drawn) < num_answers:
        drawn += dice.sample(ordered, min(len(ordered), num_answers - len(drawn)))
    return drawn


def _answer_chunk(
    prompts: Sequence[Prompt], by_name: dict[str, Teacher], settings: CandidateSettings
) -> Iterator[Candidates]:
    places: dict[str, list[int]] = {name: [] for name in by_name}
    requests: dict[str, list[ChatRequest]] = {name: [] for name in by_name}
    for index, prompt in enumerate(prompts):
        identity = prompt_id(prompt.messages)
        drawn = draw_teachers(by_name, settings.num_answers, seed=seed_for(settings.seed, "teachers", identity))
        for number, name in enumerate(drawn):
            places[name].append(index)
            requests[name].append(_request(prompt, identity, number, settings))
    replies: list[list[tuple[str, ChatReply]]] = [[] for _ in prompts]
    for name, teacher in by_name.items():
        for index, (_, reply) in zip(places[name], paired(teacher, requests[name]), strict=True):
            replies[index].append((name, reply))
    for prompt, got in zip(prompts, replies, strict=True):
        yield _candidates(prompt, sorted(got, key=lambda one: int(one[1].key.split()[1])))


def _request(prompt: Prompt, identity: str, number: int, settings: CandidateSettings) -> ChatRequest:
    return ChatRequest(
        key=f"{identity} {number}",
        messages=prompt.messages,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
        seed=seed_for(settings.seed, "answer", identity, number),
    )


def _candidates(prompt: Prompt, replies: Sequence[tuple[str, ChatReply]]) -> Candidates:
    counts: Counter[str] = Counter(asked=len(replies))
    answers: dict[str, Answer] = {}
    for name, reply in replies:
        if reply.finish_reason == "error":
            counts["failed: teacher error"] += 1
        elif not reply.text.strip():
            counts["failed: empty answer"] += 1
        elif reply.text.strip() in answers:
            counts["repeated"] += 1
        else:
            counts["answered"] += 1
            counts["cut off"] += reply.finish_reason == "length"
            answers[reply.text.strip()] = Answer(reply.text, name)
    return Candidates(Rated(prompt.name, prompt.messages, tuple(answers.values()), prompt.source), +counts)
