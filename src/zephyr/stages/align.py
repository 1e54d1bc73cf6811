"""The align stage: preference training, which is dDPO where a judge rated the answers."""

from zephyr.recipe.stage_sections import ALIGN, FEEDBACK
from zephyr.runs.layout import TRAIN
from zephyr.runs.stage_folder import Facts
from zephyr.stages.feedback import PAIRS
from zephyr.stages.stage import Work
from zephyr.stages.start import starting_source, starting_tokenizer
from zephyr.stages.training import REFERENCE, made_rows, prepare, stored_comparisons, training_stage


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
    facts = prepare(work, encoder, made_rows(work, FEEDBACK, PAIRS))
    examples, held_out = stored_comparisons(work.folder, "train"), stored_comparisons(work.folder, "eval")
    job = TrainJob(
        model=StoredModel(start, tokenizer, work.folder, section.lora),
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
    )
    return facts | train(job).facts


STAGE = training_stage(ALIGN, version=1, maker=FEEDBACK, run=run)
