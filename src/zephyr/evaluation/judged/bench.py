"""What runs of all judged benchmarks share: who answers, who judges, ledgers, batches of requests, missing judgments.

Requests are sent in batches, so that a killed run loses few answers.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import DataError
from zephyr.progress import show_progress
from zephyr.recipe.teacher_section import LocalSection, ScriptedSection, TeacherSection
from zephyr.records.fields import brief
from zephyr.runs.layout import LEDGER
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import cap_of
from zephyr.teachers.opening import TeacherContext, TeacherRole, names_teacher, open_teacher, parse_teacher
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired

ANSWERS_FORM = "answers:"
# A local model answers so many requests at once; a killed run loses no more than these.
LOCAL_BATCH = 16

# Causes by which missing judgments are counted; in a reason, what else is known follows behind a colon.
NO_ANSWER = "no answer in the file"
TOO_LONG = "prompt too long"
MODEL_FAILED = "error of the model"
JUDGE_FAILED = "failed judge call"
# What our own models and common servers say of a prompt that has no room.
_TOO_LONG = re.compile(r"new ones exceed|context.?length|maximum context|prompt.{0,20} too long", re.IGNORECASE)


class Contestant(NamedTuple):
    """Who is measured: the name it has in results, and a teacher that answers or a file that holds the answers."""

    name: str
    source: TeacherSection | Path


class CallBatches(NamedTuple):
    """How many requests are sent together, and a callback with the number of answers so far."""

    size: int = 4096
    show: Callable[[int], None] = lambda _: None


class Respondent(NamedTuple):
    """An open teacher whose answers are kept, a hash of what they depend on, and its requests a batch."""

    teacher: Teacher
    identity: str
    batch_size: int

    @contextmanager
    def batches(self, label: str, total: int) -> Iterator[CallBatches]:
        """Batches of requests, with a progress bar for `total` of them."""
        with show_progress(label, total) as display:
            yield CallBatches(self.batch_size, display.update)


class Ledgers(NamedTuple):
    """Where answers are kept, and where the judge's replies are: in one file, as a rule."""

    answers: Ledger
    judge: Ledger


@dataclass(frozen=True, kw_only=True)
class JudgedBench:
    """A run of a judged benchmark.

    `data`: the folder of the benchmark's files; `limit`: only the first so many questions; `ledger`: the file of all
    calls, if not one of `out` alone; `judge_ledger`: one of the judge's calls, which others share. `cap_tokens`: the
    most tokens of all calls in a ledger. `seed`: of sampling, and of the scripted teacher. `cache_tokens`: tokens of
    key-value cache while a model on this machine answers, None: by the device; `dtype`: of such a model, likewise.
    """

    contestants: tuple[Contestant, ...]
    judge: TeacherSection
    out: Path
    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    offline: bool = False
    cache_tokens: int | None = None
    dtype: str | None = None
    cap_tokens: int | None = None
    ledger: Path | None = None
    judge_ledger: Path | None = None

    @contextmanager
    def ledgers(self) -> Iterator[Ledgers]:
        """The ledgers of contestants and judge; the folder of the run is made."""
        self.out.mkdir(parents=True, exist_ok=True)
        answering = [one.source for one in self.contestants if not isinstance(one.source, Path)]
        sharing = [] if self.judge_ledger else [self.judge]
        with ExitStack() as stack:
            cap = cap_of([*answering, *sharing], self.cap_tokens)
            own = stack.enter_context(Ledger(self.ledger or self.out / LEDGER, cap))
            if self.judge_ledger is None:
                yield Ledgers(own, own)
                return
            yield Ledgers(own, stack.enter_context(Ledger(self.judge_ledger, cap_of([self.judge], self.cap_tokens))))

    def open_judge(self, ledger: Ledger) -> Respondent:
        """The judge. Raises what `open_teacher` does."""
        return self.open(self.judge, "rates", ledger, where="judge")

    def open(self, section: TeacherSection, role: TeacherRole, ledger: Ledger, *, where: str) -> Respondent:
        """The teacher with its answers kept in the ledger. Raises what `open_teacher` does."""
        context = TeacherContext(self.seed, self.offline, cache_tokens=self.cache_tokens, dtype=self.dtype)
        opened = open_teacher(section, role, context, where=where)
        size = LOCAL_BATCH if isinstance(section, LocalSection) else CallBatches().size
        return Respondent(opened.with_ledger(ledger), hashlib.sha256(opened.identity.encode()).hexdigest()[:16], size)


def parse_contestant(text: str, *, api_key_env: str = "OPENAI_API_KEY", concurrency: int = 64) -> Contestant:
    """A contestant as a command line names it: a teacher, a model folder or hub id, or answers:FILE.

    Raises DataError for a file of answers that is not there, and what `parse_teacher` does.
    """
    if text.startswith(ANSWERS_FORM):
        path = Path(text.removeprefix(ANSWERS_FORM))
        if not path.is_file():
            raise DataError(text, "there is no such file", f"name one as {ANSWERS_FORM}FILE")
        return Contestant(text, path)
    named = text if names_teacher(text) else f"local:{text}"
    return Contestant(text, parse_teacher(named, api_key_env=api_key_env, concurrency=concurrency))


def parse_bench(
    models: Sequence[str], judge: str, out: Path, *, api_key_env: str = "OPENAI_API_KEY", concurrency: int = 64
) -> JudgedBench:
    """A run of contestants and a judge as a command line names them. Raises what `parse_contestant` does."""
    parsed = [parse_contestant(model, api_key_env=api_key_env, concurrency=concurrency) for model in models]
    rater = parse_teacher(judge, api_key_env=api_key_env, concurrency=concurrency)
    return JudgedBench(contestants=tuple(parsed), judge=rater, out=out)


def refuse_scripted(judge: TeacherSection, option: str) -> None:
    """Check that the judge is not the scripted one, which reads no prompts but our own. Raises DataError."""
    if isinstance(judge, ScriptedSection):
        raise DataError(
            option,
            "the scripted judge supports only Zephyr's own prompts",
            "name another judge, or leave the option out",
        )


def replies_to(teacher: Teacher, requests: Sequence[ChatRequest], batches: CallBatches) -> dict[str, ChatReply]:
    """The reply to every request, by its key; failures are replies too."""
    replies: dict[str, ChatReply] = {}
    for start in range(0, len(requests), batches.size):
        for request, reply in paired(teacher, requests[start : start + batches.size]):
            replies[request.key] = reply
            batches.show(len(replies))
    return replies


def why_no_answer(reply: ChatReply) -> str:
    """The reason why a model's failed reply is no answer; empty for one that has not failed."""
    if reply.finish_reason != "error":
        return ""
    return _reason(TOO_LONG if _TOO_LONG.search(reply.error) else MODEL_FAILED, reply.error)


def check_answers_match(path: Path, given: Sequence[object], known: Container[object], what: str) -> tuple[str, ...]:
    """A note on the answers of a file that are about something the benchmark does not ask; none where all match.

    Raises DataError where none does: then nothing could be scored.
    """
    others = [one for one in given if one not in known]
    if not others:
        return ()
    said = f"{len(others):,} of {len(given):,} rows of the file are about other {what} (first: {brief(str(others[0]))})"
    if len(others) == len(given):
        remedy = f"give answers to the benchmark's own {what}, each to the letter"
        raise DataError(path.name, said, remedy)
    return (f"{path.name}: {said}",)


def thinking_note(whose: str, thoughts: Sequence[str]) -> tuple[str, ...]:
    """A note on how many of the replies began with thinking, by what was thought before each; none where none did."""
    count = sum(map(bool, thoughts))
    return (f"{count:,} of {len(thoughts):,} replies of the {whose} began with thinking, which is not scored",) * (
        count > 0
    )


def is_whole_reply(reply: ChatReply, max_tokens: int) -> bool:
    """Whether a judge's reply was not cut off: what stands at the end of one that was may be half a number.

    A reply that is to be one token long always is.
    """
    return reply.finish_reason == "stop" or (reply.finish_reason == "length" and max_tokens == 1)


def why_no_verdict(reply: ChatReply, unread: str) -> str:
    """The reason why a judge's reply gives no verdict; `unread`: that of a reply that came and cannot be parsed."""
    if reply.finish_reason == "length":
        return "the judge's reply was cut off"
    return _reason(JUDGE_FAILED, reply.error) if reply.finish_reason == "error" else unread


def count_causes(reasons: Iterable[str]) -> dict[str, int]:
    """How often each cause stands in the reasons, the most frequent first; an empty reason is none."""
    return dict(Counter(reason.partition(":")[0] for reason in reasons if reason).most_common())


def file_hash(path: Path) -> str:
    """A short hash of a file, for protocols."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _reason(cause: str, error: str) -> str:
    return f"{cause}: {error}" if error else cause
