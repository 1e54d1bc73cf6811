"""`zephyr judge`: answers rated by a judge."""

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.core import TyperGroup

from zephyr.cli.judge_audit import audit_command
from zephyr.cli.options import (
    TEACHER_HELP,
    AsJson,
    Aspects,
    BadRowsOption,
    CapTokens,
    Columns,
    Concurrency,
    Force,
    Ignore,
    JudgeTries,
    KeyEnv,
    LedgerFile,
    LongestReply,
    OutFile,
    RatingJudge,
    RowFormat,
    RubricOption,
    Seed,
    Where,
    judging_section,
)
from zephyr.cli.tables import print_accounts
from zephyr.cli.terminal import Offline, can_go_on, quiet_libraries
from zephyr.errors import DataError, TeacherError

if TYPE_CHECKING:
    from typer import Context

    from zephyr.data.read.sources import Records
    from zephyr.feedback.rate import RatingCounts, RatingPlan
    from zephyr.recipe.feedback_section import CandidatesSection, JudgeSection
    from zephyr.recipe.teacher_section import TeacherSection
    from zephyr.records.rows import Prompt, Rated

    Rows = list[Rated] | Records[Rated] | Records[Prompt]

RATE = "rate"
# Prompts per chunk: fewer than in a recipe, so that progress is shown often.
CHUNK = 256


class RateByDefault(TyperGroup):
    """A group in which `zephyr judge FILE` is short for `zephyr judge rate FILE`."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:  # type: ignore[override]
        """The arguments with the command before them. Raises DataError for a misspelt command."""
        if args and args[0] not in {*self.commands, "--help", "-h"}:
            meant = get_close_matches(args[0], self.commands, n=1)
            if meant and not Path(args[0]).exists():
                what = f"there is no command and no file of that name, got '{args[0]}'"
                raise DataError("zephyr judge", what, f"did you mean '{meant[0]}'?")
            args = [RATE, *args]
        return super().parse_args(ctx, args)


judge_group = typer.Typer(
    name="judge",
    cls=RateByDefault,
    no_args_is_help=True,
    help="Rate answers (zephyr judge FILE -o OUT), or measure how reliable a judge is (zephyr judge audit).",
)
judge_group.command("audit")(audit_command)

Models = Annotated[
    list[str] | None, typer.Option("--models", metavar="MODEL", help=f"Model that answers; repeatable: {TEACHER_HELP}")
]
Principles = Annotated[
    Literal["none", "readme", "code"],
    typer.Option(help="Add a principle to the system prompt, in one of UltraFeedback's two published proportions."),
]
RayWorkers = Annotated[
    int | None,
    typer.Option("--ray-workers", min=1, metavar="N", help="Distribute the work over workers of Ray (extra ray)."),
]
RayGpus = Annotated[float, typer.Option("--gpus-per-worker", min=0, help="GPUs reserved per worker.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts.")]


@judge_group.command(RATE)
def rate(  # noqa: PLR0913 - typer makes an option of every parameter
    file: Annotated[str, typer.Argument(help="Prompts with answers, or with --models prompts alone.")],
    *,
    out: OutFile,
    judge: RatingJudge,
    models: Models = None,
    num_answers: Annotated[int, typer.Option(min=1, help="Answers per prompt, with --models.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature of the answers.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer in tokens.")] = 256,
    principles: Principles = "none",
    aspects: Aspects = "all",
    rubric: RubricOption = None,
    tries: JudgeTries = 3,
    max_reply_tokens: LongestReply = 1024,
    limit: Limit = None,
    seed: Seed = 0,
    ledger: LedgerFile = None,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    ray_workers: RayWorkers = None,
    gpus_per_worker: RayGpus = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the requests, and send none.")] = False,
    shape: RowFormat = "auto",
    columns: Columns = None,
    where: Where = None,
    ignore: Ignore = None,
    bad_rows: BadRowsOption = "stop",
    force: Force = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Rate answers. Write ratings to OUT, and every call to a file beside it. Answered requests are not sent again."""
    quiet_libraries(offline=offline)
    # What reads and what rates take time to import: what is wrong in the line, then in the file, is told before.
    judging = judging_section(aspects, rubric, tries, max_reply_tokens)
    _check_options(ray_and_ledger=bool(ray_workers and ledger), dry_run_and_models=bool(dry_run and models))
    rater, pool, chunk = _teachers(judge, models, api_key_env, concurrency, CHUNK if ray_workers else None)
    from zephyr.cli.files import check_output, source_of
    from zephyr.feedback.opened_rows import open_answers, open_prompts

    check_output(out, force=force, read=file)
    source = source_of(file, shape=shape, columns=columns, where=where, ignore=ignore, bad_rows=bad_rows)
    rows, unused = (open_prompts if models else open_answers)(source, offline=offline)
    from zephyr.feedback.rate import RatingPlan
    from zephyr.feedback.raters import refuse_unchecked
    from zephyr.teachers.opening import TeacherContext

    _check_calls(out, file, force=force)
    refuse_unchecked(rows, rater, source)
    candidates = _candidates(pool, num_answers, temperature, max_new_tokens, principles)
    plan = RatingPlan(rater, judging, TeacherContext(seed, offline), candidates, min_answers=1, max_tokens=cap_tokens)
    plan = replace(plan, chunk_prompts=chunk, chunk_rows=chunk)
    ledger = ledger or out.with_suffix(".ledger.sqlite")
    with can_go_on():
        if dry_run:
            accounts = _count_requests(rows, limit, plan, ledger)
        elif ray_workers is None:
            accounts = _rate_here(rows, limit, plan, ledger, out, force=force)
        else:
            accounts = _rate_over_ray(rows, limit, plan, out, num_workers=ray_workers, gpus_per_worker=gpus_per_worker)
    to = "nothing (dry run)" if dry_run else str(out)
    print_accounts({"input": file, "output": to}, {**accounts, **unused}, as_json=as_json)
    _check_rated(accounts)


def _check_calls(out: Path, read: str, *, force: bool) -> None:
    """Check that the calls can be written beside the ratings. Raises DataError."""
    from zephyr.cli.files import check_output
    from zephyr.feedback.judge import calls_beside

    check_output(calls_beside(out), force=force, read=read)


def _teachers(
    judge: str, models: list[str] | None, api_key_env: str, concurrency: int, chunk: int | None
) -> "tuple[JudgeSection, list[TeacherSection], int]":
    """Who rates, who answers, and how many prompts are sent together; `chunk` says so where it is given."""
    from zephyr.recipe.feedback_section import teachers_that_rate
    from zephyr.teachers.opening import parse_judge, parse_teacher, prompts_together

    rater = parse_judge(judge, api_key_env=api_key_env, concurrency=concurrency)
    pool = [parse_teacher(name, api_key_env=api_key_env, concurrency=concurrency) for name in models or ()]
    return rater, pool, chunk or prompts_together(CHUNK, [*teachers_that_rate(rater).values(), *pool])


def _check_rated(accounts: Mapping[str, object]) -> None:
    """Check that a question was rated. Raises TeacherError with the reason that most tries failed for."""
    if accounts.get("rated") or not accounts.get("questions"):
        return
    from zephyr.teachers.ledger.file import open_file
    from zephyr.teachers.ledger.report import failed_tries

    with closing(open_file(Path(str(accounts["ledger"])), read_only=True)) as calls:
        reasons = failed_tries(calls, 1)
    why = reasons[0].error if reasons else "its replies hold no ratings; the calls file has the reason of each"
    what = f"rated nothing in {accounts['questions']} questions: {why}"
    raise TeacherError("--judge", what, "fix that, and run again")


def _candidates(
    teachers: "list[TeacherSection]", num_answers: int, temperature: float, max_new_tokens: int, principles: Principles
) -> "CandidatesSection | None":
    """How these models answer the prompts; None without any."""
    from zephyr.recipe.feedback_section import CandidatesSection
    from zephyr.recipe.teacher_section import SamplingSection

    if not teachers:
        return None
    sampling = SamplingSection(temperature=temperature, max_new_tokens=max_new_tokens)
    return CandidatesSection(
        num_completions=num_answers, models=[], teachers=teachers, sampling=sampling, principles=principles
    )


def _check_options(*, ray_and_ledger: bool, dry_run_and_models: bool) -> None:
    """Raise DataError for options that exclude each other."""
    if ray_and_ledger:
        raise DataError("--ledger", "every partition of --ray-workers has its own ledger", "leave it out")
    if dry_run_and_models:
        raise DataError(
            "--dry-run", "with --models there are no answers yet whose ratings could be counted", "leave --models out"
        )


def _rate_here(
    rows: "Rows", limit: int | None, plan: "RatingPlan", ledger: Path, out: Path, *, force: bool
) -> Mapping[str, object]:
    """Write the ratings and the calls in this process; return what is printed."""
    from zephyr.feedback.judge import calls_beside
    from zephyr.feedback.rate import rate_rows
    from zephyr.progress import show_progress
    from zephyr.teachers.ledger.ledger import Ledger

    # The teachers first: where one cannot be opened, no ledger is left behind.
    teachers = plan.open()
    names = Counter(one.teacher.name for one in teachers.pool)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise TeacherError("--models", f"two models have the same name, got '{twice[0]}' twice", "name each once")
    files = (out, calls_beside(out))
    with Ledger(ledger, plan.cap) as calls, show_progress("judge", min(len(rows), limit or len(rows))) as display:
        counts = rate_rows(islice(rows, limit), teachers, plan, calls, files, replace=force, on_row=display.update)
    return _accounts(counts, calls_beside(out), ledger)


def _rate_over_ray(
    rows: "Rows", limit: int | None, plan: "RatingPlan", out: Path, *, num_workers: int, gpus_per_worker: float
) -> Mapping[str, object]:
    """Write the ratings and the calls over Ray; partitions and ledgers are in a folder beside `out`."""
    from zephyr.feedback.judge import calls_beside
    from zephyr.feedback.ray_workers import rate_over_ray
    from zephyr.progress import show_progress
    from zephyr.recipe.feedback_section import RaySection

    section = RaySection(num_workers=num_workers, num_partitions=64, gpus_per_worker=gpus_per_worker)
    folder = out.with_suffix(".parts")
    folder.mkdir(exist_ok=True)
    with show_progress("partitions", section.num_partitions) as display:
        made = rate_over_ray(islice(rows, limit), plan, folder, section, on_part=lambda done, _of: display.update(done))
    made.calls.replace(calls_beside(out))
    made.ratings.replace(out)
    return _accounts(made.counts, calls_beside(out), made.ledger)


def _accounts(counts: "RatingCounts", calls: Path, ledger: Path) -> dict[str, object]:
    judged, prefix = counts.judged, "failed tries: "
    return {
        **{name: judged[name] for name in ("prompts", "questions", "rated", "failed", "asked")},
        "failed_tries": {name.removeprefix(prefix): count for name, count in judged.items() if name.startswith(prefix)},
        "answers": dict(counts.answers),
        "prompts_without_ratings": judged["prompts not asked about"],
        "calls": str(calls),
        "ledger": str(ledger),
    }


def _count_requests(rows: "Rows", limit: int | None, plan: "RatingPlan", ledger: Path) -> Mapping[str, object]:
    """The number of requests to the judge; none is sent, and no ledger is created."""
    from zephyr.feedback.rate import count_requests
    from zephyr.records.rows import Rated
    from zephyr.teachers.ledger.ledger import Ledger

    rated = (row for row in islice(rows, limit) if isinstance(row, Rated))
    with TemporaryDirectory(prefix="zephyr-") as empty:
        path = ledger if ledger.exists() else Path(empty) / "calls.sqlite"
        with Ledger(path) as calls:
            counts = count_requests(rated, plan, calls)
    return {"prompts": min(len(rows), limit or len(rows)), **counts}
