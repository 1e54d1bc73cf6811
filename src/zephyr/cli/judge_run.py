"""A run of `zephyr judge`: teachers over one ledger, answers sampled where there are none, all of them rated."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from zephyr.data.read.sources import Records
from zephyr.errors import DataError, TeacherError
from zephyr.feedback.candidates import CandidateSettings, answer_prompts
from zephyr.feedback.judge import Judged, JudgeSettings, judge
from zephyr.feedback.judged_files import calls_beside, without_ratings, write_judged
from zephyr.feedback.ray_stage import LEDGER, Opened, Opener, Plan, RaySettings, rate_over_ray
from zephyr.pipeline.asked_teachers import TeacherOptions, asked_together, cap_for, open_plain
from zephyr.progress import show_progress
from zephyr.records.rows import Prompt, Rated
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher

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
    sharing: RaySettings | None = None  # over a Ray cluster

    @property
    def num_prompts(self) -> int:
        """How many prompts are to be rated."""
        return min(len(self.rows), self.limit or len(self.rows))

    @property
    def cap(self) -> Cap:
        """The most that the calls may cost."""
        return cap_for([self.judge, *self.models], self.cap_tokens)

    def together(self) -> "JudgeRun":
        """The run with as many prompts asked about together as its teachers want."""
        num_prompts = asked_together(self.answering.chunk_prompts, [self.judge, *self.models])
        return replace(
            self,
            answering=replace(self.answering, chunk_prompts=num_prompts),
            judging=replace(self.judging, chunk_rows=num_prompts),
        )


def run_judge(run: JudgeRun, out: Path, *, force: bool) -> Accounts:
    """The accounts of the finished run; the ratings are in `out`, and every call beside it."""
    if run.sharing is not None:
        return _run_over_ray(run, run.sharing, out)
    answers, run = Counter[str](), run.together()
    # The teachers first: where one cannot be opened, no ledger is left behind.
    rater, pool = open_plain(run.judge, "rates", run.teachers), _pool(run)
    with Ledger(run.ledger, run.cap) as ledger:
        rows = _with_answers(run, [_kept(one, ledger) for one in pool], answers)
        found = judge(rows, _kept(rater, ledger), run.judging)
        with show_progress("judge", run.num_prompts) as display:
            counts = write_judged(
                _watched(found, display.update), rater[0].name, out, calls_beside(out), replace=force
            )  # fmt: skip
    return _accounts(counts, answers, calls_beside(out), run.ledger)


def _run_over_ray(run: JudgeRun, sharing: RaySettings, out: Path) -> Accounts:
    """As above; partitions, their ledgers and the merged one are in a folder beside `out`."""
    rater = Opener(run.judge, partial(_open_in_worker, run.judge, "rates", run.teachers))
    pool = [Opener(name, partial(_open_in_worker, name, "writes", run.teachers)) for name in run.models]
    plan = Plan(rater, run.answering, run.judging, tuple(pool), run.cap)
    rows: Iterable[Rated | Prompt] = run.rows
    folder = parts_beside(out)
    folder.mkdir(exist_ok=True)
    with show_progress("partitions", sharing.num_partitions) as display:
        made = rate_over_ray(
            islice(rows, run.limit), plan, folder, sharing, on_part=lambda done, _of: display.update(done)
        )  # fmt: skip
    made.calls.replace(calls_beside(out))
    made.ratings.replace(out)
    return _accounts(made.judged, made.answers, calls_beside(out), made.ledger)


def _accounts(counts: Counter[str], answers: Counter[str], calls: Path, ledger: Path) -> Accounts:
    return {
        "prompts": counts["prompts"],
        "questions": counts["questions"],
        "rated": counts["rated"],
        "failed": counts["failed"],
        "asked": counts["asked"],
        "failed_tries": _named(counts, "failed tries: "),
        "answers": dict(answers),
        "prompts_without_ratings": counts["prompts not asked about"],
        "calls": str(calls),
        "ledger": str(ledger),
    }


def _open_in_worker(named: str, part: Literal["writes", "rates"], options: TeacherOptions) -> Opened:
    return Opened(*open_plain(named, part, options))


def _kept(opened: tuple[Teacher, str], ledger: Ledger) -> LedgeredTeacher:
    teacher, identity = opened
    return LedgeredTeacher(teacher, ledger, identity=identity)


def parts_beside(out: Path) -> Path:
    """Where the partitions of a run over Ray are kept: for ratings.jsonl in ratings.parts."""
    return out.with_suffix(".parts")


def ledger_beside(out: Path, named: Path | None, sharing: RaySettings | None) -> Path:
    """Where the calls of a run are kept: in the ledger that is named, or beside `out`. Raises DataError."""
    if sharing is None:
        return named or out.with_suffix(".ledger.sqlite")
    if named is not None:
        raise DataError("--ledger", "the partitions of --ray-workers have ledgers of their own", "leave it out")
    return parts_beside(out) / LEDGER


def forecast(run: JudgeRun) -> Accounts:
    """How much would be asked of the judge, if every reply could be read at once; nothing is asked."""
    if run.models:
        raise DataError("--dry-run", "answers that are not written cannot be counted", "leave --models out")
    opened = open_plain(run.judge, "rates", run.teachers)
    with TemporaryDirectory(prefix="zephyr-") as empty:
        # A ledger that is not there is not made: nothing is asked.
        path = run.ledger if run.ledger.exists() else Path(empty) / "calls.sqlite"
        with Ledger(path) as ledger:
            counting = _Counting(_kept(opened, ledger))
            for _ in judge(_with_answers(run, [], Counter()), counting, run.judging):
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
        ahead = self._teacher.estimate(requests)
        self.counts["requests"] += ahead.requests
        self.counts["answered_before"] += ahead.answered
        self.counts["calls_to_come"] += ahead.calls
        self.counts["likely_prompt_tokens"] += ahead.likely_prompt_tokens
        self.counts["most_tokens"] += ahead.most.tokens
        yield from (ChatReply(request.key, "", "error", "dry run") for request in requests)


def _with_answers(run: JudgeRun, pool: Sequence[Teacher], answers: Counter[str]) -> Iterator[Rated]:
    if not pool:
        rows: Iterable[Rated | Prompt] = run.rows
        yield from (without_ratings(row) for row in islice(rows, run.limit) if isinstance(row, Rated))
        return
    prompts = (row for row in islice(run.rows, run.limit) if isinstance(row, Prompt))
    for found in answer_prompts(prompts, pool, run.answering):
        answers.update(found.counts)
        yield found.rated


def _pool(run: JudgeRun) -> list[tuple[Teacher, str]]:
    pool = [open_plain(name, "writes", run.teachers) for name in run.models]
    names = Counter(teacher.name for teacher, _ in pool)
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
