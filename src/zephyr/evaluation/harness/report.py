"""The scores of an evaluation as results that can be compared, a folder a task, and as a table.

Scores are in percent here, as the field prints them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from zephyr.atomic import replace_text
from zephyr.evaluation.harness.evaluation import Score, TaskScores, of_group
from zephyr.evaluation.harness.profiles import PROFILES, main_metric, notes_of
from zephyr.evaluation.harness.tasks import MMLU
from zephyr.evaluation.results import Item, ItemKind, Result, write_result
from zephyr.records.fields import Json

# The score that a task is known by, under the name by which runs are compared.
MAIN = "score"
SAMPLES_FOLDER = "samples"
EVALUATION = "evaluation.json"
# What may differ between the members of a group, and is not the group's.
_OF_MEMBERS = ("prompt", "prompt_sha256", "data_sha256")

_Line = tuple[str, ...]


class HarnessResults(NamedTuple):
    """The names that were requested, the result of each task or group, and the means of the profiles, in percent."""

    requested: tuple[str, ...]
    results: list[Result]
    averages: dict[str, float]


def harness_results(
    names: Sequence[str], found: Mapping[str, TaskScores], *, model: str, facts: Mapping[str, Json]
) -> HarnessResults:
    """The results of the tasks and profiles `names`; `facts` are of the model, and go into every protocol."""
    results: list[Result] = []
    subjects = {name: one for name, one in found.items() if one.requested_as == MMLU}
    for name, one in found.items():
        if name not in subjects:
            results.append(_result(name, one.scores, {name: one}, model=model, facts=facts))
        elif name == next(iter(subjects)):
            means = of_group({name: one.scores["acc"] for name, one in subjects.items()})
            scores = {f"acc/{kind}": score for kind, score in means.items()}
            scores |= {name: one.scores["acc"] for name, one in subjects.items()}
            results.append(_result(MMLU, scores, subjects, model=model, facts=facts))
    return HarnessResults(tuple(names), results, _averages(names, results))


def _result(
    task: str, scores: Mapping[str, Score], members: Mapping[str, TaskScores], *, model: str, facts: Mapping[str, Json]
) -> Result:
    main = main_metric(task, list(scores))
    by_member = {name: one.protocol for name, one in members.items()}
    (first, own), *others = by_member.items()
    notes: list[Json] = [*notes_of(task)]
    protocol: dict[str, Json] = {**facts, **own, "metric": main, "notes": notes}
    if others:
        protocol |= {key: {name: one[key] for name, one in by_member.items()} for key in _OF_MEMBERS}
    fields: dict[str, Json] = {MAIN: _percents(scores[main]), **{name: _percents(one) for name, one in scores.items()}}
    metric = main if first == task else main.partition("/")[0]
    items = [item for name, one in members.items() for item in _items(task, name, one, metric)]
    return Result(task, model, protocol, fields, items)


def _items(task: str, member: str, found: TaskScores, metric: str) -> list[Item]:
    """The values of the metric by document, where it has one value a document."""
    name, _, chosen = metric.partition("/")
    items = []
    for sample in found.samples:
        values = sample["metrics"]
        assert isinstance(values, dict)
        value = values.get(name)
        if sample["filter"] == (chosen or "none") and isinstance(value, int | float):
            document = f"{member} {sample['document']}"
            kind: ItemKind = "accuracy" if value in (0, 1) else "judged"
            items.append(Item(task, document, document, member, float(value), kind))
    # Shares of a document that happen to be 0 or 1 are no verdicts.
    return items if all(item.kind == "accuracy" for item in items) else [one._replace(kind="judged") for one in items]


def _averages(names: Sequence[str], results: Sequence[Result]) -> dict[str, float]:
    """The means that the named profiles show; none of which a task is missing or only tried."""
    whole = [result for result in results if result.protocol["limit"] is None]
    scores = {result.benchmark: _score(result.scores[MAIN]) for result in whole}
    return {
        title: sum(scores[task] for task in tasks) / len(tasks)
        for name in names
        for title, tasks in (PROFILES[name].averages if name in PROFILES else ())
        if scores.keys() >= set(tasks)
    }


def save_results(found: HarnessResults, scores: Mapping[str, TaskScores], folder: Path) -> None:
    """Write a result for each task, every document's answers, and the whole in one file."""
    for result in found.results:
        write_result(folder / result.benchmark, result)
    (folder / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
    for name, one in scores.items():
        lines = "".join(f"{json.dumps(sample, ensure_ascii=False)}\n" for sample in one.samples)
        replace_text(folder / SAMPLES_FOLDER / f"{name}.jsonl", lines)
    replace_text(folder / EVALUATION, json.dumps(as_json(found), indent=1, ensure_ascii=False) + "\n")


def as_json(found: HarnessResults) -> dict[str, Json]:
    """Everything but the values of the documents."""
    tasks: dict[str, Json] = {
        result.benchmark: {"scores": dict(result.scores), "protocol": dict(result.protocol)} for result in found.results
    }
    model = found.results[0].model if found.results else ""
    return {"model": model, "asked": [*found.requested], "tasks": tasks, "averages": dict(found.averages)}


def results_table(found: HarnessResults) -> str:
    """The scores with their intervals, one marked by which the task is known, and what is to be said of them."""
    rows: list[_Line] = [("task", "shots", "chat", "metric", "score", "95 % interval", "n")]
    said: dict[str, None] = {}
    for result in found.results:
        rows += _rows(result)
        said.update(dict.fromkeys(f"{result.benchmark}: {note}" for note in result.notes))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{title}: {value:.2f}" for title, value in found.averages.items()]
    return "\n".join([*lines, *said])


def _rows(result: Result) -> list[_Line]:
    """A line a score; of a group's members none."""
    protocol = result.protocol
    rows: list[_Line] = []
    shown = {metric: score for metric, score in result.scores.items() if metric != MAIN and not metric.startswith(MMLU)}
    for metric, score in shown.items():
        assert isinstance(score, dict)
        interval = f"{score['low']:.2f} to {score['high']:.2f}" if isinstance(score["low"], float) else ""
        mark = "*" if metric == protocol["metric"] and len(shown) > 1 else ""
        chat = "on" if protocol["chat_template"] else "off"
        shots = str(protocol["num_fewshot"])
        rows.append((result.benchmark, shots, chat, metric + mark, f"{_score(score):.2f}", interval, str(score["n"])))
    return rows


def _score(fields: Json) -> float:
    assert isinstance(fields, dict)
    score = fields["score"]
    assert isinstance(score, float)
    return score


def _percents(score: Score) -> dict[str, Json]:
    return {
        name: round(100 * value, 6) if isinstance(value, float) else value for name, value in score._asdict().items()
    }
