"""The old names of `zephyr.teachers.opening`, for the stages that still use them."""

from collections.abc import Iterable

from zephyr.recipe.teacher_section import LocalSection, TeacherSection
from zephyr.stages.stage import Work
from zephyr.teachers import opening
from zephyr.teachers.opening import OpenedTeacher
from zephyr.teachers.protocol import BookkeepingTeacher, Teacher


class StageLedgers(opening.StageLedgers):
    """Opens a ledger where a teacher needs one; to be used in a `with`."""

    def __init__(self, work: Work, sections: Iterable[TeacherSection]) -> None:
        super().__init__(work.folder, work.run_folder, sections)

    def before(self, teacher: Teacher, section: TeacherSection | None) -> Teacher:
        """The teacher with its ledger before it; itself if it is a rule. A local model may have no section."""
        identity = teacher.identity if isinstance(teacher, BookkeepingTeacher) else teacher.name
        return self.keep(OpenedTeacher(teacher, identity, section or LocalSection(model=teacher.name)))
