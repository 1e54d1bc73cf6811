"""Records as fields in the common formats, and JSONL files of them.

`formats` reads the fields of `to_fields` back to the same record. Pairs have the columns of ultrafeedback_binarized;
their answers do not repeat the prompt, as TRL's trainers and axolotl's chat templates expect.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from zephyr.atomic import sync, write_file
from zephyr.errors import DataError
from zephyr.records.checks import check_fields
from zephyr.records.fields import Json, printable
from zephyr.records.messages import VARIABLES_KEY, Message, Messages, TemplateInputs, ToolCall
from zephyr.records.rows import Answer, Chat, Check, Preference, Prompt, Rated, Record, Text, prompt_id

_BLOCK_ROWS = 1_000


def write_jsonl(path: Path, objects: Iterable[Mapping[str, Json] | Record], *, replace: bool = False) -> int:
    """Write a file of rows atomically; returns their number.

    Raises DataError if the file exists, unless `replace`.
    """
    refusal = DataError(printable(str(path)), "already exists", "choose another name, or move it away")
    if path.exists() and not replace:
        raise refusal
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    lines = _Lines(objects)
    try:
        write_file(partial, lines)
        if path.exists() and not replace:
            raise refusal
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)
    return lines.count


class _Lines:
    """The rows as blocks of bytes, and their count."""

    def __init__(self, objects: Iterable[Mapping[str, Json] | Record]) -> None:
        self.count = 0
        self._objects = objects

    def __iter__(self) -> Iterator[bytes]:
        block: list[str] = []
        for item in self._objects:
            fields = to_fields(item) if isinstance(item, Record) else item
            block.append(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")
            self.count += 1
            if len(block) == _BLOCK_ROWS:
                yield "".join(block).encode()
                block = []
        yield "".join(block).encode()


def to_fields(record: Record) -> dict[str, Json]:
    """The fields of a record in its most common format, with `source` if there is one."""
    match record:
        case Text(text=text):
            fields: dict[str, Json] = {"text": text}
        case Chat(messages=messages, inputs=inputs):
            fields = {"messages": _messages(messages), **_input_fields(inputs)}
        case Prompt(messages=messages, knowledge=knowledge):
            fields = {"prompt": _messages(messages), "prompt_id": prompt_id(messages)}
            fields |= _filled({"knowledge": knowledge}) | _check_fields(record.checks)
        case Rated(prompt=prompt, answers=answers, knowledge=knowledge):
            rated: list[Json] = [_answer_fields(answer) for answer in answers]
            fields = {"prompt": _messages(prompt), "prompt_id": prompt_id(prompt), "answers": rated}
            fields |= _filled({"knowledge": knowledge}) | _check_fields(record.checks)
        case Preference():
            fields = _preference_fields(record) | _input_fields(record.inputs)
    return fields | _filled({"source": record.source})


def _check_fields(checks: Sequence[Check]) -> dict[str, Json]:
    return {"checks": [check_fields(check) for check in checks]} if checks else {}


def _filled(texts: Mapping[str, str]) -> dict[str, Json]:
    """The texts that are not empty."""
    return {name: text for name, text in texts.items() if text}


def _messages(messages: Messages) -> list[Json]:
    return [_message_fields(message) for message in messages]


def _message_fields(message: Message) -> dict[str, Json]:
    """A message as in OpenAI's format, with what it has of reasoning, calls and a weight."""
    fields: dict[str, Json] = {"role": message.role, "content": message.content}
    fields |= _filled({"reasoning_content": message.reasoning, "name": message.name, "tool_call_id": message.call_id})
    if message.tool_calls:
        fields["tool_calls"] = [_call_fields(call) for call in message.tool_calls]
    return fields if message.learn else {**fields, "weight": 0}


def _call_fields(call: ToolCall) -> dict[str, Json]:
    function: Json = {"name": call.name, "arguments": call.arguments}
    return {**_filled({"id": call.id}), "type": "function", "function": function}


def _input_fields(inputs: TemplateInputs) -> dict[str, Json]:
    texts = {"tools": inputs.tools, VARIABLES_KEY: inputs.variables}
    return {name: json.loads(text) for name, text in texts.items() if text}


def _answer_fields(answer: Answer) -> dict[str, Json]:
    """The fields of an answer; `reasoning` where there is any."""
    ratings: dict[str, Json] = dict(answer.ratings)
    fields = answer._asdict() | {"ratings": ratings}
    return fields if answer.reasoning else {name: value for name, value in fields.items() if name != "reasoning"}


def _completions(record: Preference) -> list[Json]:
    """The completions as texts; as messages where one has reasoning or calls."""
    if all(answer.is_plain for answer in record.answers):
        return list(record.completions)
    return list(_messages(record.answers))


def _preference_fields(record: Preference) -> dict[str, Json]:
    """A pair or a labelled completion as TRL's trainers take them, in messages; a list with its ratings.

    `messages` is the whole chosen dialogue, for supervised fine-tuning, as in ultrafeedback_binarized.
    """
    asked: dict[str, Json] = {"prompt": _messages(record.prompt), "prompt_id": prompt_id(record.prompt)}
    origin = _filled({"rule": record.rule})
    is_label = len(record.completions) == 1 and record.ratings[0] in {0.0, 1.0}
    if is_label:
        label: dict[str, Json] = {"completion": _messages(record.answers), "label": record.ratings[0] == 1.0}
        return {**asked, **label, **_filled({"model": "".join(record.models)}), **origin}
    if len(record.completions) != 2:
        ratings: list[Json] = list(record.ratings)
        models: dict[str, Json] = {"models": list(record.models)} if record.models else {}
        return {**asked, "completions": _completions(record), "ratings": ratings, **models, **origin}
    if record.models:
        origin = {"model_chosen": record.models[0], "model_rejected": record.models[1], **origin}
    best, worst = record.answers
    pair: dict[str, Json] = {"chosen": _messages((best,)), "rejected": _messages((worst,))}
    pair["messages"] = _messages((*record.prompt, best))
    scores: dict[str, Json] = {"score_chosen": record.ratings[0], "score_rejected": record.ratings[1]}
    return {**asked, **pair, **scores, **origin}
