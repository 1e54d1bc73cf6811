"""`zephyr check`: validate a recipe and its inputs; count tokens, steps and truncated rows; list the output files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from zephyr.recipe.model_section import NewModel
from zephyr.recipe.rounds import first_round
from zephyr.recipe.schema import Recipe
from zephyr.runs.disk import writable_folder
from zephyr.runs.layout import LOCK_FILE, STAGE_FILE, SUMMARY
from zephyr.stages.pretrain import find_tokenizer
from zephyr.stages.preview import Preview
from zephyr.stages.start import model_shape
from zephyr.stages.synth import sample_rows
from zephyr.stages.table import STAGES
from zephyr.stages.training import REFERENCE


def check_lines(recipe: Recipe) -> Iterator[str]:
    """The findings, line by line. Raises at the end one error with all that would stop the run before training."""
    rounds, title = recipe.rounds, f"{recipe.name}: {', '.join(recipe.stages)}"
    recipe = first_round(recipe)
    if recipe.asks_for_fastest:
        from zephyr.fastest import as_begun_here  # measures, for which it imports torch

        recipe = as_begun_here(recipe)
    with TemporaryDirectory(prefix="zephyr-check-") as folder:
        preview = Preview(recipe, Path(folder))
        yield from _titled("recipe", [title])
        if rounds is not None:
            yield from _titled("rounds", [f"{rounds.count} at most; below is the first, on its part of the prompts"])
        sample_rows(preview)
        yield from _titled("model", _model_lines(preview))
        for stage in recipe.stages:
            yield from _titled(stage, STAGES[stage].check(preview))
        yield from _titled("disk", _disk_lines(preview, num_rounds=1 if rounds is None else rounds.count))
    run_folder = recipe.output_dir / recipe.name
    written = [
        f"{run_folder / f'{stage}-*'}: {', '.join([*STAGES[stage].outputs(recipe), STAGE_FILE])}"
        for stage in recipe.stages
    ]
    yield from _titled("writes", [*written, f"{run_folder}: {', '.join(_run_files(recipe))}"])
    preview.problems.raise_any()


def _model_lines(preview: Preview) -> Iterator[str]:
    """A line on the base model."""
    with preview.problems.noted():
        yield find_tokenizer(preview)


def _disk_lines(preview: Preview, *, num_rounds: int) -> Iterator[str]:
    """The space on the disk, for all rounds."""
    recipe = preview.recipe
    with preview.problems.noted():
        writable_folder(recipe.output_dir)
        if not isinstance(recipe.model, NewModel) and preview.tokenizer is not None:
            from zephyr.estimate.disk import room_for

            yield room_for(recipe, model_shape(recipe).parameters, num_rounds=num_rounds).line()


def _run_files(recipe: Recipe) -> list[str]:
    """The names in the run's folder, besides those of the stages."""
    has_reference = recipe.align is not None and recipe.align.objective.needs_reference
    return [LOCK_FILE, SUMMARY, *([f"{REFERENCE}/"] if has_reference else [])]


def _titled(title: str, lines: Iterable[str]) -> Iterator[str]:
    return (f"{title:<10}{line}" for line in lines)
