"""The feedback stage over a Ray cluster: prompts in partitions, workers with their own teachers, results merged.

What is asked, and what comes out, is the same as in one process; the order of rows is that of the partitions. A
partition is rated by one worker at a time, keeps a ledger of its own, and is finished when its ratings are there,
so that a run that was stopped goes on with what is missing. The folder must be one that all workers see.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from zephyr.atomic import replace_text
from zephyr.errors import DataError, TeacherError, ZephyrError
from zephyr.feedback.candidates import CandidateSettings, answer_prompts
from zephyr.feedback.judge import JudgeSettings, judge
from zephyr.feedback.judged_files import CALLS, without_ratings, write_judged
from zephyr.records.fields import Json, Row
from zephyr.records.formats import convert
from zephyr.records.reading import read_rows
from zephyr.records.rows import Prompt, Rated, prompt_id
from zephyr.records.writing import to_fields, write_jsonl
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.file import merge_ledgers
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.protocol import Teacher

RATINGS = "ratings.jsonl"
LEDGER = "calls.sqlite"
_INPUT = "input.jsonl"
_COUNTS = "counts.json"
_SHARE = "share.json"


class Opened(NamedTuple):
    """A teacher, and under which name its answers are kept in ledgers, if not its own."""

    teacher: Teacher
    identity: str | None = None


class Opener(NamedTuple):
    """How a worker opens a teacher; `name` tells apart those that rate differently."""

    name: str
    open: Callable[[], Opened]


@dataclass(frozen=True)
class Plan:
    """Who rates, who answers if answers are missing, and how; every teacher is opened once in every worker.

    The cap holds for all partitions together: each gets as much of it as it has of the rows.
    """

    rater: Opener
    answering: CandidateSettings
    judging: JudgeSettings
    pool: tuple[Opener, ...] = ()
    cap: Cap = field(default_factory=Cap)


@dataclass(frozen=True)
class RaySettings:
    """How the work is shared."""

    num_workers: int = 2
    num_partitions: int = 16
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0


class RayRun(NamedTuple):
    """The counts of all partitions together, the merged files, and the folder with the partitions they come from."""

    answers: Counter[str]
    judged: Counter[str]
    ratings: Path
    calls: Path
    ledger: Path
    parts: Path


def rate_over_ray(
    rows: Iterable[Prompt | Rated],
    plan: Plan,
    folder: Path,
    sharing: RaySettings,
    *,
    on_part: Callable[[int, int], None] = lambda _done, _of: None,
) -> RayRun:
    """The ratings of all rows, in `folder`. Ray is started on this machine if it is not running yet.

    `on_part` is told how many partitions are done, and of how many. What a worker's teachers cannot do is raised
    when the other partitions are through; what these have made is kept.
    """
    parts = _partition(rows, folder.resolve(), plan, sharing.num_partitions)
    items = [{"part": str(part)} for part in parts if not (part / RATINGS).exists()]
    num_done = len(parts) - len(items)
    on_part(num_done, len(parts))
    troubles: list[TeacherError] = []
    for item in _rated_items(items, plan, sharing):
        if item["what"]:
            troubles.append(TeacherError(item["where"], item["what"], item["remedy"]))
        else:
            num_done += 1
            on_part(num_done, len(parts))
    if troubles:
        raise troubles[0]
    if not parts:
        raise DataError("ray", "there is nothing to rate", "check the prompts")
    return _merged(parts, folder)


def _rated_items(items: list[dict[str, str]], plan: Plan, sharing: RaySettings) -> Iterator[Mapping[str, str]]:
    """The items as their partitions are finished, with what was wrong."""
    if not items:
        return
    with _running() as data:
        rated = data.from_items(items, override_num_blocks=len(items)).map(
            PartRater,
            fn_constructor_args=(plan,),
            compute=data.ActorPoolStrategy(size=min(sharing.num_workers, len(items))),
            num_cpus=sharing.cpus_per_worker,
            num_gpus=sharing.gpus_per_worker,
        )
        yield from rated.iter_rows()


class PartRater:
    """What runs in a worker: its teachers stay open from one partition to the next."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._opened: list[Opened] = []

    def __call__(self, item: dict[str, str]) -> dict[str, str]:
        """The item, with the mistake that kept its partition from being rated; Ray would bury it in tracebacks."""
        plan = self._plan
        try:
            self._opened = self._opened or [opener.open() for opener in (plan.rater, *plan.pool)]
            rate_part(Path(item["part"]), self._opened[0], self._opened[1:], plan)
        except ZephyrError as error:
            return item | {"where": error.where, "what": error.what, "remedy": error.remedy}
        return item | {"where": "", "what": "", "remedy": ""}


def rate_part(part: Path, rater: Opened, pool: Sequence[Opened], plan: Plan) -> None:
    """Nothing; the partition's folder holds its ratings, calls, ledger and counts."""
    answers: Counter[str] = Counter()
    with Ledger(part / LEDGER, _share_of(plan.cap, json.loads((part / _SHARE).read_bytes()))) as ledger:
        asked = [LedgeredTeacher(one.teacher, ledger, identity=one.identity) for one in (rater, *pool)]
        rows = _answered(part, asked[1:], plan.answering, answers)
        judged = write_judged(
            judge(rows, asked[0], plan.judging), rater.teacher.name, part / "rated.jsonl", part / CALLS, replace=True
        )
    replace_text(part / _COUNTS, json.dumps({"answers": answers, "judged": judged}))
    # Under its own name only now: what is there is finished.
    (part / "rated.jsonl").rename(part / RATINGS)


def _share_of(cap: Cap, share: float) -> Cap:
    """A part of the cap, rounded down, so that all parts together stay within it."""
    tokens = None if cap.max_tokens is None else int(cap.max_tokens * share)
    return Cap(tokens, None if cap.max_price is None else cap.max_price * share)


def _answered(
    part: Path, pool: Sequence[Teacher], answering: CandidateSettings, answers: Counter[str]
) -> Iterator[Rated]:
    if not pool:
        for row in _rows(part):
            assert isinstance(row, Rated)
            yield without_ratings(row)
        return
    prompts = (Prompt(row.name, row.prompt, row.source, row.knowledge) if isinstance(row, Rated) else row
               for row in _rows(part))  # fmt: skip
    for found in answer_prompts(prompts, pool, answering):
        answers.update(found.counts)
        yield found.rated


def _rows(part: Path) -> Iterator[Prompt | Rated]:
    for line in read_rows(part / _INPUT):
        fields = cast("dict[str, Json]", line.fields["row"])
        row = Row(str(line.fields["name"]), fields)
        found = convert(row, "rated", "rated") if "answers" in fields else convert(row, "prompt", "prompt")
        assert isinstance(found, Prompt | Rated)
        yield found


def _partition(rows: Iterable[Prompt | Rated], folder: Path, plan: Plan, num_partitions: int) -> list[Path]:
    """The folders of the partitions that are not empty; equal prompts fall into the same one."""
    lines: list[list[Mapping[str, Json]]] = [[] for _ in range(num_partitions)]
    names = [opener.name for opener in (plan.rater, *plan.pool)]
    settings = (names, asdict(plan.answering), asdict(plan.judging), num_partitions)
    digest = hashlib.sha256(repr(settings).encode())
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
    answers: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for part in parts:
        counts = json.loads((part / _COUNTS).read_bytes())
        answers.update(counts["answers"])
        judged.update(counts["judged"])
    run = RayRun(answers, judged, folder / RATINGS, folder / CALLS, folder / LEDGER, parts[0].parent)
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
        fn_constructor_args: tuple[Plan],
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
    # It prints a dozen lines every ten seconds; how far the work is, is told by who asked for it.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    try:
        yield cast("_RayData", data)
    finally:
        if not was_running:
            ray.shutdown()
