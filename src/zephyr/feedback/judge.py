"""Answers rated by a judge: which questions are asked, in which order texts are shown, and what failed.

How a question is worded and a reply read is `zephyr.judging`; this file adds the shuffling of texts, asking
again after replies that cannot be read, and the accounts. A failure is never a score.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from zephyr.feedback.principles import told_in_short
from zephyr.judging import (
    ASPECTS,
    OVERALL,
    ParseFailure,
    Rating,
    RatingQuestion,
    ask,
    fence_word,
    parse_reply,
)
from zephyr.records.rows import Answer, Rated, prompt_id
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for

# Those whose notes are knowledge to check against. UltraFeedback: arXiv 2310.01377
KNOWLEDGE_ASPECTS = ("truthfulness", "helpfulness")


@dataclass(frozen=True)
class JudgeSettings:
    """What is asked about every prompt's answers, and how.

    Temperature and top_p are UltraFeedback's: arXiv 2310.01377
    """

    aspects: tuple[str, ...] = (*ASPECTS, OVERALL)
    num_tries: int = 3  # of a question whose reply cannot be read
    min_answers: int = 2  # prompts with fewer are not worth a question
    order: Literal["random", "given", "reversed"] = "random"  # in which the judge sees the answers
    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 0.6
    seed: int = 0
    chunk_rows: int = 256  # prompts whose questions go to the judge in one call

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        unknown = set(self.aspects) - {*ASPECTS, OVERALL}
        if unknown or not self.aspects:
            raise ValueError(f"aspects must be some of {(*ASPECTS, OVERALL)}, got {self.aspects}")
        if self.num_tries < 1:
            raise ValueError(f"num_tries must be at least 1, got {self.num_tries}")


class FailedTry(NamedTuple):
    """A try that gave no ratings: a reason to count by, what was wrong, how it was asked, what came back."""

    reason: str
    detail: str
    shown: tuple[int, ...]
    seed: int
    reply: str


@dataclass
class JudgeCall:
    """One question, how it was asked last, and how it went."""

    aspect: str
    shown: tuple[int, ...]  # indices of the answers, in the order in which the judge saw them
    seed: int = 0
    ratings: tuple[Rating, ...] = ()  # as `shown`; empty: the question failed
    failures: tuple[FailedTry, ...] = ()


class Judged(NamedTuple):
    """A prompt with its rated answers, and the calls that the ratings come from.

    An aspect whose call failed is missing from the ratings; a failed "overall" leaves score None.
    """

    rated: Rated
    calls: tuple[JudgeCall, ...]

    @property
    def counts(self) -> Counter[str]:
        """Counts that add up over prompts: questions = rated + failed; the reasons of all tries that failed."""
        counts = Counter({"prompts": 1, "questions": len(self.calls)})
        counts["prompts not asked about"] = not self.calls
        for call in self.calls:
            counts["rated" if call.ratings else "failed"] += 1
            counts["asked"] += len(call.failures) + bool(call.ratings)
            counts.update(f"failed tries: {failure.reason}" for failure in call.failures)
        return +counts


def judge(rows: Iterable[Rated], teacher: Teacher, settings: JudgeSettings) -> Iterator[Judged]:
    """Every row with the ratings that `teacher` gives its answers, in order.

    Ratings depend on the seed and the row alone. A question whose reply cannot be read is asked again with
    another order of texts and another fence word, at most `num_tries` times in all.
    """
    waiting = iter(rows)
    while chunk := list(itertools.islice(waiting, settings.chunk_rows)):
        calls = [_calls_about(row, settings) for row in chunk]
        pending = [(row, call) for row, asked in zip(chunk, calls, strict=True) for call in asked]
        for attempt in range(settings.num_tries):
            pending = _ask_round(pending, teacher, settings, attempt)
        yield from (Judged(_with_ratings(row, done), done) for row, done in zip(chunk, calls, strict=True))


def _calls_about(row: Rated, settings: JudgeSettings) -> tuple[JudgeCall, ...]:
    """The questions about a row: one an aspect, but one an answer for the overall score."""
    indices = tuple(range(len(row.answers)))
    if len(indices) < max(settings.min_answers, 1):
        return ()
    calls = [JudgeCall(aspect, indices) for aspect in settings.aspects if aspect != OVERALL]
    overall = [JudgeCall(OVERALL, (index,)) for index in indices if OVERALL in settings.aspects]
    return (*calls, *overall)


def _ask_round(
    pending: Sequence[tuple[Rated, JudgeCall]], teacher: Teacher, settings: JudgeSettings, attempt: int
) -> list[tuple[Rated, JudgeCall]]:
    """The calls that can be asked again, after all have been asked once; they are changed in place."""
    requests = [_request(row, call, settings, attempt) for row, call in pending]
    again: list[tuple[Rated, JudgeCall]] = []
    for (row, call), (_, reply) in zip(pending, paired(teacher, requests), strict=True):
        ratings = _read(call, reply)
        if isinstance(ratings, FailedTry):
            call.failures = (*call.failures, ratings)
            # Teachers have tried again themselves before they report an error.
            if reply.finish_reason != "error":
                again.append((row, call))
        else:
            call.ratings = ratings
    return again


def _request(row: Rated, call: JudgeCall, settings: JudgeSettings, attempt: int) -> ChatRequest:
    identity = prompt_id(row.prompt)
    call.seed = seed_for(settings.seed, "judge", identity, call.aspect, attempt)
    call.shown = _order(sorted(call.shown), settings, call.seed)
    answers = tuple(row.answers[index].text for index in call.shown)
    question = RatingQuestion(call.aspect, row.prompt, answers, _notes(row, call))
    return ChatRequest(
        key=f"{identity} {call.aspect} {' '.join(map(str, call.shown))}",
        messages=ask(question, nonce=fence_word(question, seed=call.seed)),
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=0,
        max_tokens=settings.max_tokens,
        seed=call.seed,
    )


def _order(indices: list[int], settings: JudgeSettings, seed: int) -> tuple[int, ...]:
    if settings.order == "random":
        return tuple(random.Random(seed).sample(indices, len(indices)))
    return tuple(indices if settings.order == "given" else indices[::-1])


def _notes(row: Rated, call: JudgeCall) -> str:
    """What the judge is told besides: what is known of right answers, or what the author was told to aim at."""
    if call.aspect in KNOWLEDGE_ASPECTS:
        return row.knowledge
    told = told_in_short(row.answers[call.shown[0]].system) if call.aspect == OVERALL else ""
    return f"The author of the text had been told: {told}" if told else ""


def _read(call: JudgeCall, reply: ChatReply) -> tuple[Rating, ...] | FailedTry:
    """The ratings, or why there are none."""
    if reply.finish_reason == "error":
        return FailedTry("teacher error", reply.error, call.shown, call.seed, reply.text)
    # What follows the cut could have taken back what stands before it.
    if reply.finish_reason == "length":
        return FailedTry("cut off", "the reply is cut off at its longest", call.shown, call.seed, reply.text)
    parsed = parse_reply(call.aspect, reply.text, len(call.shown))
    if isinstance(parsed, ParseFailure):
        return FailedTry(parsed.reason, parsed.detail, call.shown, call.seed, reply.text)
    return parsed


def _with_ratings(row: Rated, calls: Sequence[JudgeCall]) -> Rated:
    by_answer: list[dict[str, Rating]] = [{} for _ in row.answers]
    for call in (call for call in calls if call.ratings):
        for index, rating in zip(call.shown, call.ratings, strict=True):
            by_answer[index][call.aspect] = rating
    answers = tuple(_rated_answer(answer, found) for answer, found in zip(row.answers, by_answer, strict=True))
    return row._replace(answers=answers)


def _rated_answer(answer: Answer, ratings: dict[str, Rating]) -> Answer:
    overall = ratings.pop(OVERALL, None)
    aspects = "\n".join(f"{aspect}: {rating.rationale}" for aspect, rating in ratings.items())
    return answer._replace(
        score=overall.score if overall else None,
        ratings={aspect: rating.score for aspect, rating in ratings.items()},
        rationale=overall.rationale if overall else aspects,
    )
