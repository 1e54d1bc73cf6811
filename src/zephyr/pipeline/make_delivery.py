"""The deliver stage: what others get to see of the run."""

import json
from collections.abc import Iterator
from dataclasses import replace

from zephyr.atomic import replace_text
from zephyr.deliver.card import card_of, card_place
from zephyr.deliver.report import report_of
from zephyr.pipeline.make_evaluation import titles
from zephyr.pipeline.ready import STAGE_MODEL, answering
from zephyr.recipe.stage_sections import DeliverSection
from zephyr.records.messages import Message
from zephyr.runs.layout import CARD, REPORT, SAMPLES
from zephyr.runs.reader import FinishedStage, read_run
from zephyr.runs.stage_folder import Facts
from zephyr.stages.stage import Work
from zephyr.teachers.protocol import ChatRequest, paired, seed_for


def make_delivery(work: Work) -> Facts:
    """The facts of the stage; its folder holds report and card, and the card lies in the model's folder too."""
    section = work.recipe.deliver
    assert section is not None
    if section.sample_prompts:
        replace_text(work.folder / SAMPLES, json.dumps(_answered(work, section), indent=1, ensure_ascii=False))
    run = read_run(work.run_folder)
    # The folder of this stage has not got its last name yet.
    here = FinishedStage(work.stage, work.folder, seconds=0.0, finished="", facts={})
    facts: Facts = {}
    if section.report:
        replace_text(work.folder / REPORT, report_of(replace(run, stages={**run.stages, work.stage: here})))
        facts["report"] = REPORT
    if run.model_folder is not None:
        card = card_of(run)
        for place in (work.folder / CARD, card_place(run)):
            replace_text(place, card)
        facts["card"] = CARD
    return facts


def _answered(work: Work, section: DeliverSection) -> list[dict[str, str | dict[str, str]]]:
    """The recipe's sample prompts, each with what every model of the run answers."""
    answers = {title: list(_answers(work, section, stage)) for stage, title in titles(work).items()}
    return [
        {"prompt": prompt, "answers": {title: of[number] for title, of in answers.items()}}
        for number, prompt in enumerate(section.sample_prompts)
    ]


def _answers(work: Work, section: DeliverSection, stage: str) -> Iterator[str]:
    """What the model of a stage answers; why not, where it cannot."""
    sampling = section.sampling
    requests = [
        ChatRequest(
            key=str(number),
            messages=(Message("user", prompt),),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=seed_for(work.recipe.seed, "deliver", number),
        )
        for number, prompt in enumerate(section.sample_prompts)
    ]
    for _, reply in paired(answering(f"{STAGE_MODEL}{stage}", work), requests):
        yield reply.text if reply.finish_reason != "error" else f"(no answer: {reply.error})"
