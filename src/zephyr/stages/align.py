"""The align stage: preference training, which is dDPO where a judge rated the answers."""

from zephyr.errors import ModelError
from zephyr.models.source import Source
from zephyr.models.tokenizers import Tokenizer, load_tokenizer
from zephyr.recipe.stage_sections import ALIGN, FEEDBACK
from zephyr.runs.layout import TRAIN
from zephyr.runs.stage_folder import Facts
from zephyr.stages.feedback_rows import PAIRS
from zephyr.stages.stage import Work
from zephyr.stages.start import reference_source, starting_source, starting_tokenizer
from zephyr.stages.training import REFERENCE, made_rows, prepare, stored_comparisons, training_stage
from zephyr.stages.training_setup import tracked_as


def run(work: Work) -> Facts:
    """The facts of the stage; its folder then holds the aligned model."""
    from zephyr.train.job import TrainJob
    from zephyr.train.objectives import build_objective
    from zephyr.train.stored_model import StoredModel
    from zephyr.train.train import train

    section = work.recipe.align
    assert section is not None
    start = starting_source(work)
    tokenizer, encoder = starting_tokenizer(start, work.recipe, work.stage)
    reference = None if section.reference is None else _reference(work, tokenizer)
    facts = prepare(work, encoder, made_rows(work, FEEDBACK, PAIRS))
    examples, held_out = stored_comparisons(work.folder, "train"), stored_comparisons(work.folder, "eval")
    job = TrainJob(
        model=StoredModel(start, tokenizer, work.folder, section.lora, reference=reference),
        objective=build_objective(
            section.objective, (one for part in (examples, held_out) for one in part), data_dir=work.recipe.data_dir
        ),
        settings=section.train,
        examples=examples,
        folder=work.folder / TRAIN,
        seed=work.recipe.seed,
        eval_examples=held_out,
        reference_store=work.run_folder / REFERENCE,
        stop_ids=encoder.stop_ids,
        name=start.name,
        on_step=work.on_step,
        tracked_as=tracked_as(work),
    )
    return facts | train(job).facts


def _reference(work: Work, tokenizer: Tokenizer) -> Source:
    """The model that the objective compares with. Raises ModelError for one whose tokens are others."""
    source = reference_source(work)
    if load_tokenizer(source).get_vocab() != tokenizer.get_vocab():
        what = "has another vocabulary than the model that is trained"
        raise ModelError(source.name, what, "name a reference with the same tokenizer, or leave align.reference out")
    return source


STAGE = training_stage(ALIGN, version=1, maker=FEEDBACK, run=run)
