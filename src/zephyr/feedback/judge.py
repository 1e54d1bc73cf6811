"""Answers rated by a judge: its rating requests, the order in which answers are shown, and failures.

Questions are written and replies parsed in `zephyr.judging`; this file shuffles the answers, asks again after replies
that cannot be parsed, and writes the ratings and every call they come from. A failure is never a score.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from zephyr.data.read.record_cache import RecordCache
from zephyr.errors import TeacherError
from zephyr.feedback.principles import without_example
from zephyr.judging import (
    JUDGE_TEMPLATE_VERSION,
    OVERALL,
    AspectWording,
    ParseFailure,
    Rating,
    RatingQuestion,
    ask,
    fence_word,
    parse_reply,
    required_word,
)
from zephyr.recipe.feedback_section import JudgingSection
from zephyr.records.fields import Json
from zephyr.records.rows import Answer, Rated, prompt_id
from zephyr.records.writing import write_jsonl
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for

RATINGS = "ratings.jsonl"
CALLS = "calls.jsonl"
CHUNK_ROWS = 256
# The rows that are judged before all others, to see whether the judge's replies can be read at all.
TRIED_ROWS = 4
# The sampling of UltraFeedback's judge, and the aspects whose notes are reference knowledge: arXiv 2310.01377
TEMPERATURE = 0.0
TOP_P = 0.6
KNOWLEDGE_ASPECTS = ("truthfulness", "helpfulness")

Order = Literal["random", "given", "reversed"]


class FailedTry(NamedTuple):
    """A try that gave no ratings: a reason to count by, the details, how it was asked, and the reply."""

    reason: str
    detail: str
    shown: tuple[int, ...]
    seed: int
    reply: str


@dataclass
class JudgeCall:
    """One question, its last request, and its outcome."""

    aspect: str
    shown: tuple[int, ...]  # indices of the answers, in the order in which the judge saw them
    seed: int = 0
    ratings: tuple[Rating, ...] = ()  # as `shown`; empty: the question failed
    failures: tuple[FailedTry, ...] = ()
    wording: AspectWording | None = None  # of an aspect of a user's own


class JudgedRow(NamedTuple):
    """A prompt with its rated answers, and the calls that the ratings come from.

    An aspect whose call failed is missing from the ratings; a failed "overall" leaves score None.
    """

    rated: Rated
    calls: tuple[JudgeCall, ...]

    @property
    def counts(self) -> Counter[str]:
        """Counts that add up over prompts: questions = rated + failed; and all failed tries by reason."""
        counts = Counter({"prompts": 1, "questions": len(self.calls)})
        counts["prompts not asked about"] = not self.calls
        for call in self.calls:
            counts["rated" if call.ratings else "failed"] += 1
            counts["asked"] += len(call.failures) + bool(call.ratings)
            counts.update(f"failed tries: {failure.reason}" for failure in call.failures)
        return +counts


def judge(
    rows: Iterable[Rated],
    teacher: Teacher,
    section: JudgingSection,
    *,
    seed: int = 0,
    min_answers: int = 2,
    order: Order = "random",
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[JudgedRow]:
    """Every row with the ratings that `teacher` gives its answers, in order.

    Ratings depend on the seed and the row alone. Rows with fewer than `min_answers` answers are not rated. Answers are
    shown in the given `order`. A question whose reply cannot be parsed is asked again with a new seed, hence another
    random order and another fence word, at most `num_tries` times in all. The judge is sent the questions about
    `chunk_rows` rows at once. Raises RecipeError for a rubric that cannot be used.
    """
    waiting, wordings = iter(rows), wordings_of(section)
    while chunk := list(itertools.islice(waiting, chunk_rows)):
        calls = [_calls_about(row, wordings, min_answers, order) for row in chunk]
        pending = [(row, call) for row, some in zip(chunk, calls, strict=True) for call in some]
        for attempt in range(section.num_tries):
            for row, call in pending:
                call.seed = seed_for(seed, "judge", prompt_id(row.prompt), call.aspect, attempt)
                call.shown = _ordered(sorted(call.shown), order, call.seed)
            pending = _ask(pending, teacher, section.max_new_tokens)
        yield from (JudgedRow(_with_ratings(row, done), done) for row, done in zip(chunk, calls, strict=True))


def judge_tried(
    rows: Iterable[Rated],
    teacher: Teacher,
    section: JudgingSection,
    *,
    seed: int = 0,
    min_answers: int = 2,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[JudgedRow]:
    """As `judge`, a few rows before all others. Raises TeacherError where no reply about these can be read.

    Not with more rows at once than usual: batch files take too long to try a few first.
    """
    waiting = iter(rows)
    first = list(itertools.islice(waiting, TRIED_ROWS if chunk_rows <= CHUNK_ROWS else 0))
    tried = list(judge(first, teacher, section, seed=seed, min_answers=min_answers, chunk_rows=chunk_rows))
    if len(first) == TRIED_ROWS:
        _check_readable(teacher.name, [call for one in tried for call in one.calls])
    yield from tried
    yield from judge(waiting, teacher, section, seed=seed, min_answers=min_answers, chunk_rows=chunk_rows)


def _check_readable(name: str, calls: Sequence[JudgeCall]) -> None:
    """Check that not all replies of the judge were unreadable. Raises TeacherError; calls that failed say nothing."""
    unread = [call.failures[-1] for call in calls if call.failures and call.failures[-1].reason != "teacher error"]
    if calls and len(unread) == len(calls):
        what = f"gave no rating in its first {len(calls)} questions, the last time as {unread[-1].detail}"
        remedy = "name a judge that keeps to the form, or raise its maximum reply tokens; its replies are in the ledger"
        raise TeacherError(name, what, remedy)


def wordings_of(section: JudgingSection) -> dict[str, AspectWording | None]:
    """The aspects that are asked about, with a user's own words where the section names a rubric.

    Raises RecipeError for a rubric that cannot be used.
    """
    if section.rubric is None:
        return dict.fromkeys(section.aspects)
    from zephyr.judging.rubric import read_rubric  # most judges have none

    return dict(read_rubric(section.rubric).wordings)


def _calls_about(
    row: Rated, wordings: Mapping[str, AspectWording | None], min_answers: int, order: Order
) -> tuple[JudgeCall, ...]:
    """The questions about a row: one per aspect, but one per answer for the overall score, which no order changes."""
    indices = tuple(range(len(row.answers)))
    if len(indices) < max(min_answers, 1):
        return ()
    calls = [JudgeCall(one, indices, wording=words) for one, words in wordings.items() if one != OVERALL]
    is_asked = OVERALL in wordings and order != "reversed"
    overall = [JudgeCall(OVERALL, (index,), wording=wordings[OVERALL]) for index in indices if is_asked]
    return (*calls, *overall)


def _ordered(indices: list[int], order: Order, seed: int) -> tuple[int, ...]:
    if order == "random":
        return tuple(random.Random(seed).sample(indices, len(indices)))
    return tuple(indices if order == "given" else indices[::-1])


def _ask(
    pending: Sequence[tuple[Rated, JudgeCall]], teacher: Teacher, max_new_tokens: int
) -> list[tuple[Rated, JudgeCall]]:
    """The calls to repeat, after all have been sent once; the calls are changed in place."""
    requests = [_request(row, call, max_new_tokens) for row, call in pending]
    again: list[tuple[Rated, JudgeCall]] = []
    for (row, call), (request, reply) in zip(pending, paired(teacher, requests), strict=True):
        ratings = _read(call, reply, required_word(request.messages))
        if isinstance(ratings, FailedTry):
            call.failures = (*call.failures, ratings)
            # Teachers have tried again themselves before they report an error.
            if reply.finish_reason != "error":
                again.append((row, call))
        else:
            call.ratings = ratings
    return again


def _request(row: Rated, call: JudgeCall, max_new_tokens: int) -> ChatRequest:
    answers = tuple(row.answers[index].text for index in call.shown)
    question = RatingQuestion(call.aspect, row.prompt, answers, _notes(row, call))
    return ChatRequest(
        key=f"{prompt_id(row.prompt)} {call.aspect} {' '.join(map(str, call.shown))}",
        messages=ask(question, nonce=fence_word(question, seed=call.seed), wording=call.wording),
        temperature=TEMPERATURE,
        top_p=TOP_P,
        top_k=0,
        max_tokens=max_new_tokens,
        seed=call.seed,
    )


def _notes(row: Rated, call: JudgeCall) -> str:
    """Additional information for the judge: reference knowledge, or the principle the author was given."""
    if call.aspect in KNOWLEDGE_ASPECTS or (call.wording is not None and call.aspect != OVERALL):
        return row.knowledge
    principle = without_example(row.answers[call.shown[0]].system) if call.aspect == OVERALL else ""
    return f"The author of the text had been told: {principle}" if principle else ""


def _read(call: JudgeCall, reply: ChatReply, word: str) -> tuple[Rating, ...] | FailedTry:
    """The ratings, or why there are none."""
    if reply.finish_reason == "error":
        return FailedTry("teacher error", reply.error, call.shown, call.seed, reply.text)
    # What follows the cut could have taken back what stands before it.
    if reply.finish_reason == "length":
        return FailedTry("cut off", "the reply is cut off at its longest", call.shown, call.seed, reply.text)
    scale = None if call.wording is None else call.wording.scale
    parsed = parse_reply(call.aspect, reply.text, len(call.shown), word=word, scale=scale)
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


def calls_beside(ratings: Path) -> Path:
    """The file of the judge's calls beside a ratings file: ratings.calls.jsonl beside ratings.jsonl."""
    return ratings.with_name(f"{ratings.stem}.{CALLS}")


def write_judged(
    found: Iterable[JudgedRow],
    judge_name: str,
    ratings: Path,
    calls: Path,
    *,
    replace: bool = False,
    on_row: Callable[[int], None] = lambda _done: None,
) -> Counter[str]:
    """Write the rated rows and every call they come from; return the counts. The ratings are written last.

    Prompts without an answer are counted but not written. `on_row` is called with the number of finished rows. Raises
    DataError for a file that exists, without `replace`.
    """
    counts: Counter[str] = Counter()
    rated: RecordCache[Rated] = RecordCache("rated")

    def lines() -> Iterator[Mapping[str, Json]]:
        for number, one in enumerate(found, 1):
            counts.update(one.counts)
            if one.rated.answers:
                rated.append(one.rated)
            else:
                counts["prompts without an answer"] += 1
            yield from (_call_fields(one.rated, call, judge_name) for call in one.calls)
            on_row(number)

    write_jsonl(calls, lines(), replace=replace)
    write_jsonl(ratings, rated, replace=replace)
    return counts


def _call_fields(rated: Rated, call: JudgeCall, judge_name: str) -> dict[str, Json]:
    """A call as plain fields: judge and question, the order shown, the ratings, and the failed tries."""
    ratings: list[Json] = [dict(rating._asdict()) | {"types": list(rating.types)} for rating in call.ratings]
    failures: list[Json] = [failure._asdict() | {"shown": list(failure.shown)} for failure in call.failures]
    return {
        "prompt_id": prompt_id(rated.prompt),
        "row": rated.name,
        "judge": judge_name,
        "template": JUDGE_TEMPLATE_VERSION if call.wording is None else call.wording.version,
        "aspect": call.aspect,
        "shown": list(call.shown),
        "models": [rated.answers[index].model for index in call.shown],
        "seed": call.seed,
        "ratings": ratings,
        "failed_tries": failures,
    }


def without_ratings(rated: Rated) -> Rated:
    """The row with its answers' ratings removed."""
    answers = tuple(answer._replace(score=None, ratings={}, rationale="") for answer in rated.answers)
    return rated._replace(answers=answers)
