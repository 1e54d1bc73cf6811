"""The feedback stage over Ray: what its workers open, and what they leave in the stage's folder."""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from zephyr.feedback.ray_stage import Opened, Opener, Plan, RaySettings, rate_over_ray
from zephyr.pipeline.endpoints import cap_of
from zephyr.pipeline.feedback_settings import answering_of, judging_of
from zephyr.pipeline.ready import answering, rater, writer
from zephyr.progress import show_progress
from zephyr.recipe.feedback_section import FeedbackSection
from zephyr.recipe.teacher_section import TeacherSection
from zephyr.records.rows import Prompt
from zephyr.stages.stage import Work


class Shared(NamedTuple):
    """What became of the answers, and of the ratings."""

    answers: Counter[str]
    ratings: Counter[str]


def rate_with_workers(work: Work, section: FeedbackSection, prompts: Iterable[Prompt]) -> Shared:
    """The counts; the stage's folder holds the ratings, the judge's calls and the merged ledger."""
    at = replace(
        work,
        folder=work.folder.resolve(),
        run_folder=work.run_folder.resolve(),
        inputs={name: folder.resolve() for name, folder in work.inputs.items()},
    )
    candidates = section.candidates
    pool = [Opener(name, partial(_open_model, name, at)) for name in candidates.models]
    pool += [Opener(one.model_dump_json(), partial(_open_writer, one, at)) for one in candidates.teachers]
    judge_ = Opener(section.judge.model_dump_json(), partial(_open_rater, section.judge, at))
    cap = cap_of([section.judge, *candidates.teachers])
    plan = Plan(judge_, answering_of(section, work), judging_of(section, work), tuple(pool), cap)
    assert section.ray is not None
    settings = RaySettings(**section.ray.model_dump())
    with show_progress("partitions", settings.num_partitions) as display:
        run = rate_over_ray(prompts, plan, at.folder, settings, on_part=lambda done, _of: display.update(done))
    shutil.rmtree(run.parts)  # merged by now
    return Shared(run.answers, run.judged)


def _open_model(name: str, work: Work) -> Opened:
    return Opened(answering(name, work))


def _open_writer(section: TeacherSection, work: Work) -> Opened:
    return Opened(writer(section, work))


def _open_rater(section: TeacherSection, work: Work) -> Opened:
    return Opened(rater(section, work))
