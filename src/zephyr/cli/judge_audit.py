"""`zephyr judge audit`: how reliable a judge is, measured on labelled answers."""

import json
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zephyr.cli.options import (
    AsJson,
    Aspects,
    CapTokens,
    Concurrency,
    JudgeTeacher,
    JudgeTries,
    KeyEnv,
    LedgerFile,
    LongestReply,
    RubricOption,
    Seed,
    judging_section,
)
from zephyr.cli.terminal import Offline, can_go_on, escape_controls, quiet_libraries
from zephyr.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zephyr.feedback.audit import Audit, Measure
    from zephyr.feedback.audit_items import AuditItem

WORLD_ITEMS = 200


def audit_command(  # noqa: PLR0913 - typer makes an option of every parameter
    *,
    judge: JudgeTeacher,
    llmbar: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of LLMBar's JSON files.")] = None,
    pandalm: Annotated[Path | None, typer.Option(metavar="FILE", help="PandaLM's test set.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use N randomly drawn items of each set.")] = None,
    aspects: Aspects = "all",
    rubric: RubricOption = None,
    tries: JudgeTries = 3,
    max_reply_tokens: LongestReply = 1024,
    seed: Seed = 0,
    ledger: LedgerFile = None,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Measure a judge: consistency, biases, missing ratings, agreement with labels. Default set: the closed world's."""
    quiet_libraries(offline=offline)
    from zephyr.feedback.audit import audit_judge, num_rounds
    from zephyr.progress import show_progress
    from zephyr.teachers.ledger.ledger import Ledger
    from zephyr.teachers.ledger.prices import cap_of
    from zephyr.teachers.opening import TeacherContext, open_teacher, parse_teacher

    section = judging_section(aspects, rubric, tries, max_reply_tokens)
    with can_go_on("run the same command again to continue" if ledger else "with --ledger FILE it could be continued"):
        items = _items(llmbar, pandalm, limit, seed)
        rater = parse_teacher(judge, api_key_env=api_key_env, concurrency=concurrency)
        with Ledger(ledger, cap_of([rater], cap_tokens)) if ledger else nullcontext() as calls:
            opened = open_teacher(rater, "rates", TeacherContext(seed, offline), where="judge")
            teacher = opened.teacher if calls is None else opened.with_ledger(calls)
            with show_progress("audit", len(items) * num_rounds(section)) as display:
                done = count(1)
                found = audit_judge(items, teacher, section, seed=seed, on_item=lambda: display.update(next(done)))
    if as_json:
        measures = [measure._asdict() for measure in found.measures]
        counts = {"items": dict(found.sets), "calls": dict(found.counts)}
        typer.echo(json.dumps({"judge": judge, **counts, "measures": measures}))
    else:
        _print_table(judge, found)


def _items(llmbar: Path | None, pandalm: Path | None, limit: int | None, seed: int) -> "list[AuditItem]":
    """The items of the sets that are named, else of the closed world. Raises DataError if there are none."""
    from zephyr.feedback.audit_items import read_llmbar, read_pandalm, world_items

    items: list[AuditItem] = []
    if llmbar is not None:
        items += _drawn(list(read_llmbar(llmbar)), limit, seed)
    if pandalm is not None:
        items += _drawn(list(read_pandalm(pandalm)), limit, seed)
    if llmbar is None and pandalm is None:
        items += world_items(limit or WORLD_ITEMS, seed=seed)
    if not items:
        raise DataError("judge audit", "the given sets have no items", "check --llmbar and --pandalm")
    return items


def _drawn(items: "Sequence[AuditItem]", limit: int | None, seed: int) -> "Sequence[AuditItem]":
    """`limit` items drawn at random, in their order; all of them without a limit."""
    import random

    if limit is None or limit >= len(items):
        return items
    places = sorted(random.Random(seed).sample(range(len(items)), limit))
    return [items[place] for place in places]


def _print_table(judge: str, found: "Audit") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sets = ", ".join(f"{number:,} of {name}" for name, number in found.sets.items())
    questions, failed = found.counts["questions"], found.counts["failed"]
    table = Table(box=box.SIMPLE_HEAD, title=None)
    for name in ("measure", "decided by", "value", "95 % interval", "items"):
        table.add_column(name, justify="left" if name in ("measure", "decided by") else "right")
    for measure in found.measures:
        table.add_row(*map(Text, _cells(measure)))
    console = Console()
    title = f"{judge}: {sets}; {questions:,} questions, {failed:,} without a readable reply"
    console.print(Text(escape_controls(title)))
    console.print(table)


def _cells(measure: "Measure") -> tuple[str, ...]:
    interval = "" if measure.low is None else f"{measure.low:.3f} to {measure.high:.3f}"
    value = "unknown" if measure.value is None else f"{measure.value:.3f}"
    return escape_controls(measure.name), measure.by, value, interval, f"{measure.num_items:,}"
