"""A stage of a run as one record: what it reads and writes, its check, its estimate and its run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from zephyr.recipe.data_section import DataSource
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.runs.stage_folder import Facts
from zephyr.stages.preview import Preview

OnStep: TypeAlias = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Work:
    """What a stage is made from: the recipe, its own folder, and the finished folders of the stages it reads.

    ``on_step`` is called by a stage that trains, on rank 0, with every line of its log: the step and its metrics.
    """

    recipe: Recipe
    stage: str
    folder: Path
    inputs: Mapping[str, Path]
    run_folder: Path
    on_step: OnStep | None = None


def _nothing_else(_recipe: Recipe) -> dict[str, Plain]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run. Its file in `zephyr.stages` fills this in with plain functions of that file.

    ``reads``: the earlier stages whose results it takes, if the recipe has them. ``sources``: its data from outside,
    whose content is part of its hash. ``outputs``: the names in its finished folder, folders with a slash behind.
    ``check``: lines about its inputs and its work before the run, mistakes go to ``preview.problems``. ``estimate``:
    lines about work, memory, time and cost. ``preflight``: facts about inputs from outside, looked at before the first
    stage of a run begins. ``run``: makes the stage in ``work.folder`` and returns the facts to remember. ``version`` is
    raised when the code begins to make something else of the same settings. ``depends_on``: settings outside the
    stage's own section that its result depends on, beside the seed, by their key in the recipe. ``trains``: every rank
    takes part; the other stages depend on the dtype in which models answer, too.
    """

    name: str
    version: int
    reads: Callable[[Recipe], tuple[str, ...]]
    sources: Callable[[Recipe], Sequence[DataSource]]
    outputs: Callable[[Recipe], list[str]]
    check: Callable[[Preview], Iterator[str]]
    estimate: Callable[[Preview], Iterator[str]]
    preflight: Callable[[Work], Facts]
    run: Callable[[Work], Facts]
    depends_on: Callable[[Recipe], dict[str, Plain]] = _nothing_else
    trains: bool = False
