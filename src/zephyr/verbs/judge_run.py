"""A run of `zephyr judge`: teachers over one ledger, answers sampled where there are none, all of them rated."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from zephyr.data.sources import Records
from zephyr.errors import DataError, TeacherError
from zephyr.feedback.candidates import CandidateSettings, answer_prompts
from zephyr.feedback.judge import Judged, JudgeSettings, judge
from zephyr.feedback.judged_files import calls_beside, without_ratings, write_judged
from zephyr.progress import show_progress
from zephyr.records.rows import Prompt, Rated
from zephyr.teachers.ledger import Ledger
from zephyr.teachers.ledgered import LedgeredTeacher
from zephyr.teachers.prices import Cap
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher
from zephyr.verbs.asked_teachers import TeacherOptions, open_teacher

Accounts = dict[str, object]


@dataclass(frozen=True)
class JudgeRun:
    """What is rated, by whom, and how; with `models`, `rows` are prompts that they answer first."""

    rows: Sequence[Rated] | Records[Rated] | Records[Prompt]
    limit: int | None
    judge: str
    models: tuple[str, ...]
    answering: CandidateSettings
    judging: JudgeSettings
    teachers: TeacherOptions
    ledger: Path
    cap_tokens: int | None

    @property
    def num_prompts(self) -> int:
        """How many prompts are to be rated."""
        return min(len(self.rows), self.limit or len(self.rows))


def run_judge(run: JudgeRun, out: Path, *, force: bool) -> Accounts:
    """The accounts of the finished run; the ratings are in `out`, and every call beside it."""
    counts: Counter[str] = Counter()
    with Ledger(run.ledger, Cap(max_tokens=run.cap_tokens)) as ledger:
        rater = open_teacher(run.judge, "rates", run.teachers, ledger)
        rows = _with_answers(run, ledger, counts)
        found = judge(rows, rater, run.judging)
        with show_progress("judge", run.num_prompts) as display:
            shown = _watched(found, display.update)
            counts += write_judged(shown, run.judge, out, calls_beside(out), replace=force)
    return {
        "prompts": counts["prompts"],
        "questions": counts["questions"],
        "rated": counts["rated"],
        "failed": counts["failed"],
        "asked": counts["asked"],
        "failed_tries": _named(counts, "failed tries: "),
        "answers": _named(counts, "answers: "),
        "prompts_without_ratings": counts["prompts not asked about"],
        "calls": str(calls_beside(out)),
        "ledger": str(run.ledger),
    }


def forecast(run: JudgeRun) -> Accounts:
    """How much would be asked of the judge, if every reply could be read at once; nothing is asked."""
    if run.models:
        raise DataError("--dry-run", "answers that are not written cannot be counted", "leave --models out")
    with Ledger(run.ledger, Cap(max_tokens=run.cap_tokens)) as ledger:
        teacher = open_teacher(run.judge, "rates", run.teachers, ledger)
        assert isinstance(teacher, LedgeredTeacher)
        counting = _Counting(teacher)
        for _ in judge(_with_answers(run, ledger, Counter()), counting, run.judging):
            pass
    return {"prompts": run.num_prompts, **counting.counts}


class _Counting:
    """A judge that answers nothing and counts what it would take to."""

    def __init__(self, teacher: LedgeredTeacher) -> None:
        self.name = teacher.name
        self.counts: Counter[str] = Counter(requests=0, answered_before=0, calls_to_come=0)
        self._teacher = teacher

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """Errors, so that nothing is asked again."""
        ahead = self._teacher.forecast(requests)
        self.counts["requests"] += ahead.requests
        self.counts["answered_before"] += ahead.answered
        self.counts["calls_to_come"] += ahead.calls
        self.counts["likely_prompt_tokens"] += ahead.likely_prompt_tokens
        self.counts["most_tokens"] += ahead.most.tokens
        yield from (ChatReply(request.key, "", "error", "dry run") for request in requests)


def _with_answers(run: JudgeRun, ledger: Ledger, counts: Counter[str]) -> Iterator[Rated]:
    if not run.models:
        rows: Iterable[Rated | Prompt] = run.rows
        yield from (without_ratings(row) for row in islice(rows, run.limit) if isinstance(row, Rated))
        return
    pool = _pool(run, ledger)
    prompts = (row for row in islice(run.rows, run.limit) if isinstance(row, Prompt))
    for found in answer_prompts(prompts, pool, run.answering):
        counts.update({f"answers: {name}": count for name, count in found.counts.items()})
        yield found.rated


def _pool(run: JudgeRun, ledger: Ledger) -> list[Teacher]:
    pool = [open_teacher(name, "writes", run.teachers, ledger) for name in run.models]
    names = Counter(teacher.name for teacher in pool)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise TeacherError("--models", f"two of them have one name, got '{twice[0]}' twice", "name each once")
    return pool


def _watched(found: Iterable[Judged], show: Callable[[int], None]) -> Iterator[Judged]:
    for number, one in enumerate(found, 1):
        yield one
        show(number)


def _named(counts: Counter[str], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}
