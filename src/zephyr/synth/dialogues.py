"""A teacher's answers to prompts as dialogues, and what all generators share: prompt templates, requests, reply faults.

A template that is reworded is a new version: what it made must stay distinguishable from what the next one makes.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import resources
from string import Template
from typing import NamedTuple

from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Chat, Prompt, prompt_id
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for

PROMPTS_VERSION = "v1"
PROMPTS_PER_CALL = 1024


class Writers(NamedTuple):
    """Who writes: the teacher that answers, how it is sampled, and who plays a person, if the generator has one.

    `chunk_prompts`: prompts in one call of the teacher, which change no answer.
    """

    teacher: Teacher
    sampling: SamplingSection
    person: Teacher
    chunk_prompts: int = PROMPTS_PER_CALL


def write_dialogues(prompts: Iterable[Prompt], writers: Writers, counts: Counter[str], *, seed: int) -> Iterator[Chat]:
    """Every prompt with the teacher's answer, in order; `counts` takes what was asked, answered and failed."""
    waiting = enumerate(prompts)
    while chunk := list(itertools.islice(waiting, writers.chunk_prompts)):
        # A prompt that comes again gets an answer of its own.
        seeds = [seed_for(seed, "dialogue", number, prompt_id(prompt.messages)) for number, prompt in chunk]
        requests = [
            sampled_request(str(number), prompt.messages, writers.sampling, seed=own_seed)
            for (number, prompt), own_seed in zip(chunk, seeds, strict=True)
        ]
        for (_, prompt), (_, reply) in zip(chunk, paired(writers.teacher, requests), strict=True):
            counts["asked"] += 1
            fault = reply_fault(reply)
            counts["answered" if fault is None else f"failed: {fault}"] += 1
            if fault is None:
                if reply.reasoning:
                    counts["answered with reasoning"] += 1
                answer = Message("assistant", reply.text, reply.reasoning)
                yield Chat(prompt.name, (*prompt.messages, answer), prompt.source)


def sampled_request(key: str, messages: Messages, sampling: SamplingSection, *, seed: int) -> ChatRequest:
    """The request for one answer, sampled as the section says."""
    return ChatRequest(
        key,
        messages,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_new_tokens,
        seed=seed,
    )


@functools.cache
def template(name: str) -> Template:
    """The prompt template of that name, without blank lines around it."""
    text = resources.files("zephyr.synth").joinpath("templates", PROMPTS_VERSION, f"{name}.txt")
    return Template(text.read_text(encoding="utf-8").strip())


def reply_fault(reply: ChatReply) -> str | None:
    """Why a reply holds no complete text, or None."""
    if reply.finish_reason == "error":
        return "teacher error"
    if not reply.text.strip():
        return "empty answer"
    return "cut off" if reply.finish_reason == "length" else None


def until_stop(reply: ChatReply, stops: re.Pattern[str]) -> ChatReply:
    """The reply up to the first stop, as if the server had stopped there.

    A stop that was written came before the length limit, so such a reply is complete.
    """
    text = reply.text.strip()
    found = stops.search(text)
    if reply.finish_reason == "error" or found is None:
        return reply._replace(text=text)
    return reply._replace(text=text[: found.start()].rstrip(), finish_reason="stop")
