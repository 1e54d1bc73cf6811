"""A run of `zephyr judge audit`: items drawn from the sets that are named, the judge asked, a table printed."""

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zephyr.cli.terminal import escape_controls
from zephyr.errors import DataError
from zephyr.feedback.audit import Audit, Measure, audit
from zephyr.feedback.audit_items import AuditItem, read_llmbar, read_pandalm, world_items
from zephyr.feedback.judge import JudgeSettings
from zephyr.pipeline.asked_teachers import TeacherOptions, cap_for, open_teacher
from zephyr.progress import show_progress
from zephyr.teachers.ledger.ledger import Ledger

WORLD_ITEMS = 200
NUM_ROUNDS = 3


@dataclass(frozen=True)
class AuditRun:
    """Which judge is measured, on what, and how it is asked."""

    judge: str
    llmbar: Path | None
    pandalm: Path | None
    limit: int | None
    judging: JudgeSettings
    teachers: TeacherOptions
    ledger: Path | None
    cap_tokens: int | None


def run_audit(run: AuditRun) -> Audit:
    """What the judge makes of the items."""
    items = _items(run)
    if not items:
        raise DataError("judge audit", "the sets that are named hold no item", "check --llmbar and --pandalm")
    cap = cap_for([run.judge], run.cap_tokens)
    with Ledger(run.ledger, cap) if run.ledger else nullcontext() as ledger:
        teacher = open_teacher(run.judge, "rates", run.teachers, ledger)
        num_rounds = NUM_ROUNDS - (set(run.judging.aspects) == {"overall"})
        with show_progress("audit", len(items) * num_rounds) as display:
            done = count(1)
            return audit(items, teacher, run.judging, on_item=lambda: display.update(next(done)))


def _items(run: AuditRun) -> list[AuditItem]:
    seed = run.judging.seed
    items: list[AuditItem] = []
    if run.llmbar is not None:
        items += _drawn(list(read_llmbar(run.llmbar)), run.limit, seed)
    if run.pandalm is not None:
        items += _drawn(list(read_pandalm(run.pandalm)), run.limit, seed)
    if run.llmbar is None and run.pandalm is None:
        items += world_items(run.limit or WORLD_ITEMS, seed=seed)
    return items


def _drawn(items: Sequence[AuditItem], limit: int | None, seed: int) -> list[AuditItem]:
    """So many of the items, in their order; all of them without a limit."""
    if limit is None or limit >= len(items):
        return list(items)
    places = sorted(random.Random(seed).sample(range(len(items)), limit))
    return [items[place] for place in places]


def audit_fields(judge: str, found: Audit) -> dict[str, object]:
    """The audit as plain values."""
    return {
        "judge": judge,
        "items": dict(found.sets),
        "calls": dict(found.counts),
        "measures": [measure._asdict() for measure in found.measures],
    }


def print_audit(judge: str, found: Audit) -> None:
    """Nothing; prints the audit as a table."""
    sets = ", ".join(f"{number:,} of {name}" for name, number in found.sets.items())
    questions, failed = found.counts["questions"], found.counts["failed"]
    table = Table(box=box.SIMPLE_HEAD, title=None)
    for name in ("measure", "decided by", "value", "95 % interval", "items"):
        table.add_column(name, justify="left" if name in ("measure", "decided by") else "right")
    for measure in found.measures:
        table.add_row(*map(Text, _cells(measure)))
    console = Console()
    said = f"{judge}: {sets}; {questions:,} questions, {failed:,} without a readable reply"
    console.print(Text(escape_controls(said)))
    console.print(table)


def _cells(measure: Measure) -> tuple[str, ...]:
    interval = "" if measure.low is None else f"{measure.low:.3f} to {measure.high:.3f}"
    value = "unknown" if measure.value is None else f"{measure.value:.3f}"
    return escape_controls(measure.name), measure.by, value, interval, f"{measure.num_items:,}"
