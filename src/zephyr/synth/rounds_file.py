"""The rounds in which a pool of instructions grew, in a file that is only appended to, so that growing can go on.

What a round asks depends on all rounds before it, so a request that failed must not succeed on a second try: then
everything after it would be asked anew. Hence the outcome of whole rounds is kept, failures and all.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from zephyr.errors import DataError
from zephyr.records.fields import Json, printable
from zephyr.synth.instructions import GrowthSettings, Neighbour, NewInstruction, Round
from zephyr.synth.wording import TEMPLATE_VERSION

FORMAT = 1
# A pool may grow on to a higher number, or with more patience; all else decides what was asked.
_FREE = ("num_instructions", "patience_rounds")


class RoundsFile:
    """The file of one growing pool: a head that says what it grows from, then a row a round."""

    def __init__(self, path: Path, seeds: Sequence[str], settings: GrowthSettings, teacher: str) -> None:
        plain = {name: value for name, value in asdict(settings).items() if name not in _FREE}
        text = json.dumps([FORMAT, TEMPLATE_VERSION, teacher, plain, list(seeds)], sort_keys=True)
        self._path = path
        self._head = json.dumps({"format": FORMAT, "grown_from": hashlib.sha256(text.encode()).hexdigest()})

    def read(self) -> list[Round]:
        """The whole rounds of before; a last one that was being written when its process died is cut off."""
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        lines = whole.decode().splitlines()
        if lines and lines[0] != self._head:
            what = "holds instructions that grew from other seeds, settings or another teacher"
            raise DataError(printable(str(self._path)), what, "write to another place, or move that folder away")
        return [_round(json.loads(line)) for line in lines[1:]]

    def append(self, one: Round) -> None:
        """Nothing; afterwards the round is on disk."""
        fields: dict[str, Json] = {
            "round": one.number,
            "kept": [instruction_fields(new) for new in one.kept],
            "counts": dict(one.counts),
        }
        with self._path.open("a", encoding="utf-8") as file:
            head = "" if file.tell() else f"{self._head}\n"
            file.write(f"{head}{json.dumps(fields, ensure_ascii=False)}\n")
            file.flush()
            os.fsync(file.fileno())


def instruction_fields(new: NewInstruction) -> dict[str, Json]:
    """A new instruction as plain values."""
    return {
        "instruction": new.instruction,
        "most_similar": [[neighbour.instruction, neighbour.score] for neighbour in new.most_similar],
        "mean_similarity": new.mean_similarity,
    }


def _round(fields: Mapping[str, Json]) -> Round:
    match fields:
        case {"round": int(number), "kept": list(kept), "counts": dict(counts)}:
            by_reason = Counter({reason: count for reason, count in counts.items() if isinstance(count, int)})
            return Round(number, tuple(_instruction(new) for new in kept), by_reason)
    raise AssertionError(f"a round was written as {fields}")


def _instruction(fields: Json) -> NewInstruction:
    match fields:
        case {"instruction": str(text), "most_similar": list(nearest), "mean_similarity": float(mean)}:
            pairs = [(one[0], one[1]) for one in nearest if isinstance(one, list)]
            neighbours = [
                Neighbour(near, score) for near, score in pairs if isinstance(near, str) and isinstance(score, float)
            ]
            return NewInstruction(text, tuple(neighbours), mean)
    raise AssertionError(f"an instruction was written as {fields}")
