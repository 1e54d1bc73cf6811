"""`zephyr plan`: estimated work, memory, time and cost of a recipe, stage by stage.

For accelerators all is computed, and on request a step of each training stage is simulated (`zephyr.simulation`). On
this machine a new model's stages are timed for some seconds instead. Where the run has been made, the actual times of
its stages are compared.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from zephyr.errors import ModelError, ResourceError
from zephyr.estimate.disk import room_for
from zephyr.estimate.duration import Cluster
from zephyr.estimate.lines import comparison_lines, model_line
from zephyr.estimate.model_shape import ModelShape
from zephyr.fastest import as_begun_here, in_dtype
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.rounds import first_round
from zephyr.recipe.schema import Recipe
from zephyr.runs.reader import seconds_taken
from zephyr.stages.pretrain import find_tokenizer
from zephyr.stages.preview import Preview
from zephyr.stages.start import model_shape
from zephyr.stages.synth import sample_rows
from zephyr.stages.table import STAGES


def plan_lines(
    recipe: Recipe, cluster: Cluster | None, *, calibration_seconds: float, simulated_ranks: int | None = None
) -> Iterator[str]:
    """The estimate of the run, line by line; without a cluster for this machine, calibrated for so many seconds.

    ``simulated_ranks``: also simulate a step of each training stage, on so many accelerators. Raises ModelError where
    the model's configuration cannot be read.
    """
    rounds, recipe = recipe.rounds, first_round(recipe)
    recipe = as_begun_here(recipe) if cluster is None else in_dtype(recipe, "bfloat16")
    with TemporaryDirectory(prefix="zephyr-plan-") as folder:
        preview = Preview(recipe, Path(folder), shape=model_shape(recipe), cluster=cluster)
        assert preview.shape is not None
        sample_rows(preview)
        with suppress(ModelError):  # public data sets whose lengths are known need no tokenizer
            find_tokenizer(preview, offline=True)
        yield f"{'model':<10}{model_line(preview.shape)}"
        if rounds is not None:
            yield f"{'rounds':<10}{rounds.count} at most; below is the first, on its part of the prompts"
        for stage in recipe.stages:
            yield from (f"{stage:<10}{line}" for line in STAGES[stage].estimate(preview))
        yield f"{'disk':<10}{disk_line(recipe, preview.shape, num_rounds=1 if rounds is None else rounds.count)}"
        if simulated_ranks is not None:
            yield from _simulated(preview, simulated_ranks)
        elif cluster is None:
            estimated = _seconds(preview, calibration_seconds)
            actual = seconds_taken(recipe.output_dir / recipe.name, recipe.stages)
            yield from (f"{'time':<10}{line}" for line in comparison_lines(estimated, actual, calibration_seconds))


def _simulated(preview: Preview, num_ranks: int) -> Iterator[str]:
    """The lines of simulated steps."""
    from zephyr.simulation import simulation_lines

    device = None if preview.cluster is None else preview.cluster.device
    for stage, sampled in preview.sampled.items():
        lines = simulation_lines(preview.recipe, sampled.workload, num_ranks=num_ranks, device=device)
        yield from (f"{stage:<10}{line}" for line in lines)


def disk_line(recipe: Recipe, shape: ModelShape, *, num_rounds: int) -> str:
    """The space on the disk that a run takes, all rounds of it, and whether it is there."""
    try:
        return room_for(recipe, shape.parameters, num_rounds=num_rounds).line()
    except ResourceError as error:
        return str(error)


def _seconds(preview: Preview, seconds: float) -> dict[str, float]:
    """Estimated seconds of every stage on this machine; empty where the model is not a new one."""
    recipe, tokenizer = preview.recipe, preview.tokenizer
    timed = {stage: sampled for stage, sampled in preview.sampled.items() if sampled.examples}
    if not isinstance(recipe.model, NewModel) or tokenizer is None or not timed:
        return {}
    import torch

    from zephyr.calibration import estimated_seconds
    from zephyr.models.new_model import new_model

    sizes = recipe.model.model_dump(exclude={"kind", "architecture", "vocab_size"})
    model = new_model(recipe.model.architecture, sizes, tokenizer, seed=recipe.seed, dtype=torch.float32)
    return estimated_seconds(recipe, model, timed, seconds=seconds)
