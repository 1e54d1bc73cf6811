"""A dialogue as its messages, and the checks of one."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class Message(NamedTuple):
    """One turn of a dialogue."""

    role: Role
    content: str


Messages = tuple[Message, ...]


class MessageFault(NamedTuple):
    """A fault of a dialogue: a short reason to count by, and the full message."""

    reason: str
    what: str


def message_faults(messages: Sequence[Message], *, ends_with: Role | None) -> list[str]:
    """The messages of all faults of a dialogue; empty if it is valid.

    A valid dialogue has at most one system message, which comes first, then alternating turns of user and assistant,
    the user first, no empty text except that of the system message, and a last message of role `ends_with`, if given.
    """
    return [fault.what for fault in find_message_faults(messages, ends_with=ends_with)]


def find_message_faults(messages: Sequence[Message], *, ends_with: Role | None) -> list[MessageFault]:
    """All faults of a dialogue, as `message_faults`, with their reasons."""
    if not messages:
        return [MessageFault("no messages", "there are no messages")]
    faults = [*_order_faults(messages), *_empty_faults(messages)]
    last = messages[-1].role
    if ends_with is not None and last != ends_with:
        needed = "an answer" if ends_with == "assistant" else f"a {ends_with} message"
        faults.append(MessageFault("wrong last role", f"the last message is by '{last}' where {needed} is needed"))
    return faults


def _order_faults(messages: Sequence[Message]) -> Iterator[MessageFault]:
    num_system = sum(message.role == "system" for message in messages)
    if num_system > 1:
        yield MessageFault("several system messages", f"there are {num_system} system messages, one at most is allowed")
    elif num_system == 1 and messages[0].role != "system":
        yield MessageFault("system message not first", "the system message is not the first one")
    turns = [(number, message.role) for number, message in enumerate(messages, 1) if message.role != "system"]
    if not turns:
        yield MessageFault("no turns", "there is nothing but a system message")
    expected: Role = "user"
    for number, role in turns:
        if role != expected:
            before = "comes first" if number == turns[0][0] else "comes twice in a row"
            what = f"message {number} is by '{role}' where '{expected}' is expected ('{role}' {before})"
            yield MessageFault("roles out of turn", what)
        expected = "assistant" if role == "user" else "user"


def _empty_faults(messages: Sequence[Message]) -> Iterator[MessageFault]:
    for number, message in enumerate(messages, 1):
        if message.role != "system" and not message.content.strip():
            noun = "answer" if message.role == "assistant" else "user message"
            yield MessageFault(f"empty {noun}", f"message {number} ({message.role}) is empty")
