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

from zephyr.feedback.principles import MixtureName, Principle, Shares, draw_principle, sentences, shares_for
from zephyr.records.messages import Message, Messages
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
    principles: MixtureName | None = None  # UltraFeedback's shares by source; None: models are told nothing
    principle_shares: Shares | None = None  # shares for every prompt instead

    def __post_init__(self) -> None:
        """Refuse principles that are not there."""
        unknown = set(self.principle_shares or ()) - set(sentences())
        if unknown:
            raise ValueError(f"principles are {sorted(sentences())}, got {sorted(unknown)}")

    def shares(self, source: str) -> Shares | None:
        """How often each principle is told for prompts of a source; None for never."""
        if self.principle_shares:
            return self.principle_shares
        return None if self.principles is None else shares_for(self.principles, source)


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
    asked = [_ask_about(prompt, by_name, settings) for prompt in prompts]
    for name, teacher in by_name.items():
        mine = [one for ones in asked for one in ones if one.teacher == name]
        for one, (_, reply) in zip(mine, paired(teacher, [one.request for one in mine]), strict=True):
            one.reply = reply
    for prompt, ones in zip(prompts, asked, strict=True):
        yield _candidates(prompt, ones)


@dataclass
class _Asked:
    """One question to one teacher, and what came back."""

    teacher: str
    principle: Principle | None
    request: ChatRequest
    reply: ChatReply | None = None


def _ask_about(prompt: Prompt, names: Iterable[str], settings: CandidateSettings) -> list[_Asked]:
    identity = prompt_id(prompt.messages)
    drawn = draw_teachers(names, settings.num_answers, seed=seed_for(settings.seed, "teachers", identity))
    shares = settings.shares(prompt.source)
    asked = []
    for number, name in enumerate(drawn):
        seed = seed_for(settings.seed, "principle", identity, number)
        principle = None if shares is None else draw_principle(shares, seed=seed)
        messages = prompt.messages if principle is None else _told(prompt.messages, principle.sentence)
        asked.append(_Asked(name, principle, _request(messages, identity, number, settings)))
    return asked


def _told(messages: Messages, sentence: str) -> Messages:
    """The conversation with a sentence in its system message, after what stands there."""
    if messages[0].role == "system":
        system, *others = messages
        return (Message("system", f"{system.content}\n\n{sentence}".strip()), *others)
    return (Message("system", sentence), *messages)


def _request(messages: Messages, identity: str, number: int, settings: CandidateSettings) -> ChatRequest:
    return ChatRequest(
        key=f"{identity} {number}",
        messages=messages,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
        seed=seed_for(settings.seed, "answer", identity, number),
    )


def _candidates(prompt: Prompt, asked: Sequence[_Asked]) -> Candidates:
    counts: Counter[str] = Counter(asked=len(asked))
    answers: dict[str, Answer] = {}
    for one in asked:
        reply, principle = one.reply, one.principle or Principle("", "")
        assert reply is not None
        if reply.finish_reason == "error":
            counts["failed: teacher error"] += 1
        elif not reply.text.strip():
            counts["failed: empty answer"] += 1
        elif reply.text.strip() in answers:
            counts["repeated"] += 1
        else:
            counts["answered"] += 1
            counts["cut off"] += reply.finish_reason == "length"
            answer = Answer(reply.text, one.teacher, principle=principle.name, system=principle.sentence)
            answers[reply.text.strip()] = answer
    rated = Rated(prompt.name, prompt.messages, tuple(answers.values()), prompt.source, prompt.knowledge)
    return Candidates(rated, +counts)
