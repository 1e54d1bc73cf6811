"""The evaluate stage: the models of the run, measured one after the other; what is measured stays measured."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from zephyr.atomic import replace_text
from zephyr.evaluate.perplexity import perplexity
from zephyr.evaluate.preference import Pair, answer_logps, preference_metrics, prompt_numbers
from zephyr.evaluate.world import WorldSettings, score_world
from zephyr.models.loading import Source, load_model
from zephyr.pipeline.benchmarks import benchmark_scores
from zephyr.pipeline.ready import STAGE_MODEL, answering, starting_source
from zephyr.pipeline.tokens import comparisons, dialogues
from zephyr.recipe.evaluate_section import HarnessTask, PreferenceTask, WorldTask
from zephyr.recipe.section import Plain
from zephyr.records.messages import Messages
from zephyr.records.rows import Prompt
from zephyr.runs.layout import MODEL, SAMPLES_FILE, measurement_file
from zephyr.runs.stage_folder import Facts
from zephyr.stages.stage import Work
from zephyr.trees.forest import ScoredSequence
from zephyr.world import prompts

Value = TypeVar("Value")

SHOWN_SAMPLES = 12
MAX_TOKENS = 8192
# What a stage's model is called, as in the paper.
_TITLES = {"pretrain": "base", "sft": "dSFT"}


def make_evaluation(work: Work) -> Facts:
    """The facts of the stage: `scores` and `benchmarks` by model, and further `metrics` by name."""
    section = work.recipe.evaluate
    assert section is not None
    scores: dict[str, Plain] = {}
    metrics: dict[str, Plain] = {}
    benchmarks: dict[str, Facts] = {}
    for number, task in enumerate(section.tasks):
        if isinstance(task, WorldTask):
            scores |= _world(work, task, number)
        elif isinstance(task, PreferenceTask):
            metrics |= _kept(work.folder / measurement_file(number, "preference"), lambda: _preference(work))
        elif isinstance(task, HarnessTask):
            for title, found in benchmark_scores(work, task, number, titles(work)).items():
                benchmarks.setdefault(title, {}).update(found)
        else:
            metrics |= _kept(work.folder / measurement_file(number, "perplexity"), lambda: _perplexities(work))
    return {"scores": scores, "metrics": metrics, "benchmarks": dict(benchmarks)}


def titles(work: Work) -> dict[str, str]:
    """The stages whose models are measured, and what tables call them."""
    return {stage: _title(work, stage) for stage in ("pretrain", "sft", "align") if stage in work.inputs}


def _title(work: Work, stage: str) -> str:
    if stage != "align":
        return _TITLES[stage]
    assert work.recipe.align is not None
    name = work.recipe.align.objective.name
    return "dDPO" if name == "dpo" else name.upper()


def _kept(path: Path, measure: Callable[[], Facts]) -> Facts:
    """What `measure` gives, or what it gave in a try that was stopped later."""
    if not path.exists():
        replace_text(path, json.dumps(measure(), indent=1, ensure_ascii=False))
    found: Facts = json.loads(path.read_bytes())
    return found


def _world(work: Work, task: WorldTask, number: int) -> Facts:
    """The world's score of every model; their answers to a few prompts go to a file."""
    asked = list(prompts("heldout", work.recipe.seed, task.num_prompts))
    settings = WorldSettings(
        num_samples=task.num_samples,
        temperature=task.sampling.temperature,
        top_k=task.sampling.top_k,
        top_p=task.sampling.top_p,
        max_tokens=task.sampling.max_new_tokens,
        seed=work.recipe.seed,
    )

    scores: Facts = {}
    answers: dict[str, list[str]] = {}
    for stage, title in titles(work).items():
        measure = partial(_world_of, stage, work, asked, settings)
        found = _kept(work.folder / measurement_file(number, "world", stage), measure)
        scores[title] = found["score"]
        answers[title] = cast("list[str]", found["answers"])
    samples = [
        {"prompt": _as_line(prompt.messages), "answers": {title: of[index] for title, of in answers.items()}}
        for index, prompt in enumerate(_spread(asked))
    ]
    replace_text(work.folder / SAMPLES_FILE, json.dumps(samples, indent=1, ensure_ascii=False))
    return scores


def _world_of(stage: str, work: Work, asked: Sequence[Prompt], settings: WorldSettings) -> Facts:
    """The world's score of one model, by task too, and some of its answers."""
    found = score_world(answering(f"{STAGE_MODEL}{stage}", work), asked, settings)
    by_task: Facts = {name: round(one.score, 4) for name, one in found.by_task.items()}
    score: Facts = {name: round(value, 6) for name, value in found.score._asdict().items()}
    answers: list[Plain] = list(_spread(found.answers))
    return {"score": score, "by_task": by_task, "answers": answers, "missing": found.missing}


def _spread(values: Sequence[Value]) -> Sequence[Value]:
    """Some of the values, from all over: the world asks task after task, so the first ones are of few tasks."""
    return values[:: max(1, len(values) // SHOWN_SAMPLES)][:SHOWN_SAMPLES]


def _as_line(messages: Messages) -> str:
    """What was said, one message after the other."""
    return " / ".join(message.content for message in messages)


def _preference(work: Work) -> Facts:
    """Reward accuracy and margins on what align has held out: pairs, and of a list its best and worst answer."""
    align = work.recipe.align
    assert align is not None
    assert "align" in work.inputs
    held = [
        Pair(one.prompt, one.completions[0], one.completions[-1])
        for one in comparisons(work.inputs["align"], "eval")
        if len(one.completions) == 2 or one.ratings[0] > one.ratings[-1]
    ]
    if not held:
        return {"preference/pairs": 0}
    reference = starting_source(work, "align")
    policy = Source(str(work.inputs["align"] / MODEL), offline=True)
    logps, ref_logps = (
        answer_logps(load_model(source, dtype="float32"), held, max_tokens=MAX_TOKENS) for source in (policy, reference)
    )
    found = preference_metrics(
        logps, ref_logps, prompts=prompt_numbers(held), beta=align.objective.beta, seed=work.recipe.seed
    )
    return {
        "preference/accuracy": round(found.accuracy.score, 6),
        "preference/accuracy_low": round(found.accuracy.low, 6),
        "preference/accuracy_high": round(found.accuracy.high, 6),
        "preference/margin": round(found.margin.score, 6),
        "preference/margin_low": round(found.margin.low, 6),
        "preference/margin_high": round(found.margin.high, 6),
        "preference/pairs": found.num_pairs,
        "preference/prompts": found.accuracy.n,
        "preference/rewards_chosen": round(found.chosen_reward, 6),
        "preference/rewards_rejected": round(found.rejected_reward, 6),
    }


def _perplexities(work: Work) -> Facts:
    """Perplexity of every model on the dialogues that sft has held out."""
    held = [ScoredSequence(one.ids, one.scored) for one in dialogues(work.inputs["sft"], "eval")]
    if not held:
        return {}
    found: Facts = {}
    for stage, title in titles(work).items():
        model = load_model(Source(str(work.inputs[stage] / MODEL), offline=True), dtype="float32")
        found[f"perplexity/{title}"] = round(perplexity(model, held, max_tokens=MAX_TOKENS).perplexity, 4)
    return found
