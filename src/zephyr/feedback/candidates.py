"""Several answers to every prompt, from a pool of teachers or as several samples of one.

Rating them is left to `judge`. What a prompt gets depends on the seed and the prompt alone, never on the order of
prompts, on the other prompts of a chunk, or on the order of the pool.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zephyr.feedback.principles import Principle, draw_principle, shares_for
from zephyr.recipe.feedback_section import CandidatesSection
from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Answer, Prompt, Rated, prompt_id
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for

CHUNK_PROMPTS = 1024


class Candidates(NamedTuple):
    """A prompt with its unrated answers, and what became of the requests.

    The counts are asked = answered + repeated + the failures by reason; besides, how many answers are "cut off" at the
    maximum length, how many came "with reasoning", and how many repaired copies were "added: repaired". They add up
    over prompts.
    """

    rated: Rated
    counts: Counter[str]


def answer_prompts(
    prompts: Iterable[Prompt],
    pool: Sequence[Teacher],
    section: CandidatesSection,
    *,
    seed: int = 0,
    chunk_prompts: int = CHUNK_PROMPTS,
    on_answer: Callable[[int], None] = lambda _: None,
) -> Iterator[Candidates]:
    """The candidates of every prompt, in order; a teacher is sent the requests of `chunk_prompts` prompts at once.

    From a pool larger than one, teachers are drawn without replacement (anew when all have been drawn). Equal answers
    to a prompt are kept once: the first. `on_answer` is called with the number of replies so far. Raises ValueError for
    an empty pool or two teachers of one name. UltraFeedback: arXiv 2310.01377
    """
    by_name = {teacher.name: teacher for teacher in pool}
    if not by_name or len(by_name) < len(pool):
        raise ValueError(f"a pool needs teachers of different names, got {[teacher.name for teacher in pool]}")
    waiting, num_replies = iter(prompts), itertools.count(1)
    while chunk := list(itertools.islice(waiting, chunk_prompts)):
        samples = [_samples_of(prompt, by_name, section, seed) for prompt in chunk]
        for name, teacher in by_name.items():
            mine = [one for some in samples for one in some if one.teacher == name]
            # A model in this process answers those of one temperature together, and its replies come in order.
            mine.sort(key=lambda one: one.request.temperature)
            for one, (_, reply) in zip(mine, paired(teacher, [one.request for one in mine]), strict=True):
                one.reply = reply
                on_answer(next(num_replies))
        for prompt, some in zip(chunk, samples, strict=True):
            found = _candidates(prompt, some)
            yield _with_repaired(found) if section.repair and prompt.checks else found


def draw_teachers(names: Iterable[str], num_answers: int, *, seed: int) -> list[str]:
    """`num_answers` of the names, without replacement for as long as there are any left."""
    rng = random.Random(seed)
    ordered = sorted(names)
    drawn: list[str] = []
    while len(drawn) < num_answers:
        drawn += rng.sample(ordered, min(len(ordered), num_answers - len(drawn)))
    return drawn


@dataclass
class _Sample:
    """One request to one teacher, and its reply."""

    teacher: str
    principle: Principle | None
    request: ChatRequest
    reply: ChatReply | None = None


def _samples_of(prompt: Prompt, names: Iterable[str], section: CandidatesSection, seed: int) -> list[_Sample]:
    identity = prompt_id(prompt.messages)
    drawn = draw_teachers(names, section.num_completions, seed=seed_for(seed, "teachers", identity))
    shares = shares_for(section, prompt.source)
    temperatures = section.temperatures or [section.sampling.temperature]
    samples = []
    for number, name in enumerate(drawn):
        principle = None
        if shares is not None:
            principle = draw_principle(shares, seed=seed_for(seed, "principle", identity, number))
        request = ChatRequest(
            key=f"{identity} {number}",
            messages=prompt.messages if principle is None else _with_system(prompt.messages, principle.sentence),
            temperature=temperatures[number % len(temperatures)],
            top_p=section.sampling.top_p,
            top_k=section.sampling.top_k,
            max_tokens=section.sampling.max_new_tokens,
            seed=seed_for(seed, "answer", identity, number),
        )
        samples.append(_Sample(name, principle, request))
    return samples


def _with_system(messages: Messages, sentence: str) -> Messages:
    """The messages with a sentence at the end of their system message."""
    if messages[0].role == "system":
        system, *others = messages
        return (Message("system", f"{system.content}\n\n{sentence}".strip()), *others)
    return (Message("system", sentence), *messages)


def _candidates(prompt: Prompt, samples: Sequence[_Sample]) -> Candidates:
    counts: Counter[str] = Counter(asked=len(samples))
    answers: dict[str, Answer] = {}
    for one in samples:
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
            answer = answer._replace(reasoning=reply.reasoning)
            counts["with reasoning"] += bool(reply.reasoning)
            answers[reply.text.strip()] = answer
    rated = Rated(prompt.name, prompt.messages, tuple(answers.values()), prompt.source, prompt.knowledge, prompt.checks)
    return Candidates(rated, +counts)


def _with_repaired(found: Candidates) -> Candidates:
    """The candidates and behind them repaired copies of those that fail checks, as of a model of their own."""
    from zephyr.judging.repairs import repaired

    answers = {answer.text.strip(): answer for answer in found.rated.answers}
    for answer in found.rated.answers:
        text = repaired(found.rated.checks, answer.text)
        if text is not None:
            answers.setdefault(text.strip(), answer._replace(text=text, model=f"{answer.model}, repaired"))
    added = Counter({"added: repaired": len(answers) - len(found.rated.answers)})
    return Candidates(found.rated._replace(answers=tuple(answers.values())), +(found.counts + added))
