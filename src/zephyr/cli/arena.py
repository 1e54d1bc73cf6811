"""`zephyr arena`, `alpaca-eval` and `winrate`: models compared with each other or with a baseline by a judge."""

from dataclasses import replace
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
    Temperature,
    print_result,
)
from zephyr.cli.options import CapTokens, Concurrency, KeyEnv, Seed
from zephyr.cli.tables import print_rows
from zephyr.cli.terminal import Offline, can_go_on, quiet_libraries


def arena(  # noqa: PLR0913 - typer makes an option of every parameter
    model_a: Annotated[str, typer.Argument(metavar="A", help=MODEL_FORMS)],
    model_b: Annotated[str, typer.Argument(metavar="B", help="The model to compare it with, in the same forms.")],
    *,
    judge: JudgeName,
    out: OutFolder,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts: a file in any row format, or a hub id.")
    ] = None,
    mt_bench: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of MT-Bench; both turns are used.")
    ] = None,
    judge_prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="FastChat's judge_prompts.jsonl; default: Zephyr's own prompts.")
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
    """Let a judge compare two models, in both orders. Every call is stored; run again to continue."""
    quiet_libraries(offline=offline)
    from zephyr.evaluation.judged.arena import run_arena
    from zephyr.evaluation.judged.bench import parse_bench
    from zephyr.evaluation.judged.mt_bench import MT_BENCH_SAMPLING

    named = parse_bench([model_a, model_b], judge, out, api_key_env=api_key_env, concurrency=concurrency)
    bench = replace(named, data=mt_bench, limit=limit, seed=seed, offline=offline, cap_tokens=cap_tokens)
    sampling = MT_BENCH_SAMPLING.model_copy(update={"temperature": temperature, "max_new_tokens": max_new_tokens})
    with can_go_on():
        result = run_arena(bench, sampling=sampling, prompts=prompts, judge_prompts=judge_prompts, swap=swap)
    print_result(result, out, as_json=as_json)


def alpaca_eval(  # noqa: PLR0913 - typer makes an option of every parameter
    model: Model,
    *,
    judge: JudgeName,
    out: OutFolder,
    data: BenchData = None,
    version: Annotated[
        Literal["1", "2"], typer.Option(help="Baseline: text_davinci_003 (1) or gpt4_1106_preview (2).")
    ] = "2",
    judge_prompt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="AlpacaEval's prompt for this version; default: Zephyr's own."),
    ] = None,
    difficulty: Annotated[
        Path | None, typer.Option(metavar="FILE", help="AlpacaEval's instruction_difficulty.csv, for length control.")
    ] = None,
    gamed: Annotated[
        Path | None, typer.Option(metavar="FILE", help="AlpacaEval's df_gamed.csv, for length control.")
    ] = None,
    swap: Annotated[
        bool, typer.Option("--swap/--one-order", help="Show each pair in both orders, or only as published.")
    ] = True,
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
    """Compare a model with AlpacaEval's baseline. Every call is stored; run again to continue."""
    quiet_libraries(offline=offline)
    from zephyr.evaluation.judged.alpaca_eval import ALPACA_EVAL_SAMPLING, run_alpaca_eval
    from zephyr.evaluation.judged.bench import parse_bench
    from zephyr.evaluation.judged.bench_files import ALPACA_EVAL, bench_folder

    named = parse_bench([model], judge, out, api_key_env=api_key_env, concurrency=concurrency)
    data = bench_folder(ALPACA_EVAL, data, offline=offline)
    bench = replace(named, data=data, limit=limit, seed=seed, offline=offline, cap_tokens=cap_tokens)
    changed = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    with can_go_on():
        result = run_alpaca_eval(
            bench,
            version,
            sampling=ALPACA_EVAL_SAMPLING.model_copy(update=changed),
            judge_prompt=judge_prompt,
            difficulty=difficulty,
            gamed=gamed,
            swap=swap,
        )
    print_result(result, out, as_json=as_json)


def winrate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="AlpacaEval annotations: JSON or JSONL, also .gz.")],
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Only this model.")] = None,
    annotator: Annotated[str | None, typer.Option(metavar="NAME", help="Only this annotator's judgments.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show win rates of AlpacaEval annotations, with standard error and missing judgments."""
    from zephyr.evaluation.judged.alpaca_eval_files import choose_annotations, read_annotations, win_rates

    judged = read_annotations(file)
    rates = win_rates(judged, of=choose_annotations(judged, model=model, annotator=annotator))
    print_rows([rate._asdict() for rate in rates], as_json=as_json)
