"""The feedback stage over a Ray cluster: prompts in partitions, workers with their own teachers, results merged.

What is asked, and what comes out, is the same as in one process; the order of rows is that of the partitions. A
partition is rated by one worker at a time, keeps a ledger of its own, and is finished when its ratings are there,
so that a run that was stopped goes on with what is missing. The folder must be one that all workers see.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from zephyr.atomic import replace_text
from zephyr.errors import TeacherError
from zephyr.feedback.candidates import CandidateSettings, answer_prompts
from zephyr.feedback.judge import JudgeSettings, judge
from zephyr.feedback.judged_files import CALLS, without_ratings, write_judged
from zephyr.records.fields import Json, Row
from zephyr.records.reading import read_rows
from zephyr.records.rows import Prompt, Rated, prompt_id
from zephyr.records.shapes import convert
from zephyr.records.writing import to_fields, write_jsonl
from zephyr.teachers.ledger import Ledger
from zephyr.teachers.ledger_merge import merge_ledgers
from zephyr.teachers.ledgered import LedgeredTeacher
from zephyr.teachers.protocol import Teacher

RATINGS = "ratings.jsonl"
LEDGER = "calls.sqlite"
_INPUT = "input.jsonl"
_COUNTS = "counts.json"


class Opened(NamedTuple):
    """A teacher, and the name under which its answers are kept in ledgers."""

    teacher: Teacher
    identity: str


class Opener(NamedTuple):
    """How a worker opens a teacher; `name` tells apart those that rate differently."""

    name: str
    open: Callable[[], Opened]


@dataclass(frozen=True)
class Cast:
    """Who answers, if answers are missing, and who rates; each is opened once in every worker."""

    rater: Opener
    pool: tuple[Opener, ...] = ()


@dataclass(frozen=True)
class RaySettings:
    """How the work is shared."""

    num_workers: int = 2
    num_partitions: int = 16
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0


class RayRun(NamedTuple):
    """The counts of all partitions together, and the merged files."""

    counts: Counter[str]
    ratings: Path
    calls: Path
    ledger: Path


@dataclass(frozen=True)
class _Plan:
    """What a worker needs to know besides a partition's folder."""

    cast: Cast
    answering: CandidateSettings
    judging: JudgeSettings


def rate_over_ray(
    rows: Iterable[Prompt | Rated],
    cast_: Cast,
    folder: Path,
    *,
    answering: CandidateSettings,
    judging: JudgeSettings,
    sharing: RaySettings,
) -> RayRun:
    """The ratings of all rows, in `folder`. Ray is started on this machine if it is not running yet."""
    plan = _Plan(cast_, answering, judging)
    parts = _partition(rows, folder, plan, sharing.num_partitions)
    items = [{"part": str(part)} for part in parts if not (part / RATINGS).exists()]
    if items:
        data = _started()
        data.from_items(items, override_num_blocks=len(items)).map(
            _PartRater,
            fn_constructor_args=(plan,),
            concurrency=min(sharing.num_workers, len(items)),
            num_cpus=sharing.cpus_per_worker,
            num_gpus=sharing.gpus_per_worker,
        ).take_all()
    return _merged(parts, folder)


class _PartRater:
    """What runs in a worker: its teachers stay open from one partition to the next."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._rater = plan.cast.rater.open()
        self._pool = [opener.open() for opener in plan.cast.pool]

    def __call__(self, item: dict[str, str]) -> dict[str, str]:
        rate_part(Path(item["part"]), self._rater, self._pool, self._plan.answering, self._plan.judging)
        return item


def rate_part(
    part: Path, rater: Opened, pool: Sequence[Opened], answering: CandidateSettings, judging: JudgeSettings
) -> None:
    """Nothing; the partition's folder holds its ratings, calls, ledger and counts."""
    counts: Counter[str] = Counter()
    with Ledger(part / LEDGER) as ledger:
        asked = [LedgeredTeacher(one.teacher, ledger, identity=one.identity) for one in (rater, *pool)]
        rows = _answered(part, asked[1:], answering, counts)
        counts += write_judged(
            judge(rows, asked[0], judging), rater.teacher.name, part / "rated.jsonl", part / CALLS, replace=True
        )
    replace_text(part / _COUNTS, json.dumps(counts))
    # Under its own name only now: what is there is finished.
    (part / "rated.jsonl").rename(part / RATINGS)


def _answered(
    part: Path, pool: Sequence[Teacher], answering: CandidateSettings, counts: Counter[str]
) -> Iterator[Rated]:
    if not pool:
        for row in _rows(part):
            assert isinstance(row, Rated)
            yield without_ratings(row)
        return
    prompts = (Prompt(row.name, row.prompt, row.source, row.knowledge) if isinstance(row, Rated) else row
               for row in _rows(part))  # fmt: skip
    for found in answer_prompts(prompts, pool, answering):
        counts.update({f"answers: {name}": count for name, count in found.counts.items()})
        yield found.rated


def _rows(part: Path) -> Iterator[Prompt | Rated]:
    for line in read_rows(part / _INPUT):
        fields = cast("dict[str, Json]", line.fields["row"])
        row = Row(str(line.fields["name"]), fields)
        found = convert(row, "rated", "rated") if "answers" in fields else convert(row, "prompt", "prompt")
        assert isinstance(found, Prompt | Rated)
        yield found


def _partition(rows: Iterable[Prompt | Rated], folder: Path, plan: _Plan, num_partitions: int) -> list[Path]:
    """The folders of the partitions that are not empty; equal prompts fall into the same one."""
    lines: list[list[Mapping[str, Json]]] = [[] for _ in range(num_partitions)]
    names = [opener.name for opener in (plan.cast.rater, *plan.cast.pool)]
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
            parts.append(part)
    return parts


def _merged(parts: Sequence[Path], folder: Path) -> RayRun:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(json.loads((part / _COUNTS).read_bytes()))
    run = RayRun(counts, folder / RATINGS, folder / CALLS, folder / LEDGER)
    merge_ledgers([part / LEDGER for part in parts], run.ledger)
    for name, whole in ((CALLS, run.calls), (RATINGS, run.ratings)):
        lines = (row.fields for part in parts if (part / name).stat().st_size for row in read_rows(part / name))
        write_jsonl(whole, lines, replace=True)
    return run


class _Dataset(Protocol):
    """What is used here of a ray.data.Dataset."""

    def map(
        self,
        fn: type[_PartRater],
        *,
        fn_constructor_args: tuple[_Plan],
        concurrency: int,
        num_cpus: float,
        num_gpus: float,
    ) -> _Dataset: ...

    def take_all(self) -> list[dict[str, str]]: ...


class _RayData(Protocol):
    """What is used here of the module ray.data."""

    def from_items(self, items: list[dict[str, str]], *, override_num_blocks: int) -> _Dataset: ...


def _started() -> _RayData:
    """Ray's data module, with Ray running: where RAY_ADDRESS says, or on this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray, data = importlib.import_module("ray"), importlib.import_module("ray.data")
    except ImportError as error:
        raise TeacherError("ray", "is not installed", 'pip install "zephyr-align[ray]"') from error
    if not ray.is_initialized():
        local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        ray.init(log_to_driver=False, **local)
    return cast("_RayData", data)
