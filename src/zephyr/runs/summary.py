"""The end of a run: `summary.json`, and what is printed when all is done."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zephyr.atomic import replace_text
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.recipe.stage_sections import DELIVER, EVALUATE, POLICY_STAGES, REWARD
from zephyr.runs.layout import MODEL, REPORT, SAMPLES_FILE, SUMMARY
from zephyr.runs.stage_folder import StageRecord

SHOWN_SAMPLES = 3


@dataclass
class RunOutcome:
    """What a run has made: the folder and record of each stage, which of them were there before, and the time."""

    folder: Path
    folders: dict[str, Path] = field(default_factory=dict)
    records: dict[str, StageRecord] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0


def write_summary(recipe: Recipe, outcome: RunOutcome) -> dict[str, Plain]:
    """The summary of the run, after it has been written to its folder."""
    evaluated = outcome.records.get(EVALUATE)
    facts = evaluated.facts if evaluated is not None else {}
    summary: dict[str, Plain] = {
        "name": recipe.name,
        "scores": facts.get("scores", {}),
        "metrics": facts.get("metrics", {}),
        "benchmarks": facts.get("benchmarks", {}),
        "seconds": round(outcome.seconds, 1),
        "stage_seconds": {stage: record.seconds for stage, record in outcome.records.items()},
        "skipped_stages": list(outcome.skipped),
        "folders": {stage: folder.name for stage, folder in outcome.folders.items()},
        "model": str(last_model(outcome) or ""),
    }
    replace_text(outcome.folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def last_model(outcome: RunOutcome) -> Path | None:
    """The folder of the best model the run has made so far."""
    made = [outcome.folders[stage] / MODEL for stage in reversed(POLICY_STAGES) if stage in outcome.folders]
    return made[0] if made else None


def print_summary(console: Console, outcome: RunOutcome, summary: dict[str, Plain]) -> None:
    """Scores as a table, answers side by side, and what to type next."""
    scores = summary["scores"]
    if isinstance(scores, dict) and scores:
        console.print(_score_table(scores))
    benchmarks = summary["benchmarks"]
    if isinstance(benchmarks, dict) and benchmarks:
        console.print(_benchmark_table(benchmarks))
    metrics = summary["metrics"]
    for line in _held_out_lines(metrics if isinstance(metrics, dict) else {}):
        console.print(line, soft_wrap=True, highlight=False)
    for line in _sample_lines(outcome):
        console.print(line)
    report = outcome.folders.get(DELIVER)
    if report is not None:
        console.print(f"report  {escape(str(report / REPORT))}", soft_wrap=True)
    model = last_model(outcome)
    if model is not None:
        console.print(f"chat    zephyr chat {escape(str(model))}", soft_wrap=True)
    elif REWARD in outcome.folders:
        rewards = escape(str(outcome.folders[REWARD] / MODEL))
        console.print(f"measure zephyr reward-accuracy {rewards} PAIRS --out FOLDER", soft_wrap=True)


def _score_table(scores: dict[str, Plain]) -> Table:
    table = Table("model", "score", "95 % interval", "prompts")
    for name, score in scores.items():
        assert isinstance(score, dict), score
        low, high = score["low"], score["high"]
        table.add_row(name, f"{score['score']:.1%}", f"{low:.1%} to {high:.1%}", f"{score['n']}")
    return table


def _benchmark_table(benchmarks: dict[str, Plain]) -> Table:
    """A line a model and benchmark; of a judged one that lacks too many judgments no score."""
    table = Table("model", "benchmark", "score", "95 % interval", "n")
    for name, found in benchmarks.items():
        assert isinstance(found, dict), found
        for benchmark, told in found.items():
            assert isinstance(told, dict), told
            low, high, is_whole = told["low"], told["high"], told.get("label") != "incomplete"
            score = f"{told['score']:.2f}" if is_whole and told["score"] is not None else "incomplete"
            doubt = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
            table.add_row(name, benchmark, score, doubt, f"{told['n']}")
    return table


def _held_out_lines(metrics: dict[str, Plain]) -> Iterator[str]:
    """Perplexity of every model, and how often the aligned one prefers as the judge did, on rows held out."""
    told = (f"{name.split('/', 1)[1]} {metrics[name]:.4g}" for name in metrics if name.startswith("perplexity/"))
    if perplexities := ", ".join(told):
        yield f"held out  perplexity: {escape(perplexities)}"
    if "preference/accuracy" in metrics:
        low, high, pairs = (metrics[f"preference/{name}"] for name in ("accuracy_low", "accuracy_high", "pairs"))
        accuracy = f"{metrics['preference/accuracy']:.1%} ({low:.1%} to {high:.1%}), {pairs} pairs"
        yield f"held out  preference accuracy {accuracy}"


def _sample_lines(outcome: RunOutcome) -> list[str]:
    """Answers of every model to the first prompts that evaluate asked, or else those of the recipe."""
    folders = [outcome.folders[stage] for stage in (EVALUATE, DELIVER) if stage in outcome.folders]
    path = next((folder / SAMPLES_FILE for folder in folders if (folder / SAMPLES_FILE).exists()), None)
    if path is None:
        return []
    lines = []
    for sample in json.loads(path.read_bytes())[:SHOWN_SAMPLES]:
        lines.append(f"[bold]{escape(_one_line(sample['prompt']))}[/bold]")
        lines += [f"  {name}: {escape(_one_line(answer))}" for name, answer in sample["answers"].items()]
    return lines


def _one_line(text: str) -> str:
    """The text on a line of its own, control characters written out."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= 100 else f"{shown[:97]}..."
