"""Requests of a benchmark to a model or a judge, a few at a time, so that a killed run loses few answers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired


class Calling(NamedTuple):
    """How requests go out: so many at once, and who is told how many are answered."""

    together: int = 4096
    show: Callable[[int], None] = lambda _: None


def replies_to(teacher: Teacher, requests: Sequence[ChatRequest], calling: Calling) -> dict[str, ChatReply]:
    """The reply to every request, by its key; failures are replies too."""
    replies: dict[str, ChatReply] = {}
    for start in range(0, len(requests), calling.together):
        for request, reply in paired(teacher, requests[start : start + calling.together]):
            replies[request.key] = reply
            calling.show(len(replies))
    return replies
