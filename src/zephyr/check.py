"""`zephyr check`: validate a recipe and its inputs; count tokens, steps and truncated rows; list the output files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from zephyr.data.read.hub import is_hub_id
from zephyr.errors import ModelError
from zephyr.estimate.disk import room_for
from zephyr.models.source import Source, resolved_revision
from zephyr.models.tokenizers import load_tokenizer
from zephyr.recipe.conflicts import STAGE_REFERENCE
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import PRETRAIN
from zephyr.recipe.teacher_section import LocalSection
from zephyr.runs.disk import writable_folder
from zephyr.runs.layout import LOCK_FILE, STAGE_FILE, SUMMARY
from zephyr.stages.pretrain import byte_tokenizer, learn_run_tokenizer
from zephyr.stages.preview import NOT_READ_OFFLINE, Preview
from zephyr.stages.start import base_source, model_shape
from zephyr.stages.synth import sample_rows
from zephyr.stages.table import STAGES
from zephyr.stages.training import REFERENCE


def check_lines(recipe: Recipe) -> Iterator[str]:
    """The findings, line by line. Raises at the end one error with all that would stop the run before training."""
    with TemporaryDirectory(prefix="zephyr-check-") as folder:
        preview = Preview(recipe, Path(folder))
        yield from _titled("recipe", [f"{recipe.name}: {', '.join(recipe.stages)}"])
        sample_rows(preview)
        yield from _titled("model", model_lines(preview))
        for stage in recipe.stages:
            yield from _titled(stage, STAGES[stage].check(preview))
        yield from _titled("disk", _disk_lines(preview))
    run_folder = recipe.output_dir / recipe.name
    written = [
        f"{run_folder / f'{stage}-*'}: {', '.join([*STAGES[stage].outputs(recipe), STAGE_FILE])}"
        for stage in recipe.stages
    ]
    yield from _titled("writes", [*written, f"{run_folder}: {', '.join(_run_files(recipe))}"])
    preview.problems.raise_any()


def model_lines(preview: Preview) -> Iterator[str]:
    """Lines on the base model and the other models that are named; the preview then has the run's tokenizer."""
    recipe, shape = preview.recipe, preview.recipe.model
    with preview.problems.noted():
        if not isinstance(shape, NewModel):
            preview.tokenizer = load_tokenizer(base_source(recipe))
            yield f"{shape.name_or_path}, a vocabulary of {len(preview.tokenizer):,}"
        elif recipe.pretrain is not None and (recipe.pretrain.data.sources or PRETRAIN in preview.made):
            made = preview.made[PRETRAIN].file.parent if PRETRAIN in preview.made else None
            preview.tokenizer = learn_run_tokenizer(recipe, shape, made=made)
            yield f"new, with a vocabulary of {len(preview.tokenizer):,} learnt from the texts of pretrain"
        else:
            preview.tokenizer, preview.counts_bytes = byte_tokenizer(shape), True
            yield "new, with a tokenizer of its own; until that is learnt, bytes are counted as tokens"
    for key, name in _named_models(recipe):
        with preview.problems.noted():
            yield f"{key}: {name}{_unread(Source(name, offline=recipe.offline))}"


def _unread(source: Source) -> str:
    """A note for a hub model that is not checked offline. Raises ModelError if the model does not exist."""
    try:
        resolved_revision(source)
    except ModelError:
        if not (source.offline and is_hub_id(source.name)):
            raise
        return f", {NOT_READ_OFFLINE}"
    return ""


def _named_models(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The external models besides the base model, each with its key in the recipe."""
    if recipe.align is not None and recipe.align.start is not None:
        yield "align.start", recipe.align.start
    feedback = recipe.feedback
    if feedback is None or feedback.recorded:
        return
    named = [("feedback.candidates", name) for name in feedback.candidates.models]
    teachers = [
        *(("feedback.candidates", one) for one in feedback.candidates.teachers),
        ("feedback.judge", feedback.judge),
    ]
    named += [(key, one.model) for key, one in teachers if isinstance(one, LocalSection)]
    yield from ((key, name) for key, name in named if not name.startswith(STAGE_REFERENCE))


def _disk_lines(preview: Preview) -> Iterator[str]:
    """The space on the disk."""
    recipe = preview.recipe
    with preview.problems.noted():
        writable_folder(recipe.output_dir)
        if not isinstance(recipe.model, NewModel) and preview.tokenizer is not None:
            yield room_for(recipe, model_shape(recipe).parameters).line()


def _run_files(recipe: Recipe) -> list[str]:
    """The names in the run's folder, besides those of the stages."""
    has_reference = recipe.align is not None and recipe.align.objective.needs_reference
    return [LOCK_FILE, SUMMARY, *([f"{REFERENCE}/"] if has_reference else [])]


def _titled(title: str, lines: Iterable[str]) -> Iterator[str]:
    return (f"{title:<10}{line}" for line in lines)
