"""What the judged benchmarks share: models and judges over ledgers, progress, every game with its verdicts."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from zephyr.errors import DataError
from zephyr.evaluate.judged.arena import Played
from zephyr.evaluate.judged.calls import Calling
from zephyr.pipeline.asked_teachers import FILES, Named, TeacherOptions, cap_for, open_plain
from zephyr.progress import show_progress
from zephyr.recipe.teacher_section import LocalSection, ScriptedSection
from zephyr.records.fields import Json
from zephyr.records.writing import write_jsonl
from zephyr.runs.layout import LEDGER
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import Teacher

# A local model answers so many at once; a killed run loses no more than these.
LOCAL_TOGETHER = 16
ANSWERS_FORM = "answers:"
_TEACHER_FORMS = ("local:", "vllm:", "endpoint:")


class Ledgers(NamedTuple):
    """Where answers are kept, and where the judge's replies are: in one file, as a rule."""

    answers: Ledger
    judge: Ledger


@dataclass(frozen=True)
class JudgedRun:
    """What all judged benchmarks are told.

    `ledger`: the file of all calls, if that is not one of `out` alone; `judge_ledger`: one of the judge's calls, which
    others share. A cap holds for all calls of a file.
    """

    judge: Named
    out: Path
    teachers: TeacherOptions
    cap_tokens: int | None = None
    limit: int | None = None
    ledger: Path | None = None
    judge_ledger: Path | None = None

    @contextmanager
    def ledgers(self, *models: str) -> Iterator[Ledgers]:
        """Where every call of the judge and these models is kept, in the run's folder, which is made."""
        self.out.mkdir(parents=True, exist_ok=True)
        asked = [teacher_form(model) for model in models if not model.startswith(ANSWERS_FORM)]
        shared = [] if self.judge_ledger else [self.judge]
        with ExitStack() as stack:
            own = stack.enter_context(
                Ledger(self.ledger or self.out / LEDGER, cap_for((*asked, *shared), self.cap_tokens))
            )
            if self.judge_ledger is None:
                yield Ledgers(own, own)
                return
            yield Ledgers(own, stack.enter_context(Ledger(self.judge_ledger, cap_for([self.judge], self.cap_tokens))))


class Opened(NamedTuple):
    """A teacher, and how many requests it is given at once."""

    teacher: Teacher
    together: int
    identity: str  # a hash of what its answers depend on


def answers_file(named: str) -> Path | None:
    """The file of answers that stands for a model, if one does."""
    if not named.startswith(ANSWERS_FORM):
        return None
    path = Path(named.removeprefix(ANSWERS_FORM))
    if not path.is_file():
        raise DataError(named, "there is no such file of answers", f"name one as {ANSWERS_FORM}FILE")
    return path


def teacher_form(model: str) -> str:
    """A model as a teacher is named: a folder or a hub id alone is a local one."""
    return (
        model if model == "scripted" or model.startswith(_TEACHER_FORMS) or model.endswith(FILES) else f"local:{model}"
    )


def refuse_scripted(judge: Named, option: str) -> None:
    """Nothing; a DataError if the judge is the scripted one, which reads no prompts but our own."""
    if judge == "scripted" or isinstance(judge, ScriptedSection):
        raise DataError(option, "the scripted judge reads our own wording alone", "name another judge, or leave it out")


def open_ledgered(
    named: Named, part: Literal["writes", "rates"], options: TeacherOptions, ledger: Ledger | None
) -> Opened:
    """The teacher of that name, with its answers kept."""
    teacher, identity = open_plain(named, part, options)
    kept = teacher if ledger is None else LedgeredTeacher(teacher, ledger, identity=identity)
    is_local = named.startswith("local:") if isinstance(named, str) else isinstance(named, LocalSection)
    together = LOCAL_TOGETHER if is_local else Calling().together
    return Opened(kept, together, hashlib.sha256(identity.encode()).hexdigest()[:16])


@contextmanager
def watched(label: str, total: int, opened: Opened) -> Iterator[Calling]:
    """How requests go out to the teacher, shown on stderr."""
    with show_progress(label, total) as display:
        yield Calling(opened.together, display.update)


def file_hash(path: Path) -> str:
    """A short hash of a file, for protocols."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def write_verdicts(out: Path, played: Sequence[Played]) -> None:
    """Nothing; every answer and verdict is in the folder."""
    rows: list[dict[str, Json]] = [
        {
            "key": one.match.key,
            "category": one.match.category,
            "turns": list(one.match.turns),
            "first": list(one.match.first),
            "second": list(one.match.second),
            "given": None if one.given is None else dict(one.given._asdict()),
            "swapped": None if one.swapped is None else dict(one.swapped._asdict()),
            "share": one.share,
        }
        for one in played
    ]
    write_jsonl(out / "judgments.jsonl", rows, replace=True)
