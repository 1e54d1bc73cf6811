"""Answering and rating over a Ray cluster: prompts in partitions, workers with their own teachers, results merged.

Requests and results are the same as in one process; the order of rows is that of the partitions. A partition is rated
by one worker at a time, has its own ledger, and is finished when its ratings file exists, so that a stopped run
resumes with the partitions that are missing. All workers must see the folder.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from zephyr.atomic import replace_text
from zephyr.errors import DataError, TeacherError, ZephyrError
from zephyr.feedback.judge import CALLS, RATINGS
from zephyr.feedback.rate import OpenedTeachers, RatingCounts, RatingPlan, rate_rows
from zephyr.recipe.feedback_section import RaySection
from zephyr.records.fields import Json, Row
from zephyr.records.formats import record_of
from zephyr.records.reading import read_rows
from zephyr.records.rows import Prompt, Rated, prompt_id
from zephyr.records.writing import to_fields, write_jsonl
from zephyr.runs.layout import LEDGER
from zephyr.teachers.ledger.file import merge_ledgers
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap

_INPUT = "input.jsonl"
_COUNTS = "counts.json"
_SHARE = "share.json"
_UNFINISHED = "rated.jsonl"


class RayRun(NamedTuple):
    """The counts over all partitions, the merged files, and the folder of the partitions."""

    counts: RatingCounts
    ratings: Path
    calls: Path
    ledger: Path
    parts: Path


def rate_over_ray(
    rows: Iterable[Prompt | Rated],
    plan: RatingPlan,
    folder: Path,
    section: RaySection,
    *,
    on_part: Callable[[int, int], None] = lambda _done, _of: None,
) -> RayRun:
    """Write the ratings of all rows into `folder`. Ray is started on this machine if it is not running yet.

    `on_part` is called with the number of finished partitions and of all partitions. Raises TeacherError if a worker's
    teacher fails, after the other partitions are finished and kept, and DataError if there is no row.
    """
    parts = _partition(rows, folder.resolve(), plan, section.num_partitions)
    items = [{"part": str(part)} for part in parts if not (part / RATINGS).exists()]
    num_done = len(parts) - len(items)
    on_part(num_done, len(parts))
    troubles: list[TeacherError] = []
    for item in _rated_items(items, plan, section):
        if item["what"]:
            troubles.append(TeacherError(item["where"], item["what"], item["remedy"]))
        else:
            num_done += 1
            on_part(num_done, len(parts))
    if troubles:
        raise troubles[0]
    if not parts:
        raise DataError("ray", "there are no rows to rate", "check the prompts")
    return _merged(parts, folder)


def _rated_items(items: list[dict[str, str]], plan: RatingPlan, section: RaySection) -> Iterator[Mapping[str, str]]:
    """The items in the order in which their partitions finish, each with its error."""
    if not items:
        return
    with _running() as data:
        rated = data.from_items(items, override_num_blocks=len(items)).map(
            PartRater,
            fn_constructor_args=(plan,),
            compute=data.ActorPoolStrategy(size=min(section.num_workers, len(items))),
            num_cpus=section.cpus_per_worker,
            num_gpus=section.gpus_per_worker,
        )
        yield from rated.iter_rows()


class PartRater:
    """Runs in a worker, which keeps its teachers open from one partition to the next."""

    def __init__(self, plan: RatingPlan) -> None:
        self._plan = plan
        self._teachers: OpenedTeachers | None = None

    def __call__(self, item: dict[str, str]) -> dict[str, str]:
        """The item with the error of its partition, if any; raised here, Ray would bury it in tracebacks."""
        plan = self._plan
        try:
            self._teachers = self._teachers or plan.open()
            rate_part(Path(item["part"]), self._teachers, plan)
        except ZephyrError as error:
            return item | {"where": error.where, "what": error.what, "remedy": error.remedy}
        return item | {"where": "", "what": "", "remedy": ""}


def rate_part(part: Path, teachers: OpenedTeachers, plan: RatingPlan) -> None:
    """Write the partition's ratings, calls, ledger and counts into its folder."""
    with Ledger(part / LEDGER, _share_of(plan.cap, json.loads((part / _SHARE).read_bytes()))) as ledger:
        counts = rate_rows(_rows(part), teachers, plan, ledger, (part / _UNFINISHED, part / CALLS), replace=True)
    replace_text(part / _COUNTS, json.dumps(counts._asdict()))
    # Renamed last: a partition with this file is finished.
    (part / _UNFINISHED).rename(part / RATINGS)


def _share_of(cap: Cap, share: float) -> Cap:
    """A part of the cap, rounded down, so that all parts together stay within it."""
    tokens = None if cap.max_tokens is None else int(cap.max_tokens * share)
    return Cap(tokens, None if cap.max_price is None else cap.max_price * share)


def _rows(part: Path) -> Iterator[Prompt | Rated]:
    for line in read_rows(part / _INPUT):
        fields = cast("dict[str, Json]", line.fields["row"])
        row = Row(str(line.fields["name"]), fields)
        found = record_of(row, "rated", "rated") if "answers" in fields else record_of(row, "prompt", "prompt")
        assert isinstance(found, Prompt | Rated)
        yield found


def _partition(rows: Iterable[Prompt | Rated], folder: Path, plan: RatingPlan, num_partitions: int) -> list[Path]:
    """The folders of the partitions that are not empty; equal prompts fall into the same one."""
    lines: list[list[Mapping[str, Json]]] = [[] for _ in range(num_partitions)]
    digest = hashlib.sha256(f"{plan.result_settings} {num_partitions}".encode())
    for row in rows:
        line: dict[str, Json] = {"name": row.name, "row": to_fields(row)}
        identity = prompt_id(row.messages if isinstance(row, Prompt) else row.prompt)
        lines[int(identity[:8], 16) % num_partitions].append(line)
        digest.update(json.dumps(line).encode())
    parts = []
    for number, some in enumerate(lines):
        part = folder / f"parts-{digest.hexdigest()[:12]}" / f"{number:05d}"
        if some:
            part.mkdir(parents=True, exist_ok=True)
            write_jsonl(part / _INPUT, some, replace=True)
            replace_text(part / _SHARE, json.dumps(len(some) / sum(map(len, lines))))
            parts.append(part)
    return parts


def _merged(parts: Sequence[Path], folder: Path) -> RayRun:
    counts = RatingCounts(Counter(), Counter())
    for part in parts:
        found = json.loads((part / _COUNTS).read_bytes())
        counts.answers.update(found["answers"])
        counts.judged.update(found["judged"])
    run = RayRun(counts, folder / RATINGS, folder / CALLS, folder / LEDGER, parts[0].parent)
    merge_ledgers([part / LEDGER for part in parts], run.ledger)
    for name, whole in ((CALLS, run.calls), (RATINGS, run.ratings)):
        lines = (row.fields for part in parts if (part / name).stat().st_size for row in read_rows(part / name))
        write_jsonl(whole, lines, replace=True)
    return run


class _Dataset(Protocol):
    """What is used here of a ray.data.Dataset."""

    def map(
        self,
        fn: type[PartRater],
        *,
        fn_constructor_args: tuple[RatingPlan],
        compute: object,
        num_cpus: float,
        num_gpus: float,
    ) -> _Dataset: ...

    def iter_rows(self) -> Iterator[Mapping[str, str]]: ...


class _RayData(Protocol):
    """What is used here of the module ray.data."""

    def from_items(self, items: list[dict[str, str]], *, override_num_blocks: int) -> _Dataset: ...

    def ActorPoolStrategy(self, *, size: int) -> object: ...  # noqa: N802 - a class there


@contextmanager
def _running() -> Iterator[_RayData]:
    """Ray's data module, with Ray running: where RAY_ADDRESS says, or on this machine alone.

    It is stopped again if it was not running before: what comes next may need the memory.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray, data = importlib.import_module("ray"), importlib.import_module("ray.data")
    except ImportError as error:
        raise TeacherError("ray", "is not installed", 'pip install "zephyr-align[ray]"') from error
    was_running = ray.is_initialized()
    if not was_running:
        local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **local)
    # Ray Data prints a dozen lines every ten seconds; the caller shows progress.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    try:
        yield cast("_RayData", data)
    finally:
        if not was_running:
            ray.shutdown()
