"""The reward stage: a reward model learns which of two or more answers is preferred."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zephyr.intervals import wilson
from zephyr.recipe.objective_section import BradleyTerryObjective
from zephyr.recipe.stage_sections import FEEDBACK, REWARD
from zephyr.runs.layout import TRAIN
from zephyr.runs.stage_folder import Facts
from zephyr.stages.feedback_rows import PAIRS
from zephyr.stages.stage import Work
from zephyr.stages.start import starting_source, starting_tokenizer
from zephyr.stages.training import made_rows, prepare, stored_comparisons, training_stage
from zephyr.stages.training_setup import tracked_as

if TYPE_CHECKING:
    from zephyr.data.tokenize.token_store import Comparison

_log = logging.getLogger(__name__)


def run(work: Work) -> Facts:
    """The facts of the stage; its folder then holds the reward model."""
    from zephyr.models.reward_model import NewHead
    from zephyr.train.job import TrainJob
    from zephyr.train.objectives import build_objective
    from zephyr.train.stored_model import StoredModel
    from zephyr.train.train import train

    section = work.recipe.reward
    assert section is not None
    start = starting_source(work)
    tokenizer, encoder = starting_tokenizer(start, work.recipe, work.stage)
    facts = prepare(work, encoder, made_rows(work, FEEDBACK, PAIRS))
    examples, held_out = (stored_comparisons(work.folder, part) for part in ("train", "eval"))
    _tell_unused_ratings(section.objective, examples)
    head = NewHead(tokenizer, {*encoder.stop_ids, *encoder.end_ids[-1:].tolist()}, work.recipe.seed)
    job = TrainJob(
        model=StoredModel(start, tokenizer, work.folder, section.lora, head),
        objective=build_objective(section.objective, [*examples, *held_out]),
        settings=section.train,
        examples=examples,
        folder=work.folder / TRAIN,
        seed=work.recipe.seed,
        eval_examples=held_out,
        name=start.name,
        on_step=work.on_step,
        tracked_as=tracked_as(work),
    )
    trained = train(job)
    return facts | trained.facts | _accuracy(trained.eval_metrics, len(held_out))


def _tell_unused_ratings(objective: BradleyTerryObjective, pairs: "Iterable[Comparison]") -> None:
    """Say that ratings, or the column ``margin``, could be used, and are not."""
    if not objective.rating_margin and any(one.ratings[0] - one.ratings[1] != 1.0 for one in pairs):
        _log.warning("the ratings of the pairs, or their margins, are not used; rating_margin: 1 makes margins of them")


def _accuracy(measured: dict[str, float], num_pairs: int) -> Facts:
    """The share of held-out pairs that are ordered rightly, with its interval."""
    share = measured.get("eval_rewards/accuracies")
    if share is None:
        return {}
    found = wilson(round(share * num_pairs), num_pairs)
    return {"held_out_accuracy": {name: round(value, 4) for name, value in found._asdict().items()}}


STAGE = training_stage(REWARD, version=1, maker=FEEDBACK, run=run)
