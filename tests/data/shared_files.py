"""Every file of ../shared/data as input of sft, align and feedback: `python -m tests.data.shared_files [FOLDER]`.

Prints a table in Markdown: the rows read, what was left out and why, the columns not used; or why it is refused.
"""

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from zephyr.data.read.sources import counted, open_source
from zephyr.errors import DataError, UnknownFormatError
from zephyr.recipe.data_section import DataSource
from zephyr.records.reading import READERS

INPUTS = {"sft": "chat", "align": "preference", "feedback.recorded": "rated", "feedback.prompts": "prompt"}
SHOWN = 150


def outcome(folder: Path, path: str, kind: str) -> str:
    """What becomes of a file as input of this kind."""
    try:
        records = open_source(DataSource(path=path, bad_rows="drop"), kind, data_dir=folder, offline=True)
    except UnknownFormatError as error:
        return f"refused: {error.what.partition(', which holds')[0].partition(', and no')[0]}"
    except DataError as error:
        return f"refused: {error.what if len(error.what) <= SHOWN else error.what[: SHOWN - 1] + '…'}"
    told = [f"{len(records):,} rows"]
    told += [f"left out: {counted(records.counts)}"] if records.counts else []
    told += [f"columns not used: {counted(records.unused)}"] if records.unused else []
    told += [f"noted: {counted(records.noted)}"] if records.noted else []
    return "; ".join(told)


def lines(folder: Path) -> Iterator[str]:
    """The table, a line for every file; neighbours with the same outcomes share theirs."""
    yield f"| file | {' | '.join(INPUTS)} |"
    yield "|---" * (len(INPUTS) + 1) + "|"
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "README.md")
    found = [(file.relative_to(folder), _outcomes(folder, file)) for file in files]
    for (parent, outcomes), group in groupby(found, key=lambda one: (one[0].parent, one[1])):
        names = [file.name for file, _ in group]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        same = ["the same"] * (len(outcomes) - 1)
        cells = [f"{parent}/{names[0]}{more}", *(outcomes if len({*outcomes}) > 1 else (outcomes[0], *same))]
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _outcomes(folder: Path, file: Path) -> tuple[str, ...]:
    if Path(file.name.removesuffix(".gz")).suffix not in READERS:
        return ("refused: no file of rows",) * len(INPUTS)
    path = str(file.relative_to(folder))
    return tuple(outcome(folder, path, kind) for kind in INPUTS.values())


if __name__ == "__main__":
    print("\n".join(lines(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"))))
