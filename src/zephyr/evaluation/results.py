"""The result of a benchmark on disk: scores, protocol and every single value.

One folder a benchmark: `result.json`, and `items.jsonl` from which runs are compared pair by pair.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from zephyr.atomic import replace_text
from zephyr.errors import DataError
from zephyr.records.fields import Json
from zephyr.records.reading import read_rows
from zephyr.records.writing import write_jsonl

RESULT = "result.json"
ITEMS = "items.jsonl"
# The score by which a judged benchmark is known.
AS_PUBLISHED = "as_published"
ItemKind = Literal["judged", "accuracy"]


class Item(NamedTuple):
    """One value of a run, None if it is missing: of which task, and which item and prompt of it.

    Values of one `prompt` are drawn together in intervals. `kind` "accuracy" is 1.0 or 0.0.
    """

    task: str
    item: str
    prompt: str
    category: str
    value: float | None
    kind: ItemKind = "judged"


class Result(NamedTuple):
    """A benchmark of one model. `protocol` holds all that a score depends on besides the model."""

    benchmark: str
    model: str
    protocol: Mapping[str, Json]
    scores: Mapping[str, Json]
    items: Sequence[Item]

    @property
    def notes(self) -> list[str]:
        """What is to be said beside the scores: deviations of data or manner, and thinking that was not scored."""
        found = [self.protocol.get(name) for name in ("deviations", "notes")]
        return [str(one) for sentences in found if isinstance(sentences, list) for one in sentences]


def write_result(folder: Path, result: Result) -> None:
    """Write the result into the folder, the values first."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / ITEMS, (item._asdict() for item in result.items), replace=True)
    fields = {name: value for name, value in result._asdict().items() if name != "items"}
    replace_text(folder / RESULT, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


def read_results(folder: Path) -> list[Result]:
    """The results in a folder, or in the folders that it holds, by name. Raises DataError if there are none."""
    places = [folder / RESULT, *sorted(folder.glob(f"*/{RESULT}"))]
    found = [_read(place) for place in places if place.is_file()]
    if not found:
        remedy = "name the --out folder of zephyr mt-bench, alpaca-eval, arena, eval or reward-accuracy"
        raise DataError(str(folder), f"has no {RESULT}", remedy)
    return found


def _read(path: Path) -> Result:
    broken = DataError(str(path), "is not an evaluation result", "run the evaluation again")
    try:
        fields: object = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise broken from error
    if not isinstance(fields, dict) or not {"benchmark", "model", "protocol", "scores"} <= fields.keys():
        raise broken
    items = [_item(row.fields, broken) for row in read_rows(path.with_name(ITEMS))]
    return Result(str(fields["benchmark"]), str(fields["model"]), fields["protocol"], fields["scores"], items)


def _item(fields: Mapping[str, Json], broken: DataError) -> Item:
    task, item, prompt, category, value, kind = (fields.get(name) for name in Item._fields)
    if not isinstance(value, int | float | None) or kind not in ("judged", "accuracy"):
        raise broken
    number = None if value is None else float(value)
    return Item(str(task), str(item), str(prompt), str(category), number, "judged" if kind == "judged" else "accuracy")
