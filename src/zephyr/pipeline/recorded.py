"""Ratings from outside as rows for training: what will come of them, known before anything is made."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from zephyr.data.read.sources import Records
from zephyr.errors import DataError
from zephyr.feedback.binarize import Binarized, BinarizeSettings, binarize, gather
from zephyr.recipe.feedback_section import FeedbackSection
from zephyr.records.rows import Rated


def binarize_settings(section: FeedbackSection, shapes: Collection[str], *, seed: int) -> BinarizeSettings:
    """The rules of the section for ratings that stand in these shapes."""
    settings = BinarizeSettings(seed=seed, **section.binarize.model_dump())
    # Only the ratings that UltraFeedback published can have its parser's fault.
    return replace(settings, repair_overall=settings.repair_overall and "ultrafeedback" in shapes)


def binarize_recorded(section: FeedbackSection, parts: Sequence[Records[Rated]], *, seed: int) -> Binarized:
    """The training rows of recorded ratings. Raises DataError if there is none."""
    shapes = {shape for records in parts for shape in records.shapes.values()}
    rated = gather(row for records in parts for row in records)
    made = binarize(rated, binarize_settings(section, shapes, seed=seed))
    if not made.rows:
        raise none_made(made, section, "feedback.recorded", "give other ratings, or another feedback.binarize")
    return made


def none_made(made: Binarized, section: FeedbackSection, where: str, remedy: str) -> DataError:
    """The error that says why there is no row at all."""
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in made.dropped.items())
    what = f"no {section.binarize.output} can be made of {made.prompts:,} prompts ({reasons})"
    return DataError(where, what, remedy)
