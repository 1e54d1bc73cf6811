"""The sft stage: a model learns dialogues, which is dSFT where a teacher wrote them."""

from zephyr.recipe.stage_sections import SFT, SYNTH
from zephyr.runs.layout import TRAIN
from zephyr.runs.stage_folder import Facts
from zephyr.stages.stage import Work
from zephyr.stages.start import starting_source, starting_tokenizer
from zephyr.stages.synth import DIALOGUES
from zephyr.stages.training import made_rows, prepare, stored_dialogues, training_stage
from zephyr.stages.training_setup import tracked_as


def run(work: Work) -> Facts:
    """The facts of the stage; its folder then holds the chat model."""
    from zephyr.train.job import TrainJob
    from zephyr.train.objectives import build_objective
    from zephyr.train.stored_model import StoredModel
    from zephyr.train.train import train

    section = work.recipe.sft
    assert section is not None
    start = starting_source(work)
    tokenizer, encoder = starting_tokenizer(start, work.recipe, work.stage)
    facts = prepare(work, encoder, made_rows(work, SYNTH, DIALOGUES))
    examples = stored_dialogues(work.folder, "train")
    batch_size = section.dialogues_per_step(examples.num_tokens / len(examples))
    job = TrainJob(
        model=StoredModel(start, tokenizer, work.folder, section.lora),
        objective=build_objective(section.objective),
        settings=section.train.model_copy(update={"train_batch_size": batch_size}),
        examples=examples,
        folder=work.folder / TRAIN,
        seed=work.recipe.seed,
        eval_examples=stored_dialogues(work.folder, "eval"),
        stop_ids=encoder.stop_ids,
        name=start.name,
        on_step=work.on_step,
        tracked_as=tracked_as(work),
    )
    return facts | train(job).facts


STAGE = training_stage(SFT, version=1, maker=SYNTH, run=run)
