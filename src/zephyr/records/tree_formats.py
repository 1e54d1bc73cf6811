"""Dialogues and preferences from message trees, in which every message may have several ranked replies.

The shape of OpenAssistant's export: arXiv 2304.07327.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from zephyr.records.fields import Json, Row
from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Chat, Preference
from zephyr.records.values import Fields, filled_text, role_of, unusable


class _Node(NamedTuple):
    """A message, its rank among its siblings (0 is the best), and the replies to it."""

    message: Message
    rank: int | None
    replies: tuple["_Node", ...]


def tree_chats(row: Row) -> list[Chat]:
    """The dialogues along the best-ranked answers; where users went on differently, one for each of them."""
    paths = [path for path in _best_paths(_root(row.fields)) if len(path) > 1]
    return [Chat(f"{row.name} dialogue {number}", path) for number, path in enumerate(paths, 1)]


def tree_preferences(row: Row) -> list[Preference]:
    """The pairs of ranked answers to one message, every better one with every worse one.

    Ratings count from the worst rank: of three answers the best has 2, the last 0.
    """
    preferences: list[Preference] = []
    for prompt, node in _walk((), _root(row.fields)):
        ranked = [(reply.rank, reply.message.content) for reply in node.replies if reply.rank is not None]
        ranked.sort(key=lambda reply: reply[0])
        for (better, best), (worse, rest) in combinations(ranked, 2):
            if node.message.role == "user" and better < worse:
                ratings = (float(ranked[-1][0] - better), float(ranked[-1][0] - worse))
                name = f"{row.name} pair {len(preferences) + 1}"
                preferences.append(Preference(name, prompt, (best, rest), ratings))
    return preferences


def _walk(before: Messages, node: _Node) -> Iterator[tuple[Messages, _Node]]:
    """Every message with the dialogue that ends with it."""
    path = (*before, node.message)
    yield path, node
    for reply in node.replies:
        yield from _walk(path, reply)


def _best_paths(node: _Node) -> Iterator[Messages]:
    """The dialogues from here on that end with an answer."""
    answers = [reply for reply in node.replies if reply.message.role == "assistant"]
    if node.message.role == "user":
        if answers:
            # Unranked replies have no rival, or nobody ranked them: then the first stays.
            best = min(answers, key=lambda reply: float("inf") if reply.rank is None else reply.rank)
            for rest in _best_paths(best):
                yield (node.message, *rest)
        return
    continued = [rest for reply in node.replies for rest in _best_paths(reply)]
    for rest in continued or [()]:
        yield (node.message, *rest)


def _root(fields: Fields) -> _Node:
    prompt = fields.get("prompt")
    if not isinstance(prompt, dict):
        raise unusable("no tree", "prompt is no message with replies")
    root = _node(prompt)
    if root.message.role != "user":
        raise unusable("roles out of turn", "the tree does not begin with a user message")
    return root


def _node(fields: Fields) -> _Node:
    role = role_of(fields.get("role"))
    if role not in {"user", "assistant"}:
        raise unusable("unknown role", "a message of the tree is by neither prompter nor assistant")
    noun = "answer" if role == "assistant" else "user message"
    message = Message("assistant" if role == "assistant" else "user", filled_text(fields.get("text"), noun))
    rank = fields.get("rank")
    replies = _replies(fields.get("replies"))
    if any(reply.message.role == role for reply in replies):
        raise unusable("roles out of turn", f"a message by '{role}' of the tree is answered by '{role}'")
    return _Node(message, rank if isinstance(rank, int) else None, replies)


def _replies(value: Json) -> tuple[_Node, ...]:
    replies: Sequence[Json] = value if isinstance(value, list) else ()
    return tuple(_node(reply) for reply in replies if isinstance(reply, dict) and reply.get("deleted") is not True)
