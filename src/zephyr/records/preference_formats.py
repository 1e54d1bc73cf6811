"""Preferences from the formats they are published in: pairs, rated lists, labels, HH-RLHF text, message trees."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from zephyr.records.columns import LABEL_NAMES, repeats
from zephyr.records.dialogue_formats import (
    PROMPT_NAMES,
    from_alpaca,
    from_hh_text,
    from_messages,
    from_prompt,
    from_prompt_completion,
    from_sharegpt,
    tool_messages_of,
    with_system,
)
from zephyr.records.fields import (
    Fields,
    Json,
    Row,
    UnusableError,
    filled_text,
    first_of,
    label_of,
    number_of,
    text_of,
    unusable,
)
from zephyr.records.message_fields import messages_of, role_of
from zephyr.records.messages import Message, MessageFault, Messages, find_message_faults
from zephyr.records.rows import Chat, Preference

PAIR = ("chosen", "rejected")
# The names of the scores of a pair, chosen and rejected, as data sets have them; the first two that are there count.
_PAIR_SCORES = tuple(
    (pattern.format("chosen"), pattern.format("rejected"))
    for pattern in ("score_{}", "{}_score", "rating_{}", "{}_rating", "{}-rating")
)
# By how much the chosen answer is better, as TRL's reward trainer reads it.
_MARGIN = "margin"
PAIR_SCORE_NAMES = (*(name for names in _PAIR_SCORES for name in names), _MARGIN)
# The keys of a message of a tree that are read.
TREE_KEYS = frozenset({"role", "text", "rank", "replies", "deleted"})


def from_preference(row: Row) -> Preference:
    """The pair of `chosen` and `rejected`, or the list of `completions` with their `ratings`."""
    if "completions" in row.fields:
        return _from_list(row)
    chosen, rejected = (row.fields.get(name) for name in PAIR)
    if isinstance(chosen, str) or isinstance(rejected, str) or chosen is None or rejected is None:
        texts = (text_of(chosen, "chosen answer"), text_of(rejected, "rejected answer"))
        answers = tuple(_answer_of_text(text) for text in texts)
        prompt = _prompt(row.fields)
    else:
        prompt, answers = _split(row.fields, *(tool_messages_of(row.fields, row.fields[name], name) for name in PAIR))
    models = _models([row.fields.get(f"model_{name}") for name in PAIR])
    return _checked(Preference(row.name, prompt, (), _pair_ratings(row.fields), models=models), answers)


def from_hh_rlhf(row: Row) -> Preference:
    """The pair of two HH-RLHF dialogues that differ in their last answer only."""
    chosen, rejected = (from_hh_text(text_of(row.fields.get(name), f"{name} dialogue")) for name in PAIR)
    prompt, answers = _split(row.fields, chosen, rejected)
    return _checked(Preference(row.name, prompt, (), _pair_ratings(row.fields)), answers)


def from_kto(row: Row) -> Preference:
    """One completion, rated 1 if its `label` is true and 0 if false. Raises UnusableError for invalid messages."""
    readers: dict[str, Callable[[Fields], Messages]] = {
        "messages": from_messages,
        "conversations": from_sharegpt,
        "instruction": from_alpaca,
        "prompt": from_prompt_completion,
    }
    messages = readers[first_of(row.fields, tuple(readers))](row.fields)
    faults = find_message_faults(messages, ends_with="assistant")
    if faults:
        raise UnusableError(faults)
    labels = [name for name in LABEL_NAMES if name in row.fields and row.fields[name] is not None]
    rating = 1.0 if label_of(row.fields[first_of(row.fields, labels or LABEL_NAMES)]) else 0.0
    models = _models([row.fields.get("model")])
    return Preference(row.name, messages[:-1], (), (rating,), models=models).with_answers(messages[-1:])


def _models(names: Sequence[Json]) -> tuple[str, ...]:
    """The names of models; empty if none is known."""
    models = tuple(name if isinstance(name, str) else "" for name in names)
    return models if any(models) else ()


def _from_list(row: Row) -> Preference:
    completions, ratings = row.fields.get("completions"), row.fields.get("ratings")
    if not isinstance(completions, list) or not isinstance(ratings, list) or len(completions) != len(ratings):
        raise unusable("ratings do not fit", "completions and ratings are not two lists of the same length")
    if not completions:
        raise unusable("no completions", "there are no completions")
    answers = [_completion(completion, f"completion {number}") for number, completion in enumerate(completions, 1)]
    numbers = [_rating(rating, f"rating {number}") for number, rating in enumerate(ratings, 1)]
    # Stable: completions of equal ratings keep their order.
    order = sorted(range(len(answers)), key=lambda place: -numbers[place])
    named = row.fields.get("models")
    models = _models(
        [named[place] for place in order] if isinstance(named, list) and len(named) == len(answers) else []
    )
    answers_down = tuple(answers[place] for place in order)
    ratings_down = tuple(numbers[place] for place in order)
    return _checked(Preference(row.name, _prompt(row.fields), (), ratings_down, models=models), answers_down)


def _completion(value: Json, what: str) -> Message:
    """The answer of a text, or of a message that may have reasoning and tool calls."""
    if not isinstance(value, dict | list):
        return _answer_of_text(text_of(value, what))
    messages = tool_messages_of({}, value, "completion")
    if len(messages) != 1 or messages[0].role != "assistant":
        raise unusable("completion is no answer", f"the {what} is not one message of the assistant")
    return messages[0]


def _answer_of_text(text: str) -> Message:
    """The answer of a text; thinking at its start is its reasoning."""
    (message,) = messages_of({"role": "assistant", "content": text}, "answer")
    return message


def _rating(value: Json, what: str) -> float:
    score = number_of(value, what)
    if score is None:
        raise unusable("null rating", f"the {what} is null")
    return score


def _pair_ratings(fields: Fields) -> tuple[float, float]:
    """The scores of the pair, or its margin and 0; 1 and 0 if the row has neither."""
    names = next((two for two in _PAIR_SCORES if all(name in fields for name in two)), _PAIR_SCORES[0])
    if not any(name in fields for name in names) and _MARGIN in fields:
        margin = number_of(fields.get(_MARGIN), _MARGIN)
        if margin is not None and margin < 0:
            raise unusable("margin below 0", f"the margin of chosen over rejected is {margin:g}")
        return (1.0, 0.0) if margin is None else (margin, 0.0)
    chosen, rejected = (number_of(fields.get(name), name) for name in names)
    if chosen is None and rejected is None:
        return 1.0, 0.0
    if chosen is None or rejected is None:
        raise unusable("null score", f"one of {names[0]} and {names[1]} is missing")
    if chosen < rejected:
        what = f"{names[0]} is {chosen:g}, below {names[1]}, which is {rejected:g}"
        raise unusable("chosen is scored below rejected", what)
    return chosen, rejected


def _prompt(fields: Fields) -> Messages:
    if not any(name in fields for name in (*PROMPT_NAMES, "messages", "conversations")):
        what = "chosen and rejected are texts and there is no prompt (as text or messages)"
        raise unusable("no prompt", what)
    if any(name in fields for name in PROMPT_NAMES):
        return from_prompt(fields)
    return from_messages(fields) if "messages" in fields else from_sharegpt(fields)


def _split(fields: Fields, chosen: Messages, rejected: Messages) -> tuple[Messages, Messages]:
    """The prompt of two dialogues, and their last answers.

    Dialogues that begin with an answer go on from the row's prompt; others hold their prompt, and one that the row has
    beside them must say the same.
    """
    faults = [
        MessageFault(f"no {name} answer", f"{name} does not end with an answer")
        for name, messages in zip(PAIR, (chosen, rejected), strict=True)
        if not messages or messages[-1].role != "assistant"
    ]
    if faults:
        raise UnusableError(faults)
    answers = (chosen[-1], rejected[-1])
    if chosen[:-1] != rejected[:-1]:
        what = "chosen and rejected differ before their last message, so they do not answer one prompt"
        raise unusable("no common prompt", what)
    if chosen[0].role == "assistant":
        return (*_prompt(fields), *chosen[:-1]), answers
    prompt = with_system(fields, chosen[:-1])
    _check_prompt(fields, prompt)
    return prompt, answers


def _check_prompt(fields: Fields, prompt: Messages) -> None:
    """Raise UnusableError if the row's own prompt says what the prompt of its dialogues does not."""
    texts = [message.content for message in prompt]
    for name in PROMPT_NAMES:
        value = fields.get(name)
        if value is None or value == "":
            continue
        said = messages_of(value, name) if isinstance(value, list | dict) else [Message("user", text_of(value, name))]
        if not all(repeats(message.content, texts) for message in said):
            raise unusable(f"{name} and chosen differ", f"the {name} is not what stands before the chosen answer")


def _checked(preference: Preference, answers: Messages) -> Preference:
    faults = find_message_faults(preference.prompt, ends_with="user")
    for number, answer in enumerate(answers):
        name = f"{PAIR[number]} answer" if len(answers) == 2 else f"completion {number + 1}"
        if not answer.content.strip() and not answer.tool_calls:
            faults.append(MessageFault("empty answer", f"the {name} is empty"))
        if not answer.learn:
            faults.append(MessageFault("answer not to be learnt", f"the {name} is marked as not to be learnt"))
    if faults:
        raise UnusableError(faults)
    return preference.with_answers(answers)


class _Node(NamedTuple):
    """A message of a tree, its rank among its siblings (0 is best), and its replies."""

    message: Message
    rank: int | None
    replies: tuple["_Node", ...]


def tree_chats(row: Row) -> list[Chat]:
    """The dialogues along the best-ranked answers, one for each user continuation.

    Source: OpenAssistant's message trees, arXiv 2304.07327.
    """
    paths = [path for path in _best_paths(_root(row.fields)) if len(path) > 1]
    return [Chat(f"{row.name} dialogue {number}", path) for number, path in enumerate(paths, 1)]


def tree_preferences(row: Row) -> list[Preference]:
    """The pairs of ranked answers to a message, each better answer with each worse one.

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
    """Every message of a tree, with the dialogue that ends with it."""
    path = (*before, node.message)
    yield path, node
    for reply in node.replies:
        yield from _walk(path, reply)


def _best_paths(node: _Node) -> Iterator[Messages]:
    """The dialogues from here on that end with an answer."""
    answers = [reply for reply in node.replies if reply.message.role == "assistant"]
    if node.message.role == "user":
        if answers:
            # Unranked replies come last; of several the first is taken.
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
    if role not in ("user", "assistant"):
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
