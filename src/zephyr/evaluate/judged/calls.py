"""Requests of a benchmark to a model or a judge, a few at a time, and why what is missing is missing.

Asked are a few at a time, so that a killed run loses few answers.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired

# Causes by which what is missing is counted; in a reason, what else is known follows behind a colon.
NO_ANSWER = "no answer in the file"
TOO_LONG = "prompt too long"
MODEL_FAILED = "error of the model"
JUDGE_FAILED = "failed judge call"
# What our own models and common servers say of a prompt that has no room.
_TOO_LONG = re.compile(r"new ones exceed|context.?length|maximum context|prompt.{0,20} too long", re.IGNORECASE)


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


def why_no_answer(reply: ChatReply) -> str:
    """The reason why a model's failed reply is no answer; empty for one that has not failed."""
    if reply.finish_reason != "error":
        return ""
    return _reason(TOO_LONG if _TOO_LONG.search(reply.error) else MODEL_FAILED, reply.error)


def why_no_verdict(reply: ChatReply, unread: str) -> str:
    """The reason why a judge's reply gives no verdict; `unread`: what is said of one that came and has none."""
    return _reason(JUDGE_FAILED, reply.error) if reply.finish_reason == "error" else unread


def count_causes(reasons: Iterable[str]) -> dict[str, int]:
    """How often each cause stands in the reasons, the most frequent first; an empty reason is none."""
    return dict(Counter(reason.partition(":")[0] for reason in reasons if reason).most_common())


def _reason(cause: str, error: str) -> str:
    return f"{cause}: {error}" if error else cause
