"""What the judged benchmarks share on a command line: models and judges over one ledger, progress, what is printed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import typer

from zephyr.errors import DataError
from zephyr.evaluate.judged_calls import Calling
from zephyr.evaluate.judged_score import JudgedScore
from zephyr.evaluate.results import Result
from zephyr.progress import show_progress
from zephyr.records.fields import Json
from zephyr.teachers.ledger import Ledger
from zephyr.teachers.ledgered import LedgeredTeacher
from zephyr.teachers.protocol import Teacher
from zephyr.verbs.asked_teachers import FILES, TeacherOptions, cap_for, open_plain
from zephyr.verbs.tables import print_rows
from zephyr.verbs.terminal import INTERRUPTED

# A local model answers so many at once; a killed run loses no more than these.
LOCAL_TOGETHER = 16
ANSWERS_FORM = "answers:"
_TEACHER_FORMS = ("local:", "vllm:", "endpoint:")


@dataclass(frozen=True)
class JudgedRun:
    """What all judged benchmarks are told."""

    judge: str
    out: Path
    teachers: TeacherOptions
    cap_tokens: int | None = None
    limit: int | None = None

    def open_ledger(self, *models: str) -> Ledger:
        """Where every call of the judge and these models is kept, in the run's folder, which is made."""
        self.out.mkdir(parents=True, exist_ok=True)
        asked = (teacher_form(model) for model in models if not model.startswith(ANSWERS_FORM))
        return Ledger(self.out / "calls.sqlite", cap_for((*asked, self.judge), self.cap_tokens))


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


def refuse_scripted(judge: str, option: str) -> None:
    """Nothing; a DataError if the judge is the scripted one, which reads no prompts but our own."""
    if judge == "scripted":
        raise DataError(option, "the scripted judge reads our own wording alone", "name another judge, or leave it out")


def open_ledgered(
    named: str, part: Literal["writes", "rates"], options: TeacherOptions, ledger: Ledger | None
) -> Opened:
    """The teacher of that name, with its answers kept."""
    teacher, identity = open_plain(named, part, options)
    kept = teacher if ledger is None else LedgeredTeacher(teacher, ledger, identity=identity)
    together = LOCAL_TOGETHER if named.startswith("local:") else Calling().together
    return Opened(kept, together, hashlib.sha256(identity.encode()).hexdigest()[:16])


@contextmanager
def watched(label: str, total: int, opened: Opened) -> Iterator[Calling]:
    """How requests go out to the teacher, shown on stderr."""
    with show_progress(label, total) as display:
        yield Calling(opened.together, display.update)


@contextmanager
def resumable() -> Iterator[None]:
    """Nothing; an interrupt ends the command with the word that it can be continued."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None


def file_hash(path: Path) -> str:
    """A short hash of a file, for protocols."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def table_of(lines: Sequence[tuple[str, JudgedScore]]) -> list[dict[str, object]]:
    """Scores by name as the rows of a table."""
    return [{"score of": name, **score.fields()} for name, score in lines]


def print_result(result: Result, out: Path, rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Nothing; prints the scores as a table with their doubt, or the result as JSON."""
    told: dict[str, Json] = {name: value for name, value in result._asdict().items() if name != "items"}
    if as_json:
        typer.echo(json.dumps({**told, "output": str(out)}))
        return
    typer.echo(f"{result.benchmark} of {result.model}, judged by {result.protocol['judge']}")
    print_rows(rows)
    consistency = result.scores.get("swap_consistency")
    if isinstance(consistency, float):
        typer.echo(f"the two orders agree in {consistency:.1f} % of the pairs")
    if any(row.get("label") == "incomplete" for row in rows):
        typer.echo("incomplete: more than 2 % of the judgments are missing; do not publish these as scores")
    typer.echo(f"-> {out}")
