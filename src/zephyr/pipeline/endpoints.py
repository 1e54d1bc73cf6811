"""The old names of `zephyr.teachers.opening`, for the stages that still use them."""

from zephyr.recipe.teacher_section import EndpointSection
from zephyr.teachers.ledger.prices import cap_of, prices_of
from zephyr.teachers.opening import check_teacher
from zephyr.teachers.opening import prompts_together as asked_together

__all__ = ["asked_together", "cap_of", "endpoint_teacher", "prices_of"]


def endpoint_teacher(section: EndpointSection, *, where: str, offline: bool) -> None:
    """Check that the server can be called."""
    check_teacher(section, where=where, offline=offline)
