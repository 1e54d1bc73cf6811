"""What filters did to a data set: rows in and out, changed and dropped, by filter and reason, with examples.

Examples are safe to print: one line, shortened, control characters escaped.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zephyr.atomic import replace_text
from zephyr.records.fields import Json, printable

REPORT_JSON = "filters.json"
REPORT_PAGE = "filters.md"
MOST_EXAMPLES = 5
EXAMPLE_CHARACTERS = 160


class RowExample(NamedTuple):
    """A row by its name, and the text that was noted."""

    row: str
    text: str


@dataclass
class Tally:
    """How often something was found, with the first few examples."""

    count: int = 0
    examples: list[RowExample] = field(default_factory=list)

    def add(self, row: str, text: str) -> None:
        """Count a row, and keep it as an example while there are fewer than five."""
        self.count += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(RowExample(short_line(row), short_line(text)))


def short_line(text: str, limit: int = EXAMPLE_CHARACTERS) -> str:
    """`text` on one line of at most `limit` characters, with control characters escaped."""
    # Cut before escaping, to save time on long texts, and after, since escapes lengthen the text.
    escaped = printable(" ".join(text[: 8 * limit].split()))
    return escaped if len(escaped) <= limit and len(text) <= 8 * limit else escaped[: limit - 1].rstrip() + "…"


@dataclass
class FilterCounts:
    """What one filter did, by reason."""

    name: str
    rows_in: int = 0
    changed: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    dropped: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    @property
    def num_changed(self) -> int:
        """The number of changed rows."""
        return sum(tally.count for tally in self.changed.values())

    @property
    def num_dropped(self) -> int:
        """The number of dropped rows."""
        return sum(tally.count for tally in self.dropped.values())


@dataclass
class FilterReport:
    """What all filters did, in order; it is updated while rows are read."""

    filters: list[FilterCounts]
    rows_in: int = 0
    rows_out: int = 0
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report to print: one line for all filters and one for each that changed or dropped rows."""
        lines = [f"{_rows(self.rows_in)} in, {_rows(self.rows_out)} left after {_filters(len(self.filters))}"]
        for counts in self.filters:
            reasons = [f"{tally.count:,} changed: {reason}" for reason, tally in counts.changed.items()]
            reasons += [f"{tally.count:,} dropped: {reason}" for reason, tally in counts.dropped.items()]
            if reasons:
                lines.append(f"  {counts.name}: {', '.join(reasons)}")
        return lines + [f"  {note}" for note in self.notes]

    def to_fields(self) -> dict[str, Json]:
        """The report as JSON has it."""
        filters: list[Json] = [
            {
                "name": counts.name,
                "rows_in": counts.rows_in,
                "changed": counts.num_changed,
                "dropped": counts.num_dropped,
                "reasons_changed": _tally_fields(counts.changed),
                "reasons_dropped": _tally_fields(counts.dropped),
            }
            for counts in self.filters
        ]
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "filters": filters,
            "notes": list(self.notes),
        }

    def markdown(self) -> str:
        """The report as a page to read."""
        page = ["# Filter report", "", f"{_rows(self.rows_in)} in, {_rows(self.rows_out)} out.", ""]
        page += ["| filter | rows in | changed | dropped |", "|---|---|---|---|"]
        for counts in self.filters:
            page.append(f"| {counts.name} | {counts.rows_in:,} | {counts.num_changed:,} | {counts.num_dropped:,} |")
        for counts in self.filters:
            for verb, tallies in (("changed", counts.changed), ("dropped", counts.dropped)):
                for reason, tally in tallies.items():
                    page += ["", f"## {counts.name}, {verb}: {reason} ({tally.count:,})", ""]
                    page += [f"- {_code(example.row)}: {_code(example.text)}" for example in tally.examples]
        page += ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join(page) + "\n"

    def write(self, folder: Path) -> None:
        """Write filters.json and filters.md into `folder`, each whole or not at all."""
        replace_text(folder / REPORT_JSON, json.dumps(self.to_fields(), indent=1, ensure_ascii=False))
        replace_text(folder / REPORT_PAGE, self.markdown())


def _tally_fields(tallies: Mapping[str, Tally]) -> dict[str, Json]:
    """Counts and examples as JSON has them."""
    return {
        name: {"rows": tally.count, "examples": [{"row": row, "text": text} for row, text in tally.examples]}
        for name, tally in tallies.items()
    }


def _code(text: str) -> str:
    """`text` as literal text in Markdown."""
    return f"`{text.replace('`', chr(39))}`" if text else ""


def _rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"


def _filters(number: int) -> str:
    return f"{number:,} filter{'' if number == 1 else 's'}"
