"""The ledgers of a stage: what its teachers have answered is not asked again by the next try, and caps hold."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from zephyr.pipeline.endpoints import cap_of, prices_of
from zephyr.recipe.teacher_section import EndpointSection, ScriptedSection, TeacherSection
from zephyr.runs.layout import LEDGER
from zephyr.stages.stage import Work
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.protocol import Teacher


class StageLedgers:
    """Opens a ledger where a teacher needs one; to be used in a `with`.

    A paid answer serves every stage of the run, so endpoints share the run's ledger, and its calls count for their
    caps. A local model may be another one under the same name tomorrow: its ledger lies in the stage's own folder.
    """

    def __init__(self, work: Work, sections: Iterable[TeacherSection]) -> None:
        self._work = work
        self._cap = cap_of(sections)
        self._open: dict[Path, Ledger] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def before(self, teacher: Teacher, section: TeacherSection | None) -> Teacher:
        """The teacher with its ledger before it; itself if it is a rule. A local model may have no section."""
        if isinstance(section, ScriptedSection):
            return teacher
        is_paid = isinstance(section, EndpointSection)
        path = (self._work.run_folder if is_paid else self._work.folder) / LEDGER
        if path not in self._open:
            self._open[path] = self._stack.enter_context(Ledger(path, self._cap if is_paid else Cap()))
        return LedgeredTeacher(teacher, self._open[path], prices=prices_of(section) if section is not None else None)
