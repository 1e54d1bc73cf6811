"""A dialogue as its messages, with reasoning and tool calls, and the checks of one."""

import json
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
# The roles of a conversation without tools: those that the built-in chat templates, judges and servers know.
PLAIN_ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class ToolCall(NamedTuple):
    """A call of a tool by the assistant; `arguments` is the text of a JSON object, as OpenAI's format has it."""

    name: str
    arguments: str = "{}"
    id: str = ""

    def parsed(self) -> object:
        """The arguments as a JSON value; their text if they are no JSON."""
        try:
            return json.loads(self.arguments)
        except ValueError:
            return self.arguments


class Message(NamedTuple):
    """One turn of a dialogue.

    An answer may have `reasoning`, the text of its thinking without tags, and `tool_calls`. A message of role `tool`
    may have the `name` of its tool and the `call_id` of the call it answers. With `learn` false it is only context.
    """

    role: Role
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    call_id: str = ""
    learn: bool = True

    def __repr__(self) -> str:
        """The fields that say something; of a plain message role and content, which the scripted judge draws from."""
        usual = Message(self.role, self.content)
        said = [name for name, value, other in zip(self._fields, self, usual, strict=True) if value != other]
        return f"Message({', '.join(f'{name}={getattr(self, name)!r}' for name in ('role', 'content', *said))})"

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to render but a role and a text, and no tool speaks."""
        return self.role != "tool" and not (self.reasoning or self.tool_calls or self.name or self.call_id)


Messages = tuple[Message, ...]


def system_within_user(messages: Messages) -> Messages:
    """The messages with a leading system message's text before that of the user's message behind it."""
    if [message.role for message in messages[:2]] != ["system", "user"]:
        return messages
    system, user, *others = messages
    return (user._replace(content=f"{system.content}\n\n{user.content}"), *others)


class TemplateInputs(NamedTuple):
    """What a row gives to its chat template beside messages, as JSON text or empty.

    `tools` is the list of tools that it declares, `variables` the object of its VARIABLES_KEY.
    """

    tools: str = ""
    variables: str = ""


NO_INPUTS = TemplateInputs()
# The field of a row with values for its template's variables, as TRL and vLLM name it.
VARIABLES_KEY = "chat_template_kwargs"
# What every chat template is given; no row may set it.
GIVEN_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


class MessageFault(NamedTuple):
    """A fault of a dialogue: a short reason to count by, and the full message."""

    reason: str
    what: str


def has_tools(messages: Sequence[Message]) -> bool:
    """Whether a message is by a tool or calls one."""
    return any(message.role == "tool" or message.tool_calls for message in messages)


def message_faults(messages: Sequence[Message], *, ends_with: Role | None) -> list[str]:
    """The messages of all faults of a dialogue; empty if it is valid.

    A valid dialogue has at most one system message, which comes first, then alternating turns of user and assistant,
    the user first, no empty question or answer, and a last message of role `ends_with`, if given. Tools answer in turns
    of their own, after an answer that calls them, and the assistant follows; where a user message must come last, the
    answer of a tool may too. An answer that calls a tool may have no text.
    """
    return [fault.what for fault in find_message_faults(messages, ends_with=ends_with)]


def find_message_faults(messages: Sequence[Message], *, ends_with: Role | None) -> list[MessageFault]:
    """All faults of a dialogue, as `message_faults`, with their reasons."""
    if not messages:
        return [MessageFault("no messages", "there are no messages")]
    faults = [*_order_faults(messages), *_empty_faults(messages)]
    last = messages[-1].role
    if ends_with is not None and last != ends_with and (ends_with, last) != ("user", "tool"):
        needed = "an answer" if ends_with == "assistant" else f"a {ends_with} message"
        faults.append(MessageFault("wrong last role", f"the last message is by '{last}' where {needed} is needed"))
    return faults


def _order_faults(messages: Sequence[Message]) -> Iterator[MessageFault]:
    num_system = sum(message.role == "system" for message in messages)
    if num_system > 1:
        yield MessageFault("several system messages", f"there are {num_system} system messages, one at most is allowed")
    elif num_system == 1 and messages[0].role != "system":
        yield MessageFault("system message not first", "the system message is not the first one")
    turns = [(number, message) for number, message in enumerate(messages, 1) if message.role != "system"]
    if not turns:
        yield MessageFault("no turns", "there is nothing but a system message")
    before: Message | None = None
    for number, message in turns:
        role, expected = message.role, _roles_after(before)
        if role not in expected:
            placed = _placed(role, before)
            what = f"message {number} is by '{role}' where '{expected[0]}' is expected ('{role}' {placed})"
            yield MessageFault("roles out of turn", what)
        before = message


def _roles_after(before: Message | None) -> tuple[Role, ...]:
    """The roles that may follow a message, the usual one first."""
    if before is None:
        return ("user",)
    if before.role == "assistant":
        return ("user", "tool") if before.tool_calls else ("user",)
    return ("assistant", "tool") if before.role == "tool" else ("assistant",)


def _placed(role: Role, before: Message | None) -> str:
    if before is None:
        return "comes first"
    if role == "tool":
        return "comes after no tool call"
    return "comes twice in a row" if role == before.role else f"follows '{before.role}'"


def _empty_faults(messages: Sequence[Message]) -> Iterator[MessageFault]:
    for number, message in enumerate(messages, 1):
        if message.role in ("user", "assistant") and not message.content.strip() and not message.tool_calls:
            noun = "answer" if message.role == "assistant" else "user message"
            yield MessageFault(f"empty {noun}", f"message {number} ({message.role}) is empty")
