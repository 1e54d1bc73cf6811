"""Rows rated by teachers over one ledger; prompts are answered first. Runs in this process or in a worker."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zephyr.feedback.candidates import CHUNK_PROMPTS, answer_prompts
from zephyr.feedback.judge import CHUNK_ROWS, without_ratings, wordings_of, write_judged
from zephyr.feedback.raters import Rater, rater_of
from zephyr.recipe.feedback_section import CandidatesSection, JudgeSection, JudgingSection, pool_of, teachers_that_rate
from zephyr.recipe.teacher_section import TeacherSection
from zephyr.records.rows import Prompt, Rated
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap, cap_of
from zephyr.teachers.opening import OpenedTeacher, TeacherContext, TeacherRole, open_teacher
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher


@dataclass(frozen=True)
class RatingPlan:
    """Who rates, and how; with `candidates`, rows are prompts that these answer first.

    `max_tokens`: of all calls together, beside the caps of the teachers. `where`: before the teachers' keys in errors.
    """

    rater: JudgeSection
    judging: JudgingSection
    context: TeacherContext
    candidates: CandidatesSection | None = None
    min_answers: int = 2
    chunk_prompts: int = CHUNK_PROMPTS
    chunk_rows: int = CHUNK_ROWS
    max_tokens: int | None = None
    where: str = ""

    @property
    def pool(self) -> dict[str, TeacherSection]:
        """Who answers, by their keys."""
        return {} if self.candidates is None else pool_of(self.candidates)

    @property
    def cap(self) -> Cap:
        """The most that all calls may cost together."""
        return cap_of([*teachers_that_rate(self.rater).values(), *self.pool.values()], self.max_tokens)

    @property
    def result_settings(self) -> str:
        """All that ratings depend on beside the rows, as text."""
        sections = (self.rater, self.judging, *([] if self.candidates is None else [self.candidates]))
        context = (self.context.seed, self.context.template, sorted(map(str, self.context.models.values())))
        versions = {words.version for words in wordings_of(self.judging).values() if words is not None}
        settings = ([section.result_settings() for section in sections], context, self.min_answers)
        return repr((*settings, *versions))

    def open(self) -> "OpenedTeachers":
        """The teachers. Raises ZephyrError if one cannot be opened."""
        raters = [self._opened(key, one, "rates") for key, one in teachers_that_rate(self.rater).items()]
        return OpenedTeachers(raters, [self._opened(key, one, "writes") for key, one in self.pool.items()])

    def _opened(self, key: str, section: TeacherSection, role: TeacherRole) -> OpenedTeacher:
        return open_teacher(section, role, self.context, where=f"{self.where}{key}")


class OpenedTeachers(NamedTuple):
    """The open teachers of a plan: the one that the judge asks, if it asks one, and those that answer."""

    raters: list[OpenedTeacher]
    pool: list[OpenedTeacher]


class RatingCounts(NamedTuple):
    """What became of the requests for answers, and of the questions to the judge."""

    answers: Counter[str]
    judged: Counter[str]


def rate_rows(
    rows: Iterable[Prompt | Rated],
    teachers: OpenedTeachers,
    plan: RatingPlan,
    ledger: Ledger,
    files: tuple[Path, Path],
    *,
    replace: bool = False,
    on_row: Callable[[int], None] = lambda _done: None,
) -> RatingCounts:
    """Write the ratings and the judge's calls into two `files`; return the counts. The plan's teachers are open.

    `on_row` is called with the number of finished rows. Raises DataError for a file that exists, without `replace`.
    """
    answers: Counter[str] = Counter()
    raters, pool = ([one.with_ledger(ledger) for one in some] for some in teachers)
    rater = _rater(plan, raters)
    ratings, calls = files
    found = rater.rate(_unrated(rows, pool, plan, answers))
    return RatingCounts(answers, write_judged(found, rater.name, ratings, calls, replace=replace, on_row=on_row))


def count_requests(rows: Iterable[Rated], plan: RatingPlan, ledger: Ledger) -> Counter[str]:
    """What rating the rows would take if every reply could be parsed; no request is sent."""
    counts = Counter(requests=0, answered_before=0, calls_to_come=0)
    counting = [_CountingTeacher(one.with_ledger(ledger), counts) for one in plan.open().raters]
    for _ in _rater(plan, counting).rate(_unrated(rows, [], plan, Counter())):
        pass
    return counts


class _CountingTeacher:
    """Answers with errors, so that nothing is asked again, and counts what answering would take."""

    def __init__(self, teacher: LedgeredTeacher, counts: Counter[str]) -> None:
        self.name = teacher.name
        self.counts = counts
        self._teacher = teacher

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        estimate = self._teacher.estimate(requests)
        self.counts["requests"] += estimate.requests
        self.counts["answered_before"] += estimate.answered
        self.counts["calls_to_come"] += estimate.calls
        self.counts["likely_prompt_tokens"] += estimate.likely_prompt_tokens
        self.counts["most_tokens"] += estimate.most.tokens
        yield from (ChatReply(request.key, "", "error", "dry run") for request in requests)


def _rater(plan: RatingPlan, teachers: Sequence[Teacher]) -> Rater:
    return rater_of(
        plan.rater,
        teachers,
        plan.judging,
        plan.context,
        min_answers=plan.min_answers,
        chunk_rows=plan.chunk_rows,
    )


def _unrated(
    rows: Iterable[Prompt | Rated], pool: Sequence[Teacher], plan: RatingPlan, answers: Counter[str]
) -> Iterator[Rated]:
    """The rows with unrated answers: new ones by the pool, counted in `answers`, or without a pool those they have."""
    if not pool:
        yield from (without_ratings(row) for row in rows if isinstance(row, Rated))
        return
    assert plan.candidates is not None
    prompts = (
        Prompt(row.name, row.prompt, row.source, row.knowledge, row.checks) if isinstance(row, Rated) else row
        for row in rows
    )
    for one in answer_prompts(prompts, pool, plan.candidates, seed=plan.context.seed, chunk_prompts=plan.chunk_prompts):
        answers.update(one.counts)
        yield one.rated
