"""`zephyr arena` and `zephyr alpaca-eval`: models compared with each other, or with a baseline, by a judge."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zephyr.cli.judged_options import (
    MODEL_FORMS,
    BenchData,
    JudgeName,
    Limit,
    LongestAnswer,
    Model,
    OutFolder,
    PrintJson,
)
from zephyr.cli.options import CapTokens, Concurrency, KeyEnv, Seed
from zephyr.cli.terminal import Offline, can_go_on, quiet_libraries

Temperature = Annotated[float, typer.Option(min=0, help="Of the answers; MT-Bench has its own by category.")]


def arena(  # noqa: PLR0913 - typer makes an option of every parameter
    model_a: Annotated[str, typer.Argument(metavar="A", help=MODEL_FORMS)],
    model_b: Annotated[str, typer.Argument(metavar="B", help="Its opponent, named in the same ways.")],
    *,
    judge: JudgeName,
    out: OutFolder,
    prompts: Annotated[str | None, typer.Option(metavar="FILE", help="Prompts of any shape, or a hub id.")] = None,
    mt_bench: Annotated[Path | None, typer.Option(metavar="DIR", help="Instead: MT-Bench's files, both turns.")] = None,
    judge_prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="FastChat's judge_prompts.jsonl; else our own wording.")
    ] = None,
    swap: Annotated[bool, typer.Option("--swap/--one-order", help="Show each pair in both orders.")] = True,
    temperature: Temperature = 0.7,
    max_new_tokens: LongestAnswer = 1024,
    limit: Limit = None,
    seed: Seed = 0,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    as_json: PrintJson = False,
    offline: Offline = False,
) -> None:
    """Have a judge compare two models, in both orders. Every call is kept; run again to go on where it stopped."""
    quiet_libraries(offline=offline)
    from zephyr.cli.arena_run import ArenaRun, run_arena
    from zephyr.cli.judged_printing import print_result
    from zephyr.evaluate.judged.mt_bench import MtBenchSettings
    from zephyr.pipeline.asked_teachers import TeacherOptions
    from zephyr.pipeline.judged_run import JudgedRun

    teachers = TeacherOptions(api_key_env, concurrency, offline, seed)
    run = ArenaRun(
        models=(model_a, model_b),
        shared=JudgedRun(judge, out, teachers, cap_tokens, limit),
        settings=MtBenchSettings(max_tokens=max_new_tokens, seed=seed),
        temperature=temperature,
        prompts=prompts,
        mt_bench=mt_bench,
        judge_prompts=judge_prompts,
        swap=swap,
    )
    with can_go_on():
        result, _ = run_arena(run)
    print_result(result, out, as_json=as_json)


def alpaca_eval(  # noqa: PLR0913 - typer makes an option of every parameter
    model: Model,
    *,
    judge: JudgeName,
    data: BenchData,
    out: OutFolder,
    version: Annotated[
        Literal["1", "2"], typer.Option(help="Against text_davinci_003 (1) or gpt4_1106_preview (2).")
    ] = "2",
    judge_prompt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="AlpacaEval's prompt for this version; else our own wording.")
    ] = None,
    difficulty: Annotated[
        Path | None, typer.Option(metavar="FILE", help="AlpacaEval's instruction_difficulty.csv, for length control.")
    ] = None,
    gamed: Annotated[
        Path | None, typer.Option(metavar="FILE", help="AlpacaEval's df_gamed.csv, for length control.")
    ] = None,
    swap: Annotated[bool, typer.Option("--swap/--one-order", help="Both orders, or the published one alone.")] = True,
    temperature: Temperature = 0.7,
    max_new_tokens: LongestAnswer = 2048,
    limit: Limit = None,
    seed: Seed = 0,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    as_json: PrintJson = False,
    offline: Offline = False,
) -> None:
    """Compare a model with AlpacaEval's baseline. Every call is kept; run again to go on where it stopped."""
    quiet_libraries(offline=offline)
    from zephyr.cli.judged_printing import print_result
    from zephyr.evaluate.judged.alpaca_eval import AnswerSettings
    from zephyr.pipeline.alpaca_eval_run import AlpacaEvalRun, run_alpaca_eval
    from zephyr.pipeline.asked_teachers import TeacherOptions
    from zephyr.pipeline.judged_run import JudgedRun

    run = AlpacaEvalRun(
        model=model,
        data=data,
        version=version,
        shared=JudgedRun(judge, out, TeacherOptions(api_key_env, concurrency, offline, seed), cap_tokens, limit),
        settings=AnswerSettings(max_new_tokens, temperature, seed=seed),
        judge_prompt=judge_prompt,
        difficulty=difficulty,
        gamed=gamed,
        swap=swap,
    )
    with can_go_on():
        result, _ = run_alpaca_eval(run)
    print_result(result, out, as_json=as_json)
