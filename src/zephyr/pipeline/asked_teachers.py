"""The old names of `zephyr.teachers.opening`, for the commands that still use them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from zephyr.recipe.teacher_section import TeacherSection
from zephyr.teachers import opening
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap, cap_of
from zephyr.teachers.opening import TEACHER_FILES, TEACHER_FORMS, TeacherContext, TeacherRole, parse_teacher
from zephyr.teachers.protocol import Teacher

FORMS = TEACHER_FORMS
FILES = TEACHER_FILES
Named: TypeAlias = str | TeacherSection


@dataclass(frozen=True)
class TeacherOptions:
    """What is the same for all teachers of a command."""

    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 64
    offline: bool = False
    seed: int = 0


def open_teacher(named: Named, part: TeacherRole, options: TeacherOptions, ledger: Ledger | None = None) -> Teacher:
    """The teacher of that name, whose answers are kept in the ledger if there is one. Raises ZephyrError."""
    opened = _open(named, part, options)
    return opened.teacher if ledger is None else opened.with_ledger(ledger)


def open_plain(named: Named, part: TeacherRole, options: TeacherOptions) -> tuple[Teacher, str]:
    """The teacher of that name, and whose answers count as its own in a ledger. Raises ZephyrError."""
    opened = _open(named, part, options)
    return opened.teacher, opened.identity


def look_at(named: Named, options: TeacherOptions) -> None:
    """Check that the teacher can be opened, as far as that shows before a model is loaded. Raises ZephyrError."""
    where = named if isinstance(named, str) else named.name
    opening.check_teacher(_section(named, options), where=where, offline=options.offline)


def section_of(named: Named) -> TeacherSection:
    """The teacher as a recipe would name it. Raises ZephyrError for a form that there is not."""
    return parse_teacher(named) if isinstance(named, str) else named


def cap_for(named: Iterable[Named], max_tokens: int | None) -> Cap:
    """The most that a command's calls may cost: what it says itself, and the files that name its teachers."""
    return cap_of(map(section_of, named), max_tokens)


def asked_together(default: int, named: Iterable[Named]) -> int:
    """How many prompts are asked about together: more where one of these teachers takes files of calls."""
    return opening.prompts_together(default, map(section_of, named))


def _open(named: Named, part: TeacherRole, options: TeacherOptions) -> opening.OpenedTeacher:
    where = named if isinstance(named, str) else named.name
    context = TeacherContext(options.seed, options.offline)
    return opening.open_teacher(_section(named, options), part, context, where=where)


def _section(named: Named, options: TeacherOptions) -> TeacherSection:
    if not isinstance(named, str):
        return named
    return parse_teacher(named, api_key_env=options.api_key_env, concurrency=options.concurrency)
