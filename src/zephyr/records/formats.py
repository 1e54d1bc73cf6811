"""The formats (`shape`) that rows are published in: detecting them by their fields, and converting rows to records.

A new format is a reader in one of the `*_formats` files and a line of `SHAPES` here.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from zephyr.errors import DataError, UnknownFormatError, did_you_mean
from zephyr.records.checks import checks_of
from zephyr.records.columns import HARMLESS, LABEL_NAMES, ColumnAccounts, TrackedFields
from zephyr.records.dialogue_formats import (
    ALPACA_ANSWER_NAMES,
    COMPLETION_NAMES,
    GIVEN_NAMES,
    GLAIVE_NAMES,
    PROMPT_NAMES,
    SYSTEM_NAMES,
    from_alpaca,
    from_glaive,
    from_messages,
    from_prompt,
    from_prompt_completion,
    from_sharegpt,
    template_inputs,
)
from zephyr.records.fields import (
    LABELS,
    SHOWN_CHARACTERS,
    SHOWN_FAULTS,
    Fields,
    Row,
    RowFault,
    UnusableError,
    filled_text,
    first_of,
    listed,
    printable,
    unusable,
)
from zephyr.records.message_fields import TOOL_LIST_KEYS, unread_keys
from zephyr.records.messages import VARIABLES_KEY, MessageFault, Messages, find_message_faults, has_tools
from zephyr.records.preference_formats import (
    PAIR_SCORE_NAMES,
    TREE_KEYS,
    from_hh_rlhf,
    from_kto,
    from_preference,
    tree_chats,
    tree_preferences,
)
from zephyr.records.rated_formats import ANSWER_KEYS, ULTRAFEEDBACK_KEYS, from_rated, from_ultrafeedback
from zephyr.records.rows import Chat, Preference, Prompt, Rated, Record, RecordKind, Shape, Text

CHECK_COLUMNS = ("checks", "instruction_id_list", "kwargs")
TEXT_NAMES = ("text", "story", "content")
RowReader = Callable[[Row], Sequence[Record]]


class KnownShape(NamedTuple):
    """The fields of a format, in words and as a predicate, and its readers by kind of record.

    ``columns``: all columns that its readers may use, of alternatives one. ``inside``: the keys that they use in the
    objects of a column, where these are no messages.
    """

    fields: str
    fits: Callable[[Fields], bool]
    kinds: Mapping[RecordKind, RowReader]
    columns: Sequence[str]
    inside: frozenset[str] = frozenset()

    def unread(self, item: Fields, *, is_first: bool) -> Collection[str]:
        """The keys that no reader uses in an object of a column, the first of its list or not."""
        keys = unread_keys(item, is_first=is_first)
        return [key for key in keys if key not in self.inside]


def detect_shape(fields: Fields, kind: RecordKind | None = None) -> Shape | None:
    """The first format that fits these fields and has records of `kind`; None if there is none.

    Columns that are null in this row count only where no format fits without them.
    """
    filled = {name: value for name, value in fields.items() if value is not None}
    for there in (filled, fields):
        for shape, layout in SHAPES.items():
            if (kind is None or kind in layout.kinds) and layout.fits(there):
                return shape
    return None


def known_columns() -> set[str]:
    """The names of all columns that a reader may use or that are known to say nothing of training."""
    return {name for layout in SHAPES.values() for name in layout.columns} | set(HARMLESS)


def record_of(row: Row, shape: Shape, kind: RecordKind) -> Record:
    """The one record of a row. Raises DataError with all its faults."""
    records = records_of(row, shape, kind)
    if isinstance(records, RowFault):
        raise DataError(records.name, records.what, "fix the row, or remove it")
    if len(records) != 1:
        raise ValueError(f"{row.name} holds {len(records)} records; records_of gives them all")
    return records[0]


def records_of(
    row: Row, shape: Shape, kind: RecordKind, accounts: ColumnAccounts | None = None
) -> Sequence[Record] | RowFault:
    """The records of a row, any number for a tree; or its faults. Raises DataError if the format has no such kind.

    ``accounts``: those of the row's source, where its unused columns are counted.
    """
    reader = SHAPES[shape].kinds.get(kind)
    if reader is None:
        known = listed(name for name, layout in SHAPES.items() if kind in layout.kinds)
        raise DataError(row.name, f"rows of shape '{shape}' hold no {kind} records", f"these shapes do: {known}")
    fields = TrackedFields(row.fields)
    try:
        records = reader(Row(row.name, fields))
        lost = (accounts or ColumnAccounts(kind)).close(fields, records, SHAPES[shape].unread)
    except UnusableError as error:
        said = "; ".join(fault.what for fault in error.faults[:SHOWN_FAULTS])
        more = len(error.faults) - SHOWN_FAULTS
        return RowFault(row.name, error.faults[0].reason, f"{said}; and {more} more" if more > 0 else said)
    except RecursionError:
        return RowFault(row.name, "nested too deeply", "is nested too deeply")
    if lost:
        said = "; ".join(dict.fromkeys(fault.what for fault in lost))
        return RowFault(row.name, lost[0].reason, said, lost[0].remedy)
    return records


def unknown_shape(row: Row, kind: RecordKind) -> UnknownFormatError:
    """The error for a row of unknown format: the fields it has, and those needed for records of `kind`."""
    other = detect_shape(row.fields)
    if other is not None:
        what = f"has the shape '{other}' ({SHAPES[other].fields}), which holds {listed(SHAPES[other].kinds)} records"
        hint = ""
    else:
        what = f"has the fields {listed(row.fields)}"
        hint = _nearest_names(row.fields, kind)
    needed = dict.fromkeys(layout.fields for layout in SHAPES.values() if kind in layout.kinds)
    remedy = f"needed are {' | '.join(needed)}; rename fields with columns, or set shape"
    if kind in {"preference", "chat"} and other is not None and "rated" in SHAPES[other].kinds:
        remedy = "make pairs of them with zephyr binarize, or name the source in feedback.recorded"
    return UnknownFormatError(row.name, f"{what}, and no {kind} records can be made of it{hint}", remedy)


def _nearest_names(fields: Fields, kind: RecordKind) -> str:
    """A hint for a message: the first field whose name is almost a needed one."""
    needed = " ".join(layout.fields for layout in SHAPES.values() if kind in layout.kinds)
    names = set(re.findall(r"\w+", needed)) - set(fields)
    for field in fields:
        hint = did_you_mean(field, names)
        if hint.startswith("; did you mean"):
            return f" ('{printable(field)[:SHOWN_CHARACTERS]}'{hint.replace(';', ':')})"
    return ""


def _source(row: Row) -> str:
    return _text(row, "source")


def _text(row: Row, name: str) -> str:
    """The text of a field; empty if it is absent or not a text."""
    value = row.fields.get(name)
    return value if isinstance(value, str) else ""


def _dialogue(read: Callable[[Fields], Messages]) -> Mapping[RecordKind, RowReader]:
    """Readers of chats and prompts; the prompt of a complete dialogue is all but its last answer."""

    def chats(row: Row) -> Sequence[Record]:
        messages = _valid(read(row.fields), ends_with="assistant")
        if not any(message.learn for message in messages if message.role == "assistant"):
            raise unusable("no answer to learn", "every answer is marked as not to be learnt")
        return [Chat(row.name, messages, _source(row), template_inputs(row.fields))]

    def prompts(row: Row) -> Sequence[Record]:
        messages = read(row.fields)
        if messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        _valid(messages, ends_with="user")
        return [_prompt(row, messages, _text(row, "knowledge"))]

    return {"chat": chats, "prompt": prompts}


def _valid(messages: Messages, *, ends_with: Literal["user", "assistant"]) -> Messages:
    faults: list[MessageFault] = find_message_faults(messages, ends_with=ends_with)
    if faults:
        raise UnusableError(faults)
    return messages


def _preference(read: Callable[[Row], Preference]) -> Mapping[RecordKind, RowReader]:
    """Readers of preferences, prompts, and the dialogues that end with the chosen answer."""

    def preferences(row: Row) -> Sequence[Record]:
        return [read(row)._replace(source=_source(row), rule=_text(row, "rule"), inputs=template_inputs(row.fields))]

    def prompts(row: Row) -> Sequence[Record]:
        return [_prompt(row, read(row).prompt)]

    def chats(row: Row) -> Sequence[Record]:
        pair = read(row)
        return [Chat(row.name, (*pair.prompt, pair.answers[0]), _source(row), template_inputs(row.fields))]

    return {"preference": preferences, "prompt": prompts, "chat": chats}


def _prompt(row: Row, messages: Messages, knowledge: str = "") -> Prompt:
    """The prompt of a row. Raises UnusableError for one with tools: nothing here answers or rates with tools."""
    if template_inputs(row.fields).tools or has_tools(messages):
        raise unusable("prompt with tools", "has tools, and prompts with tools can be neither answered nor rated")
    return Prompt(row.name, messages, _source(row), knowledge, checks_of(row.fields))


def _rated(read: Callable[[Row], Rated]) -> Mapping[RecordKind, RowReader]:
    def rated(row: Row) -> Sequence[Record]:
        found = read(row)
        return [found._replace(source=_source(row), checks=_prompt(row, found.prompt).checks)]

    def prompts(row: Row) -> Sequence[Record]:
        found = read(row)
        return [_prompt(row, found.prompt, found.knowledge)]

    return {"rated": rated, "prompt": prompts}


def _texts(row: Row) -> Sequence[Record]:
    return [Text(row.name, filled_text(row.fields[first_of(row.fields, TEXT_NAMES)], "text"), _source(row))]


def _tree_prompts(row: Row) -> Sequence[Record]:
    return [Prompt(chat.name, chat.messages[:1]) for chat in tree_chats(row)[:1]]


def _has(fields: Fields, *groups: Sequence[str]) -> bool:
    """Whether there is a field of every group."""
    return all(any(name in fields for name in group) for group in groups)


def _fits_ultrafeedback(fields: Fields) -> bool:
    completions = fields.get("completions")
    first = completions[0] if isinstance(completions, list) and completions else None
    return isinstance(first, dict) and "response" in first


def _fits_hh_rlhf(fields: Fields) -> bool:
    chosen = fields.get("chosen")
    is_text = isinstance(chosen, str) and chosen.lstrip().startswith("Human:")
    return is_text and "rejected" in fields


def _fits_glaive(fields: Fields) -> bool:
    chat = fields.get("chat")
    return isinstance(chat, str) and chat.lstrip().startswith("USER:")


def _from_glaive(readers: Mapping[RecordKind, RowReader]) -> Mapping[RecordKind, RowReader]:
    """Readers of Glaive's rows, by those of rows with messages and tools."""

    def reader(read: RowReader) -> RowReader:
        return lambda row: read(Row(row.name, from_glaive(row.fields)))

    return {kind: reader(read) for kind, read in readers.items()}


def _fits_tree(fields: Fields) -> bool:
    prompt = fields.get("prompt")
    return isinstance(prompt, dict) and "replies" in prompt


def _fits_kto(fields: Fields) -> bool:
    has_dialogue = _has(fields, ("messages", "conversations")) or _has(fields, PROMPT_NAMES, COMPLETION_NAMES)
    return has_dialogue and any(str(fields.get(name)).strip().lower() in LABELS for name in LABEL_NAMES)


# What a row may give to its chat template beside messages.
INPUT_KEYS = (*TOOL_LIST_KEYS, VARIABLES_KEY)
_ALPACA_COLUMNS = ("instruction", *GIVEN_NAMES, "history", *SYSTEM_NAMES, *INPUT_KEYS)
_PROMPT_COLUMNS = (*PROMPT_NAMES, *_ALPACA_COLUMNS)
_PAIR_COLUMNS = ("chosen", "rejected", *PAIR_SCORE_NAMES, "model_chosen", "model_rejected", "rule", "source")

# Tried in this order: formats with more fields come before those they could be mistaken for.
SHAPES: Mapping[Shape, KnownShape] = {
    "ultrafeedback": KnownShape(
        "instruction, completions (response, annotations)",
        _fits_ultrafeedback,
        _rated(from_ultrafeedback),
        (*_PROMPT_COLUMNS, "completions", "correct_answers", "incorrect_answers", "source"),
        ULTRAFEEDBACK_KEYS,
    ),
    "oasst_tree": KnownShape(
        "prompt (role, text, replies)",
        _fits_tree,
        {
            "chat": tree_chats,
            "preference": tree_preferences,
            "prompt": _tree_prompts,
        },
        ("prompt",),
        TREE_KEYS,
    ),
    "rated": KnownShape(
        "prompt, completion, score",
        lambda fields: _has(fields, PROMPT_NAMES, (*COMPLETION_NAMES, "answers"), ("score", "answers")),
        _rated(from_rated),
        (
            *_PROMPT_COLUMNS,
            *COMPLETION_NAMES,
            "model",
            "score",
            "ratings",
            "rationale",
            "answers",
            "knowledge",
            *CHECK_COLUMNS,
            "source",
        ),
        ANSWER_KEYS,
    ),
    "hh_rlhf": KnownShape(
        "chosen, rejected (Human: ...)",
        _fits_hh_rlhf,
        _preference(from_hh_rlhf),
        (*_PAIR_COLUMNS, *PROMPT_NAMES, *SYSTEM_NAMES, *INPUT_KEYS),
    ),
    "preference": KnownShape(
        "prompt, chosen, rejected",
        lambda fields: _has(fields, ("chosen",), ("rejected",)) or _has(fields, ("completions",), ("ratings",)),
        _preference(from_preference),
        (*_PAIR_COLUMNS, *_PROMPT_COLUMNS, "messages", "conversations", "completions", "ratings", "models"),
    ),
    "kto": KnownShape(
        "prompt, completion, label",
        _fits_kto,
        {
            "preference": _preference(from_kto)["preference"],
            "prompt": _preference(from_kto)["prompt"],
        },
        (*_PROMPT_COLUMNS, *COMPLETION_NAMES, "messages", "conversations", *LABEL_NAMES, "model", "rule", "source"),
    ),
    "messages": KnownShape(
        "messages",
        lambda fields: "messages" in fields,
        _dialogue(from_messages),
        ("messages", *SYSTEM_NAMES, *INPUT_KEYS, "knowledge", *CHECK_COLUMNS, "source"),
    ),
    "sharegpt": KnownShape(
        "conversations",
        lambda fields: "conversations" in fields,
        _dialogue(from_sharegpt),
        ("conversations", *SYSTEM_NAMES, *INPUT_KEYS, "knowledge", *CHECK_COLUMNS, "source"),
    ),
    "glaive": KnownShape(
        "system, chat (USER: ...)", _fits_glaive, _from_glaive(_dialogue(from_messages)), (*GLAIVE_NAMES, "source")
    ),
    "alpaca": KnownShape(
        "instruction, output",
        lambda fields: _has(fields, ("instruction",), ALPACA_ANSWER_NAMES),
        _dialogue(from_alpaca),
        (*_ALPACA_COLUMNS, *ALPACA_ANSWER_NAMES, "knowledge", *CHECK_COLUMNS, "source"),
    ),
    "prompt_completion": KnownShape(
        "prompt, completion",
        lambda fields: _has(fields, PROMPT_NAMES, COMPLETION_NAMES),
        _dialogue(from_prompt_completion),
        (*_PROMPT_COLUMNS, *COMPLETION_NAMES, "knowledge", *CHECK_COLUMNS, "source"),
    ),
    "prompt": KnownShape(
        "prompt",
        lambda fields: _has(fields, PROMPT_NAMES),
        {"prompt": _dialogue(from_prompt)["prompt"]},
        (*_PROMPT_COLUMNS, "knowledge", *CHECK_COLUMNS, "source"),
    ),
    "text": KnownShape("text", lambda fields: _has(fields, TEXT_NAMES), {"text": _texts}, (*TEXT_NAMES, "source")),
}
