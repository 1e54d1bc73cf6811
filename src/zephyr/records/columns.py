"""The columns of a source: used by the reader of its format, known to carry nothing, counted as unused, or refused.

A reader gets the fields of a row as `TrackedFields`, so what it uses is what it reads. Of the rest, a value that the
record says anyway (`prompt` beside `messages`) is no loss; one with a meaning for training that is not honoured
(a label, a weight, a score, an image) is a fault of the row; all others are counted. The keys of messages likewise.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, cast

from zephyr.records.fields import LABELS, Fields, Json, brief, printable
from zephyr.records.rows import Chat, Preference, Prompt, Rated, Record, RecordKind

LABEL_NAMES = ("label", "tag", "kto_tag")
ROW, MESSAGE = "row", "message"

# Columns that may be left unread, and why nothing is lost. A name beginning or ending with _ stands for its ending.
HARMLESS: Mapping[str, str] = dict.fromkeys(
    ("id", "idx", "index", "key", "hash", "uid", "uuid", "guid", "_id", "_ids", "_uuid", "_hash", "_index_level_0__"),
    "names the row",
) | dict.fromkeys(
    ("source", "dataset", "origin", "url", "license", "author", "annotator", "generator", "rule", "name", "file",
     "filename", "version", "metadata", "meta", "created", "created_at", "created_date", "timestamp", "tstamp", "date",
     "_source", "_dataset", "_path", "_url", "_timestamp"),
    "says where the row comes from",
) | dict.fromkeys(
    ("model", "models", "model_name", "teacher", "_model", "_models", "model_", "-model"), "says who wrote the answer",
) | dict.fromkeys(
    ("lang", "language", "category", "domain", "topic", "task", "task_type", "tags"), "sorts the rows by subject",
) | dict.fromkeys(
    ("tokens", "length", "num_", "n_", "_tokens", "_count", "_length", "_chars", "_turns"), "counts something",
) | {"knowledge": "is what a judge may know", "checks": "is what a judge checks"}  # fmt: skip
# Where the prompts alone are read, what belongs to an answer is no part of them.
_OF_ANSWERS = frozenset({
    "completion", "completions", "response", "responses", "answer", "answers", "output", "outputs", "chosen",
    "rejected", "messages", "conversations", "label", "tag", "kto_tag", "score", "scores", "rating", "ratings",
    "reward", "rationale", "weight", "train", "score_chosen", "score_rejected",
})  # fmt: skip
# Columns whose objects are messages, answers or nodes of a tree; those of others (tools, ratings) are read whole.
_OF_MESSAGES = frozenset({
    "messages", "conversations", "prompt", "question", "instruction", "chosen", "rejected", "completion", "completions",
    "response", "answer", "answers", "output",
})  # fmt: skip
_EVERY: frozenset[RecordKind] = frozenset(("chat", "prompt", "rated", "preference"))
_LEARNT: frozenset[RecordKind] = frozenset(("chat", "preference"))
# Shorter texts may be a part of another by chance.
_LONG = 20
_HELD_OUT = re.compile(r"(train|test|val|dev|eval|held)", re.IGNORECASE)
_SPEAKER_WORDS = frozenset({
    "system", "user", "human", "prompter", "assistant", "gpt", "bot", "model", "im_start", "im_end", "sys", "inst",
    "start_header_id", "end_header_id", "eot_id", "s", "begin_of_text",
})  # fmt: skip


class TrackedFields(Mapping[str, Json]):
    """The fields of a row, with the names of those that were read; asking whether there is a field reads nothing."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Json:
        self.read.add(name)
        return self.fields[name]

    def get(self, name: str, default: Json = None) -> Json:  # type: ignore[override]
        """The value of a field that may be absent."""
        self.read.add(name)
        return self.fields.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


def peek(fields: Fields, name: str) -> Json:
    """The value of a field that may be absent, looked at without being used."""
    return fields.fields.get(name) if isinstance(fields, TrackedFields) else fields.get(name)


class ColumnFault(NamedTuple):
    """Why a row's column or message key cannot be left unused: a reason to count by, the message, what to do."""

    reason: str
    what: str
    remedy: str


class _Refusal(NamedTuple):
    """Columns whose meaning is lost if they are not used, for these kinds of record; `where`: of rows, of messages.

    `fault` gives the reason and the message for a value, None for a value that is honoured anyway.
    """

    names: re.Pattern[str]
    kinds: frozenset[RecordKind]
    where: tuple[str, ...]
    fault: Callable[[str, Json], tuple[str, str] | None]
    remedy: str


def _label_fault(name: str, value: Json) -> tuple[str, str] | None:
    label = LABELS.get(str(value).strip().lower())
    if label is None:
        return f"{name} is not used", f"has the {name} {brief(value)}, which cannot be honoured here"
    return None if label else (f"{name} is false", f"the {name} is false, and a dialogue is learnt as a good answer")


def _verdict_fault(name: str, value: Json) -> tuple[str, str] | None:
    """As of a label; other words than true and false are no verdict (`math`, `helpfulness:3`), and counted alone."""
    return _label_fault(name, value) if str(value).strip().lower() in LABELS else None


def _weight_fault(name: str, value: Json) -> tuple[str, str] | None:
    if LABELS.get(str(value).strip().lower()):
        return None
    return f"{name} is not used", f"has the {name} {brief(value)}, and every row is learnt alike"


def _score_fault(name: str, value: Json) -> tuple[str, str] | None:
    return f"{name} is not used", f"has the {name} {brief(value)}, which cannot be honoured here"


def _media_fault(name: str, _value: Json) -> tuple[str, str] | None:
    return f"{name} is not used", f"has the field {name}, and text alone is read"


def _tools_fault(name: str, _value: Json) -> tuple[str, str] | None:
    return f"{name} is not used", f"has the field {name}, which this format's reader does not use"


_GOOD = 'keep the good answers with where: {{{name}: "{good}"}}, or learn from both in align with the objective kto'
_CHOOSE = "choose rows by it with where, or set ignore: [{name}]"
_SCORED = "make pairs of scored answers with zephyr binarize, or set ignore: [{name}]"
_IGNORE = "set ignore: [{name}]"
_REFUSALS = (
    _Refusal(re.compile("label"), _LEARNT, (ROW,), _label_fault, _GOOD),
    _Refusal(re.compile("tag|kto_tag"), _LEARNT, (ROW,), _verdict_fault, _GOOD),
    _Refusal(re.compile("label|tag|kto_tag"), _LEARNT, (MESSAGE,), _verdict_fault, _IGNORE),
    _Refusal(re.compile("(sample_|loss_)?weights?|train(able)?"), _LEARNT, (ROW, MESSAGE), _weight_fault, _CHOOSE),
    _Refusal(re.compile("scores?|ratings?|rewards?|score_.*"), _LEARNT, (ROW,), _score_fault, _SCORED),
    _Refusal(re.compile("(image|audio|video)s?"), _EVERY, (ROW, MESSAGE), _media_fault, _IGNORE),
    _Refusal(re.compile("tools|functions"), _EVERY, (ROW, MESSAGE), _tools_fault, _IGNORE),
)


class UnreadKeys(Protocol):
    """A reader's account of the keys of an object: those that it does not use."""

    def __call__(self, item: Fields, *, is_first: bool) -> Collection[str]: ...


class ColumnAccounts:
    """What became of the columns of a source.

    ``unused`` counts rows by the column of theirs that was not used, and messages by the key (`messages.label`);
    ``noted`` counts what was read in another way than it is written. ``named``: columns that the source's own settings
    use. ``split``: the split that is read.
    """

    def __init__(self, kind: RecordKind, *, named: Collection[str] = (), split: str = "") -> None:
        self.unused: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self._kind = kind
        self._named = frozenset(named)
        self._split = split

    def close(self, row: TrackedFields, records: Sequence[Record], unread: UnreadKeys) -> list[ColumnFault]:
        """Count what made no part of the row's records; return what is refused.

        ``unread`` gives the keys that the reader does not use in an object of a column: a message, an answer.
        """
        faults: list[ColumnFault] = []
        unused: list[str] = []
        texts: list[str] | None = None
        for name, value in row.fields.items():
            if name in self._named or _is_nothing(value):
                continue
            if name in row.read:
                if name in _OF_MESSAGES:
                    self._look_inside(name, value, unread, unused, faults)
            elif not is_harmless(name, self._kind):
                texts = texts_of(records) if texts is None else texts
                if not _is_repeated(value, texts):
                    self._note(name, name, value, ROW, unused, faults)
        if not faults:
            self.unused.update(unused)
        return faults

    def _look_inside(
        self, column: str, value: Json, unread: UnreadKeys, unused: list[str], faults: list[ColumnFault]
    ) -> None:
        for number, item in enumerate(_objects(value), 1):
            for key in unread(item, is_first=number == 1):
                name = f"{column}.{printable(key)}"
                if not (name in self._named or _is_nothing(item[key]) or is_harmless(key, self._kind)):
                    already = len(faults)
                    self._note(key, name, item[key], MESSAGE, unused, faults)
                    faults[already:] = [one._replace(what=f"message {number} {one.what}") for one in faults[already:]]

    def _note(
        self, name: str, path: str, value: Json, where: str, unused: list[str], faults: list[ColumnFault]
    ) -> None:
        """Add the field to the faults, to the unused ones, or, if what it asks for is done anyway, to neither."""
        if name == "split" and isinstance(value, str) and _HELD_OUT.match(value):
            faults += _split_faults(value, self._split)
            return
        refusals = _refusals(name, self._kind, where)
        good = "1" if str(value).startswith("0") else "true"
        found = [(one.fault(name, value), one.remedy.format(name=path, good=good)) for one in refusals]
        faults += [ColumnFault(*fault, remedy) for fault, remedy in found if fault is not None]
        is_honoured = refusals and LABELS.get(str(value).strip().lower())
        if not is_honoured and all(fault is None for fault, _ in found):
            unused.append(printable(path))


def _split_faults(value: str, split: str) -> Iterator[ColumnFault]:
    """The fault of a row that belongs to another split than the one that is read."""
    named, read = value.strip().lower(), split.partition("[")[0].lower()
    if read not in ("", "all") and not named.startswith(read) and not read.startswith(named):
        what = f"belongs to the split {brief(value)}, and '{printable(read)}' is read"
        yield ColumnFault("row of another split", what, f"choose rows with where: {{split: {printable(value)}}}")


@lru_cache(maxsize=4096)
def _refusals(name: str, kind: RecordKind, where: str) -> tuple[_Refusal, ...]:
    return tuple(one for one in _REFUSALS if where in one.where and kind in one.kinds and one.names.fullmatch(name))


@lru_cache(maxsize=4096)
def is_harmless(name: str, kind: RecordKind) -> bool:
    """Whether a column may be left unread without a word."""
    if name in HARMLESS or (kind == "prompt" and name in _OF_ANSWERS):
        return True
    return any(
        (known[0] in "_-" and name.endswith(known)) or (known[-1] == "_" and name.startswith(known))
        for known in HARMLESS
    )


def _is_nothing(value: Json) -> bool:
    """Whether a value says nothing: null, or an empty text, list or object."""
    return value is None or (not isinstance(value, bool | int | float) and not value)


def _objects(value: Json) -> Iterator[Mapping[str, Json]]:
    """The messages, answers or nodes that a column holds: an object, a list of them, and the replies of a tree."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield item
            if isinstance(item.get("replies"), list):
                yield from _objects(item["replies"])


def _is_repeated(value: Json, texts: Sequence[str]) -> bool:
    """Whether `texts`, those of the records, say all that an unread column says: a text, or messages."""
    if isinstance(value, str):
        return repeats(value, texts)
    if not isinstance(value, list):
        return False
    parts = [item.get("content", item.get("value")) if isinstance(item, dict) else None for item in value]
    return all(isinstance(part, str) and repeats(part, texts) for part in parts)


def texts_of(records: Sequence[Record]) -> list[str]:
    """The texts of records' messages and answers."""
    texts: list[str] = []
    for record in records:
        match record:
            case Chat() | Prompt():
                texts += [message.content for message in record.messages]
            case Preference():
                texts += [*(message.content for message in record.prompt), *record.completions]
            case Rated():
                texts += [*(message.content for message in record.prompt), *(answer.text for answer in record.answers)]
            case _:
                texts.append(record.text)
    return texts


def repeats(text: str, texts: Sequence[str]) -> bool:
    """Whether a text says nothing that `texts` do not: a part of one, or all of them with the speakers' names.

    White space and capitals do not count: data sets were corrected in one column and not in the other.
    """
    if text in texts:
        return True
    plain = _plain(text)
    # A short text is compared with short ones alone: whole dialogues need not be brought into a plain form for it.
    known = [_plain(one) for one in texts if one.strip() and (len(plain) >= _LONG or len(one) <= 2 * _LONG)]
    if plain in known or (len(plain) >= _LONG and any(plain in one for one in known)):
        return True
    rest = plain
    for one in sorted(known, key=len, reverse=True):
        rest = rest.replace(one, " ", 1)
    return rest != plain and not set(re.findall(r"\w+", rest)) - _SPEAKER_WORDS


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def parse_messages(value: Json) -> Json:
    """The messages of a text that is the JSON of messages, as tables hold them; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[{", "{", "[ {", "[\n")):
        return value
    try:
        parsed = cast("Json", json.loads(value))
    except (ValueError, RecursionError):
        return value
    items = parsed if isinstance(parsed, list) else [parsed]
    are_messages = bool(items) and all(isinstance(item, dict) and ("role" in item or "from" in item) for item in items)
    return parsed if are_messages else value
