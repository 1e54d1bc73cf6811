"""`zephyr judge`: answers rated by a judge, and judges put to the test."""

import json
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.core import TyperGroup

from zephyr.cli.feedback import tell
from zephyr.cli.options import (
    TEACHER_FORMS,
    AsJson,
    BadRows,
    CapTokens,
    Concurrency,
    Force,
    KeyEnv,
    LedgerFile,
    OutFile,
    Seed,
)
from zephyr.cli.terminal import Offline, can_go_on, quiet_libraries
from zephyr.errors import DataError

if TYPE_CHECKING:
    from typer import Context


RATE = "rate"


class RateByDefault(TyperGroup):
    """A group in which `zephyr judge FILE` is short for `zephyr judge rate FILE`."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in {*self.commands, "--help"}:
            meant = get_close_matches(args[0], self.commands, n=1)
            if meant and not Path(args[0]).exists():
                what = f"there is no command and no file of that name, got '{args[0]}'"
                raise DataError("zephyr judge", what, f"did you mean '{meant[0]}'?")
            args = [RATE, *args]
        return super().parse_args(ctx, args)


judge = typer.Typer(
    name="judge",
    cls=RateByDefault,
    no_args_is_help=True,
    help="Rate answers (zephyr judge FILE -o OUT), or put a judge to the test (zephyr judge audit).",
)

Models = Annotated[
    list[str] | None, typer.Option("--models", metavar="MODEL", help=f"Who answers, once for each: {TEACHER_FORMS}")
]
Principles = Annotated[
    Literal["none", "readme", "code"],
    typer.Option(help="Tell models what to aim at, by one of UltraFeedback's two published mixtures."),
]
Judge = Annotated[str, typer.Option("--judge", metavar="JUDGE", help=f"Who rates: {TEACHER_FORMS}")]
Aspects = Annotated[
    str,
    typer.Option(help="What is rated: all, or some of instruction_following,honesty,truthfulness,helpfulness,overall."),
]
LongestReply = Annotated[int, typer.Option(min=1, help="Longest reply of the judge in tokens.")]
RayWorkers = Annotated[
    int | None,
    typer.Option("--ray-workers", min=1, metavar="N", help="Share the work among workers of Ray (extra ray)."),
]
RayGpus = Annotated[float, typer.Option("--gpus-per-worker", min=0, help="GPUs that Ray sets aside for a worker.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")]


@judge.command(RATE)
def rate(  # noqa: PLR0913 - typer makes an option of every parameter
    file: Annotated[str, typer.Argument(help="Prompts with answers, or prompts alone together with --models.")],
    *,
    out: OutFile,
    judge: Judge,
    models: Models = None,
    num_answers: Annotated[int, typer.Option(min=1, help="Answers a prompt gets from --models.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="Of the answers.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 256,
    principles: Principles = "none",
    aspects: Aspects = "all",
    tries: Annotated[int, typer.Option(min=1, help="Tries of a question whose reply cannot be read.")] = 3,
    max_reply_tokens: LongestReply = 1024,
    limit: Limit = None,
    seed: Seed = 0,
    ledger: LedgerFile = None,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    ray_workers: RayWorkers = None,
    gpus_per_worker: RayGpus = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how much is to be asked, and ask nothing.")] = False,
    shape: Annotated[str, typer.Option(help="Shape of the rows, if it is not plain.")] = "auto",
    bad_rows: BadRows = "stop",
    force: Force = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Rate answers; writes OUT, and every call beside it. What was answered before is not asked again."""
    quiet_libraries(offline=offline)
    from zephyr.cli.feedback_files import asked_aspects, open_prompts_or_answers, refuse_place
    from zephyr.cli.judge_run import JudgeRun, forecast, ledger_beside, run_judge
    from zephyr.feedback.candidates import CandidateSettings
    from zephyr.feedback.judge import JudgeSettings
    from zephyr.feedback.judged_files import calls_beside
    from zephyr.feedback.ray_stage import RaySettings
    from zephyr.pipeline.asked_teachers import TeacherOptions

    refuse_place(out, force=force, read=file)
    refuse_place(calls_beside(out), force=force, read=file)
    answering = CandidateSettings(num_answers, temperature, max_tokens=max_new_tokens, seed=seed, chunk_prompts=256)
    answering = replace(answering, principles=None if principles == "none" else principles)
    sharing = None if ray_workers is None else RaySettings(ray_workers, 64, gpus_per_worker=gpus_per_worker)
    judging = JudgeSettings(asked_aspects(aspects), tries, min_answers=1, max_tokens=max_reply_tokens, seed=seed)
    run = JudgeRun(
        rows=open_prompts_or_answers(file, answered=not models, shape=shape, bad_rows=bad_rows, offline=offline),
        limit=limit,
        judge=judge,
        models=tuple(models or ()),
        answering=answering,
        judging=judging,
        teachers=TeacherOptions(api_key_env, concurrency, offline, seed),
        ledger=ledger_beside(out, ledger, sharing),
        cap_tokens=cap_tokens,
        sharing=sharing,
    )
    with can_go_on():
        accounts = forecast(run) if dry_run else run_judge(run, out, force=force)
    tell({"input": file, "output": "nothing (dry run)" if dry_run else str(out)}, accounts, as_json=as_json)


@judge.command("audit")
def audit(  # noqa: PLR0913 - typer makes an option of every parameter
    *,
    judge: Judge,
    llmbar: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of LLMBar's JSON files.")] = None,
    pandalm: Annotated[Path | None, typer.Option(metavar="FILE", help="PandaLM's test set.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items of each, drawn by chance.")] = None,
    aspects: Aspects = "all",
    tries: Annotated[int, typer.Option(min=1, help="Tries of a question whose reply cannot be read.")] = 3,
    max_reply_tokens: LongestReply = 1024,
    seed: Seed = 0,
    ledger: LedgerFile = None,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Measure a judge: consistency, biases, what it misses, agreement with labels; else on the closed world."""
    quiet_libraries(offline=offline)
    from zephyr.cli.feedback_files import asked_aspects
    from zephyr.cli.judge_audit import AuditRun, audit_fields, print_audit, run_audit
    from zephyr.feedback.judge import JudgeSettings
    from zephyr.pipeline.asked_teachers import TeacherOptions

    run = AuditRun(
        judge=judge,
        llmbar=llmbar,
        pandalm=pandalm,
        limit=limit,
        judging=JudgeSettings(aspects=asked_aspects(aspects), num_tries=tries, max_tokens=max_reply_tokens, seed=seed),
        teachers=TeacherOptions(api_key_env, concurrency, offline, seed),
        ledger=ledger,
        cap_tokens=cap_tokens,
    )
    with can_go_on("the same command goes on from here" if ledger else "with --ledger FILE it could go on from here"):
        found = run_audit(run)
    if as_json:
        typer.echo(json.dumps(audit_fields(judge, found)))
    else:
        print_audit(judge, found)
