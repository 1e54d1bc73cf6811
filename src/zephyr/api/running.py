"""Whole recipes and benchmarks from Python: `zephyr.run` and `zephyr.evaluate`."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from zephyr.api.feedback import TeacherLike, teacher_section
from zephyr.api.inputs import OUTPUT_DIR, ModelLike, model_name
from zephyr.api.settings import Keywords, SettingValue, leaves, plain
from zephyr.api.training import TrainingResult
from zephyr.evaluation.results import AS_PUBLISHED
from zephyr.recipe.evaluate_section import HarnessTask
from zephyr.recipe.outline import Keys, dotted
from zephyr.recipe.overrides import Override
from zephyr.recipe.section import Plain
from zephyr.recipe.stage_sections import EVALUATE, POLICY_STAGES, REWARD
from zephyr.records.fields import Json
from zephyr.runs.disk import disk_faults
from zephyr.runs.layout import SUMMARY

if TYPE_CHECKING:
    from os import PathLike

    from pandas import DataFrame
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from zephyr.stages.stage import OnStep

# As in `zephyr.evaluation.harness.report`, whose package needs more than a recipe does.
_MAIN = "score"
_TASK: Keys = (EVALUATE, "tasks", 0)
EVALUATE_KEYWORDS = Keywords(
    "evaluate",
    [_TASK, ()],
    {
        ("model", "kind"): "pretrained",
        ("model", "name_or_path"): "model",
        (*_TASK, "name"): "harness",
        (*_TASK, "tasks"): ["task"],
        (*_TASK, "judge"): None,
    },
)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, the folders of its stages by name, and its summary."""

    folder: Path
    stages: Mapping[str, Path]

    @property
    def summary(self) -> dict[str, Plain]:
        """What `summary.json` holds: scores, seconds, folders."""
        found: dict[str, Plain] = json.loads((self.folder / SUMMARY).read_bytes())
        return found

    @property
    def training(self) -> TrainingResult:
        """The last stage that trained a model that writes, else the reward model. Raises ValueError if none did."""
        for stage in (*reversed(POLICY_STAGES), REWARD):
            if stage in self.stages:
                return TrainingResult(self.stages[stage])
        raise ValueError(f"no stage of this run trains a model, it has {', '.join(self.stages)}")

    @property
    def model_folder(self) -> Path:
        """The folder of the last trained model."""
        return self.training.model_folder

    @property
    def model(self) -> "PreTrainedModel":
        """The last trained model."""
        return self.training.model

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of the last trained model."""
        return self.training.tokenizer

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the last training."""
        return self.training.metrics

    @property
    def log(self) -> "DataFrame | list[dict[str, float]]":
        """The log of the last training."""
        return self.training.log


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of a model: `metrics` has the main one of each task and mean, `results` all of them with intervals."""

    folder: Path
    metrics: Mapping[str, float]
    results: Mapping[str, object]


def run(
    recipe: "str | PathLike[str]",
    *,
    until: str | None = None,
    only: str | None = None,
    on_step: "OnStep | None" = None,
    quiet: bool = False,
    **overrides: "SettingValue",
) -> RunResult:
    """The result of a recipe: a YAML file, the name of a shipped recipe, or a run.lock.json, as `zephyr run` takes it.

    `overrides`: settings by their dotted keys, as `**{"sft.train.learning_rate": 1e-5}`, with two underscores for a
    dot, or as nested mappings. Raises ZephyrError.
    """
    from zephyr.runs.lock_file import requested_run

    given = [
        Override(dotted(keys), one)
        for name, value in overrides.items()
        for keys, one in leaves(tuple(name.replace("__", ".").split(".")), plain(value, f"zephyr.run({name}=...)"))
    ]
    requested = requested_run(os.fspath(recipe), given, offline=False)
    from zephyr.pipeline import run_recipe, stage_keys

    chosen, console = requested.recipe, Console(quiet=quiet)
    for note in requested.notes:
        console.print(note, markup=False)
    with disk_faults(chosen.output_dir):
        summary = run_recipe(chosen, console=console, until=until, only=only, pinned=requested.pinned, on_step=on_step)
    folder, made = chosen.output_dir / chosen.name, summary.get("folders")
    if not isinstance(made, dict):  # on ranks other than 0
        made = {stage: key.folder_name for stage, key in stage_keys(chosen).items()}
    return RunResult(folder, {stage: folder / str(name) for stage, name in made.items()})


def evaluate(
    model: "ModelLike",
    tasks: "str | Sequence[str]",
    *,
    judge: "TeacherLike | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    **settings: SettingValue,
) -> EvaluationResult:
    """The scores of a model on benchmarks, as `zephyr eval` computes them.

    `settings`: the recipe's task `harness` of stage `evaluate`, and those of the whole run. Raises ZephyrError.
    """
    from zephyr.evaluation.benchmarks import run_benchmarks
    from zephyr.evaluation.harness.run import HarnessRun
    from zephyr.evaluation.judged.bench import JudgedBench, parse_contestant

    names: list[Plain] = [tasks] if isinstance(tasks, str) else list(tasks)
    data = {**EVALUATE_KEYWORDS.data, (*_TASK, "tasks"): names}
    if isinstance(judge, Mapping):
        data[*_TASK, "judge"] = plain(judge, "zephyr.evaluate(judge=...)")
    recipe = replace(EVALUATE_KEYWORDS, data=data).recipe({"name": "evaluate", "output_dir": OUTPUT_DIR, **settings})
    task, folder = recipe.evaluate.tasks[0] if recipe.evaluate is not None else None, recipe.output_dir / recipe.name
    assert isinstance(task, HarnessTask)
    if judge is not None and not isinstance(judge, Mapping):
        task = task.model_copy(update={"judge": teacher_section(judge, None, folder)})
    name, bench = model_name(model, tokenizer, folder), None
    if task.judge is not None:
        bench = JudgedBench(contestants=(parse_contestant(name),), judge=task.judge, out=folder, offline=recipe.offline)
    found = run_benchmarks(name, task, HarnessRun(folder, recipe.offline), bench)
    scores = {one.benchmark: _main_score(one.scores) for one in (*found.tasks.results, *found.judged)}
    metrics = {name: score for name, score in scores.items() if score is not None} | found.tasks.averages
    return EvaluationResult(folder, metrics, found.fields())


def _main_score(scores: Mapping[str, Json]) -> float | None:
    """The score that a benchmark is known by; None where nothing could be scored."""
    main = scores.get(_MAIN, scores.get(AS_PUBLISHED))
    value = main.get("score") if isinstance(main, dict) else None
    return float(value) if isinstance(value, int | float) else None
