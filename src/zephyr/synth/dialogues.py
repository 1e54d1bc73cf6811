"""A teacher's answers to prompts, as dialogues to learn from. Which prompts there are is left to the caller."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from zephyr.records.messages import Message
from zephyr.records.rows import Chat, Prompt, prompt_id
from zephyr.teachers.protocol import ChatRequest, Teacher, paired, seed_for


@dataclass(frozen=True)
class WritingSettings:
    """How the teacher answers."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 50
    max_tokens: int = 256
    seed: int = 0
    chunk_prompts: int = 1024  # prompts in one call of the teacher


def write_dialogues(
    prompts: Iterable[Prompt], teacher: Teacher, settings: WritingSettings, counts: Counter[str]
) -> Iterator[Chat]:
    """Every prompt with the teacher's answer, in order; `counts` takes what was asked, answered and failed."""
    waiting = enumerate(prompts)
    while chunk := list(itertools.islice(waiting, settings.chunk_prompts)):
        requests = [_request(number, prompt, settings) for number, prompt in chunk]
        for (_, prompt), (_, reply) in zip(chunk, paired(teacher, requests), strict=True):
            counts["asked"] += 1
            if reply.finish_reason == "error":
                counts["failed: teacher error"] += 1
            elif not reply.text.strip():
                counts["failed: empty answer"] += 1
            elif reply.finish_reason == "length":
                counts["failed: cut off"] += 1
            else:
                counts["answered"] += 1
                yield Chat(prompt.name, (*prompt.messages, Message("assistant", reply.text)), prompt.source)


def _request(number: int, prompt: Prompt, settings: WritingSettings) -> ChatRequest:
    # A prompt that comes again gets an answer of its own.
    seed = seed_for(settings.seed, "dialogue", number, prompt_id(prompt.messages))
    return ChatRequest(
        key=str(number),
        messages=prompt.messages,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
        seed=seed,
    )
