"""The deliver stage: a report of the run and the card of its model.

Their content is made in `zephyr.deliver`.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from zephyr.atomic import replace_text, replace_unedited
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.recipe.stage_sections import DELIVER, POLICY_STAGES, DeliverSection
from zephyr.records.messages import Message
from zephyr.runs.layout import CARD, REPORT, SAMPLES_FILE
from zephyr.runs.reader import FinishedStage, at, model_title, read_run
from zephyr.runs.stage_folder import Facts
from zephyr.stages.preview import Preview
from zephyr.stages.stage import Stage, Work
from zephyr.stages.start import BASE, stage_teacher
from zephyr.teachers.protocol import ChatRequest, paired, seed_for

logger = logging.getLogger(__name__)


def _section(recipe: Recipe) -> DeliverSection:
    assert recipe.deliver is not None
    return recipe.deliver


# ---- the stage ----


def reads(recipe: Recipe) -> tuple[str, ...]:
    """All stages before it."""
    return recipe.stages[: recipe.stages.index(DELIVER)]


def sources(_recipe: Recipe) -> list[DataSource]:
    """None: it reads the run."""
    return []


def depends_on(recipe: Recipe) -> dict[str, Plain]:
    """The licences of the data, which the card names and no other stage depends on."""
    from zephyr.deliver.card import training_data

    data = training_data(recipe.model_dump(mode="json"), recipe.stages)
    licences: dict[str, Plain] = {str(at(one, "path")): str(at(one, "license")) for one in data if at(one, "license")}
    return {"licenses": licences} if licences else {}


def outputs(recipe: Recipe) -> list[str]:
    """The names in its finished folder."""
    section, has_model = _section(recipe), bool(recipe.trained)
    return [*[REPORT] * section.report, *[CARD] * has_model, *[SAMPLES_FILE] * bool(section.sample_prompts)]


def check(preview: Preview) -> Iterator[str]:
    """A line on what it reads."""
    with preview.problems.noted():
        _check_push(preview.recipe)
    yield f"reads {', '.join(reads(preview.recipe)) or 'nothing from outside'}"


def estimate(preview: Preview) -> Iterator[str]:
    """A line on the answers to the sample prompts, which alone need a model."""
    section, models = _section(preview.recipe), _titles(preview.recipe, reads(preview.recipe))
    prompts = len(section.sample_prompts)
    if not (prompts and models):
        yield "writes files; no model runs"
        return
    answers, longest = prompts * len(models), section.sampling.max_new_tokens
    yield f"samples: {answers:,} answers by {len(models)} models, {longest} tokens at most"


def preflight(work: Work) -> Facts:
    """No facts: nothing comes from outside. Raises ZephyrError where the finished run could not be published."""
    _check_push(work.recipe)
    return {}


def _check_push(recipe: Recipe) -> None:
    """Check what publishing needs, long before it: a token and a network. Raises ZephyrError."""
    push = _section(recipe).push_to_hub
    if push is not None:
        from zephyr.deliver.push import Target, check_target

        check_target(Target(push.repo, push.private), offline=recipe.offline)


def run(work: Work) -> Facts:
    """The names of report and card in the stage's folder; the card lies in the model's folder too."""
    from zephyr.deliver.card import card_of, card_place
    from zephyr.deliver.report import report_of

    section = _section(work.recipe)
    if section.sample_prompts:
        samples = json.dumps(_answered_prompts(work), indent=1, ensure_ascii=False)
        replace_text(work.folder / SAMPLES_FILE, samples)
    record = read_run(work.run_folder)
    # The folder of this stage has not got its last name yet.
    here = FinishedStage(work.stage, work.folder, seconds=0.0, finished="", facts={})
    facts: Facts = {}
    if section.report:
        replace_text(work.folder / REPORT, report_of(replace(record, stages={**record.stages, work.stage: here})))
        facts["report"] = REPORT
    if record.model_folder is not None:
        card = card_of(record)
        replace_text(work.folder / CARD, card)
        try:
            replace_unedited(card_place(record), card)
        except DataError as error:
            logger.warning("the card is in this stage's folder alone: %s", error)
        facts["card"] = CARD
    return facts


def _titles(recipe: Recipe, stages: Sequence[str]) -> dict[str, str]:
    """The stages that make models, and what tables call their models; the base model, where evaluate measures it."""
    objective = recipe.align.objective.name if recipe.align is not None else ""
    made = {stage: model_title(stage, objective) for stage in POLICY_STAGES if stage in stages}
    has_base = recipe.evaluate is not None and recipe.evaluate.base_model
    return {BASE: BASE, **made} if has_base else made


def _answered_prompts(work: Work) -> list[dict[str, str | dict[str, str]]]:
    """The recipe's sample prompts, each with what every model of the run answers."""
    answers = {title: list(_answers(work, stage)) for stage, title in _titles(work.recipe, tuple(work.inputs)).items()}
    return [
        {"prompt": prompt, "answers": {title: of[index] for title, of in answers.items()}}
        for index, prompt in enumerate(_section(work.recipe).sample_prompts)
    ]


def _answers(work: Work, stage: str) -> Iterator[str]:
    """What the model of a stage answers to each sample prompt, or why it cannot."""
    section = _section(work.recipe)
    sampling = section.sampling
    requests = [
        ChatRequest(
            key=str(index),
            messages=(Message("user", prompt),),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=seed_for(work.recipe.seed, DELIVER, index),
        )
        for index, prompt in enumerate(section.sample_prompts)
    ]
    for _, reply in paired(stage_teacher(work, stage), requests):
        yield reply.text if reply.finish_reason != "error" else f"(no answer: {reply.error})"


STAGE = Stage(
    name=DELIVER,
    version=2,
    reads=reads,
    sources=sources,
    depends_on=depends_on,
    outputs=outputs,
    check=check,
    estimate=estimate,
    preflight=preflight,
    run=run,
)
