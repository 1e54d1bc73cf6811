"""Evaluation on held-out rows: reward accuracy and margins of preferences, perplexity of dialogues.

The rows are those that a training stage has held out, or the task's own sources in tokens as that stage makes them.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zephyr.atomic import replace_text
from zephyr.data.read.mixture import Mixture, mix
from zephyr.data.read.stage_rows import Accounts, open_all
from zephyr.data.tokenize.examples import Tokenized, fitted_preference
from zephyr.data.tokenize.token_store import Comparison, Dialogue
from zephyr.data.tokenize.truncation import TruncationReport
from zephyr.progress import show_progress
from zephyr.recipe.evaluate_section import PerplexityTask, PreferenceTask, RewardTask
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import ALIGN, SFT, SftSection
from zephyr.records.fields import UnusableError
from zephyr.records.rows import Chat, Preference, Record
from zephyr.runs.stage_folder import Facts
from zephyr.stages.overlap import refuse_trained
from zephyr.stages.stage import Work
from zephyr.stages.start import encoder_for, model_made, reference_source, stage_teacher
from zephyr.stages.training import stored_comparisons, stored_dialogues

if TYPE_CHECKING:
    from zephyr.data.tokenize.encoding import DialogueEncoder
    from zephyr.evaluation.held_out import Pair
    from zephyr.models.source import Source
    from zephyr.trees.forest import ScoredSequence

logger = logging.getLogger(__name__)

MAX_TOKENS = 8192  # that are scored together
R = TypeVar("R", bound=Record)


def kept(path: Path, measure: Callable[[], Facts]) -> Facts:
    """What `measure` gives, or what it gave in a try that was stopped later."""
    if not path.exists():
        replace_text(path, json.dumps(measure(), indent=1, ensure_ascii=False))
    found: Facts = json.loads(path.read_bytes())
    return found


def preference_facts(work: Work, task: PreferenceTask) -> Facts:
    """Reward accuracy and margins of the aligned model against its reference. Raises DataError."""
    from zephyr.evaluation.held_out import answer_logps, preference_metrics, prompt_numbers
    from zephyr.models.loading import load_to_score
    from zephyr.models.source import Source

    align = work.recipe.align
    assert align is not None
    held = _pairs(work, task)
    if not held:
        return {"preference/pairs": 0}
    policy, reference = Source(str(model_made(work, ALIGN)), offline=True), reference_source(work)
    scored = []
    for name, source in (("the policy", policy), ("its reference", reference)):
        with show_progress(f"log-probs of {name}", len(held)) as display:
            # No name holds the model while the next one is loaded.
            found_logps = answer_logps(
                load_to_score(source, work.recipe.inference_dtype), held, max_tokens=MAX_TOKENS, display=display
            )
        scored.append(found_logps)
    logps, ref_logps = scored
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


def _pairs(work: Work, task: PreferenceTask) -> "list[Pair]":
    """Pairs, and of lists the best and the worst completion."""
    from zephyr.evaluation.held_out import Pair

    found: Sequence[Comparison] = (
        stored_comparisons(work.inputs[ALIGN], "eval") if not task.sources else _own(work, task)
    )
    return [
        Pair(one.prompt, one.completions[0], one.completions[-1])
        for one in found
        if len(one.completions) == 2 or one.ratings[0] > one.ratings[-1]
    ]


def _own(work: Work, task: PreferenceTask) -> list[Comparison]:
    """The preferences of the task's sources, of any number of completions, in align's window."""
    align = work.recipe.align
    assert align is not None
    encoder, report = _encoder(work, ALIGN, ALIGN), TruncationReport(align.data)
    rows, accounts = _rows(work, task, Preference)
    found = []
    for row in rows:
        try:
            fitted = fitted_preference(row, align.data, encoder)
        except UnusableError as error:
            accounts.refuse(row, error)
            continue
        if report.add(row.name, fitted.loss):
            found.append(Comparison(row.name, fitted.prompt, fitted.completions, row.ratings))
    accounts.refused.check()
    report.check()
    return found


def perplexity_facts(work: Work, task: PerplexityTask, titles: Mapping[str, str]) -> Facts:
    """The perplexity of every model; ``titles``: what tables call the models, by stage. Raises DataError."""
    from zephyr.evaluation.held_out import perplexity
    from zephyr.models.loading import load_to_score
    from zephyr.models.source import Source

    facts: Facts = {}
    for stage, title in titles.items():
        held = _dialogues(work, task, stage)
        if held:
            source = Source(str(model_made(work, stage)), offline=True)
            with show_progress(f"perplexity of {title}", len(held)) as display:
                found = perplexity(
                    load_to_score(source, work.recipe.inference_dtype), held, max_tokens=MAX_TOKENS, display=display
                )
            facts[f"perplexity/{title}"] = round(found.perplexity, 4)
    if not facts:
        logger.warning("perplexity is not measured: no dialogue is held out; raise sft.data.eval_share")
    return facts


def reward_facts(work: Work, task: RewardTask, stage: str, source: "Source") -> Facts:
    """The mean reward of a stage's model and its win rate by the reward model of ``source``. Raises DataError."""
    from zephyr.evaluation.rewards import score_rewards
    from zephyr.teachers.reward_judge import RewardJudge

    assert work.recipe.evaluate is not None
    rows = chain.from_iterable(open_all(work.recipe, task.sources, Chat))
    teacher = stage_teacher(work, stage, cache_tokens=work.recipe.evaluate.batch_tokens)
    dialogues = list(islice(rows, task.num_prompts))
    judge = RewardJudge(source, work.recipe.inference_dtype)
    found = score_rewards(teacher, judge, dialogues, task, seed=work.recipe.seed)
    percent = {name: 100 * value for name, value in found.win_rate._asdict().items()} | {"n": found.win_rate.n}
    return {
        "mean reward": found.reward._asdict(),
        "win rate against the references, %": percent,
        "reference_reward": found.reference_reward,
        "missing": found.missing,
    }


def _dialogues(work: Work, task: PerplexityTask, stage: str) -> "list[ScoredSequence]":
    """The task's dialogues by the tokenizer of a stage's model, or those that sft has held out."""
    from zephyr.trees.forest import ScoredSequence

    if not task.sources:
        return [ScoredSequence(one.ids, one.scored) for one in stored_dialogues(work.inputs[SFT], "eval")]
    rows, accounts = _rows(work, task, Chat)
    tokenized = Tokenized(_dialogue_section(work.recipe), _encoder(work, stage, SFT), accounts.refuse)
    dialogues = list(tokenized.examples(rows))
    accounts.refused.check()
    tokenized.truncation.check()
    return [ScoredSequence(one.ids, one.scored) for one in dialogues if isinstance(one, Dialogue)]


def _dialogue_section(recipe: Recipe) -> SftSection:
    """The sft stage's section; without such a stage, one with the window of the last stage that trains."""
    if recipe.sft is not None:
        return recipe.sft
    last = recipe.align or recipe.pretrain
    assert last is not None, "without a training stage there is no model to measure"
    return SftSection(data=last.data, train=last.train)


def _rows(work: Work, task: PreferenceTask | PerplexityTask, kind: type[R]) -> tuple[Mixture[R], Accounts]:
    """The rows of the task's sources, as a training stage reads its `eval_sources`: not filtered, not shuffled.

    Raises DataError if they are trained on.
    """
    opened = open_all(work.recipe, task.sources, kind)
    rows = mix(opened, seed=work.recipe.seed, shuffle=False)
    refuse_trained(task, work.inputs, rows)
    return rows, Accounts(opened)


def _encoder(work: Work, stage: str, template_of: str) -> "DialogueEncoder":
    """The way to tokens by the tokenizer of a stage's model, in the template of another stage."""
    from zephyr.models.source import Source
    from zephyr.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(Source(str(model_made(work, stage)), offline=True))
    return encoder_for(tokenizer, work.recipe, template_of)
