"""How often a policy, measured against its reference, or a reward model prefers what was preferred.

It is measured on any pairs, and in parts of them. A policy's reward is beta times its log-prob of an answer minus the
reference's, as RewardBench scores models trained by DPO. Log-probs and rewards are kept on disk, so that an interrupted
run goes on where it stopped. Source: arXiv 2403.13787.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zephyr.data.read.refused_rows import RefusedRows
from zephyr.data.read.sources import open_source
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.examples import encoded_preference
from zephyr.errors import DataError, ModelError
from zephyr.evaluation.harness.finished import FinishedAnswer, FinishedRequests
from zephyr.evaluation.held_out import Pair, PreferenceMetrics, answer_logps, preference_metrics, prompt_numbers
from zephyr.evaluation.results import Item, Result, write_result
from zephyr.models.loading import load_model, num_embeddings, placement
from zephyr.models.reward_model import is_reward_model
from zephyr.models.source import Source
from zephyr.models.tokenizers import load_tokenizer
from zephyr.models.weight_hash import weights_hash
from zephyr.progress import show_progress
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.fields import Json, UnusableError, printable
from zephyr.records.rows import Preference
from zephyr.teachers.reward_judge import RewardJudge

REWARD_ACCURACY = "reward_accuracy"
REWARD_MARGIN = "reward_margin"
BETA = 0.1  # of a policy that says nothing else
PAIRS_TOGETHER = 64
# Tokens of the longer answer, up to and with each bound.
LENGTH_BOUNDS = (64, 128, 256, 512, 1024)
ALIKE = 0.1  # answers whose lengths differ by at most this share of the longer one


class HeldPair(NamedTuple):
    """A pair to be scored: its ids, and the set that it is from."""

    pair: Pair
    source: str


class RewardAccuracy(NamedTuple):
    """The metrics over all pairs, by source, by tokens of the longer answer, and by which answer is longer."""

    overall: PreferenceMetrics
    sources: dict[str, PreferenceMetrics]
    lengths: dict[str, PreferenceMetrics]
    longer: dict[str, PreferenceMetrics]


def kept_scores(
    score: Callable[[Sequence[Pair]], Tensor],
    pairs: Sequence[HeldPair],
    finished: FinishedRequests,
    show: Callable[[int], None],
    *,
    kind: str = "answer log-prob",
) -> Tensor:
    """(n, 2) float64 scores of chosen and rejected answers, those of earlier runs from `finished`.

    `score`: the scores of some of the pairs; `kind`: what they are filed under.
    """
    keys = [_keys(finished, held.pair, kind) for held in pairs]
    known = finished.known([key for both in keys for key in both])
    missing = [index for index, both in enumerate(keys) if not all(key in known for key in both)]
    show(len(pairs) - len(missing))
    for start in range(0, len(missing), PAIRS_TOGETHER):
        some = missing[start : start + PAIRS_TOGETHER]
        scores = score([pairs[index].pair for index in some]).tolist()
        fresh: dict[str, FinishedAnswer] = {}
        for index, row in zip(some, scores, strict=True):
            fresh.update(zip(keys[index], row, strict=True))
        # An answer that stands in several pairs keeps the score it had first.
        fresh = {key: value for key, value in fresh.items() if key not in known}
        finished.add(fresh)
        known |= fresh
        show(len(pairs) - len(missing) + start + len(some))
    return torch.tensor([[_number(known[key]) for key in both] for both in keys], dtype=torch.float64)


def reward_metrics(
    logps: Tensor, ref_logps: Tensor, pairs: Sequence[HeldPair], *, beta: float, seed: int
) -> RewardAccuracy:
    """The metrics of log-probs (n, 2) of the policy and its reference, over all pairs and in their parts."""
    prompts = prompt_numbers([held.pair for held in pairs])

    def metrics(places: Sequence[int]) -> PreferenceMetrics:
        chosen = torch.tensor(places, dtype=torch.int64)
        of = [prompts[place] for place in places]
        return preference_metrics(logps[chosen], ref_logps[chosen], prompts=of, beta=beta, seed=seed)

    def by(name_of: Callable[[HeldPair], str]) -> dict[str, PreferenceMetrics]:
        parts: dict[str, list[int]] = {}
        for place, held in enumerate(pairs):
            parts.setdefault(name_of(held), []).append(place)
        return {name: metrics(places) for name, places in sorted(parts.items())}

    return RewardAccuracy(
        overall=metrics(range(len(pairs))),
        sources=by(lambda held: held.source),
        lengths=by(lambda held: length_bucket(held.pair)),
        longer=by(lambda held: longer_answer(held.pair)),
    )


def length_bucket(pair: Pair) -> str:
    """The tokens of the longer answer, as a range; ranges sort as numbers do."""
    longest = max(len(pair.chosen), len(pair.rejected))
    lows = (0, *LENGTH_BOUNDS)
    for low, high in zip(lows, LENGTH_BOUNDS, strict=False):
        if longest <= high:
            return f"{low + 1:>4}-{high}"
    return f"{lows[-1] + 1:>4} and more"


def longer_answer(pair: Pair) -> str:
    """Which answer is longer: a policy that is right only where it is the chosen one has learnt length."""
    chosen, rejected = len(pair.chosen), len(pair.rejected)
    if abs(chosen - rejected) <= ALIKE * max(chosen, rejected):
        return "about equally long"
    return "chosen is longer" if chosen > rejected else "rejected is longer"


def margins(logps: Tensor, ref_logps: Tensor, *, beta: float) -> list[float]:
    """Rewards of chosen minus rejected answers, one for each of n pairs. `logps`, `ref_logps`: (n, 2), chosen first."""
    rewards = beta * (logps - ref_logps)
    return [float(margin) for margin in rewards[:, 0] - rewards[:, 1]]


def _keys(finished: FinishedRequests, pair: Pair, kind: str) -> tuple[str, str]:
    prompt = np.asarray(pair.prompt).tolist()
    chosen, rejected = (
        finished.key(kind, prompt, np.asarray(answer).tolist()) for answer in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def _number(answer: object) -> float:
    assert isinstance(answer, float)
    return answer


# ---- a run ----


@dataclass(frozen=True)
class RewardRun:
    """A policy and its reference on pairs, or a reward model without one.

    `beta`: of the policy's reward; None: 0.1. `max_tokens`: the longest pair, prompt and answer.
    """

    policy: str
    reference: str | None
    pairs: DataSource
    out: Path
    beta: float | None = None
    max_tokens: int = 4096
    seed: int = 0
    offline: bool = False


class _Encoded(NamedTuple):
    pairs: list[HeldPair]
    left_out: Counter[str]
    unused: Counter[str]
    chat_template: str


def run_reward_accuracy(run: RewardRun) -> Result:
    """The result; the run's folder holds log-probs, values and metrics, and goes on from the log-probs it holds.

    Raises DataError if no pair can be scored, ModelError for a reference of another tokenizer, for a policy without a
    reference and for a reward model with one.
    """
    source = Source(run.policy, offline=run.offline)
    has_rewards = is_reward_model(source)
    _check_reference(run, has_rewards=has_rewards)
    encoded = _encoded(run, to_end=has_rewards)
    if not encoded.pairs:
        raise DataError(run.pairs.path, f"leaves no pair to score ({dict(encoded.left_out)})", "name a file of pairs")
    run.out.mkdir(parents=True, exist_ok=True)
    if run.reference is None:
        logps, policy_hash = _rewards(source, encoded.pairs, run)
        ref_logps, compared, beta = torch.zeros_like(logps), dict[str, Json](), 1.0
    else:
        beta = BETA if run.beta is None else run.beta
        logps, policy_hash = _logps(run.policy, encoded.pairs, run)
        ref_logps, reference_hash = _logps(run.reference, encoded.pairs, run)
        compared = {"reference": run.reference, "reference_hash": reference_hash, "beta": beta}
    found = reward_metrics(logps, ref_logps, encoded.pairs, beta=beta, seed=run.seed)
    protocol: dict[str, Json] = {
        "pairs": printable(run.pairs.path),
        "num_pairs": len(encoded.pairs),
        "left_out": dict(encoded.left_out),
        "columns_not_used": dict(encoded.unused),
        **compared,
        "model_hash": policy_hash,
        "chat_template_hash": hashlib.sha256(encoded.chat_template.encode()).hexdigest()[:16],
        "max_tokens": run.max_tokens,
    }
    scores: dict[str, Json] = dict(_metric_rows(found))
    items = _items(encoded.pairs, margins(logps, ref_logps, beta=beta))
    result = Result(REWARD_ACCURACY, run.policy, protocol, scores, items)
    write_result(run.out, result)
    return result


def _metric_rows(found: RewardAccuracy) -> dict[str, dict[str, Json]]:
    """The metrics by the name of the part and of its group."""
    parts = {"all": {"all": found.overall}, "source": found.sources, "tokens": found.lengths, "longer": found.longer}
    return {part: {name: _metric_fields(one) for name, one in groups.items()} for part, groups in parts.items()}


def _metric_fields(metrics: PreferenceMetrics) -> dict[str, Json]:
    return {
        "accuracy": metrics.accuracy.score,
        "accuracy_low": metrics.accuracy.low,
        "accuracy_high": metrics.accuracy.high,
        "margin": metrics.margin.score,
        "margin_low": metrics.margin.low,
        "margin_high": metrics.margin.high,
        "pairs": metrics.num_pairs,
        "prompts": metrics.accuracy.n,
    }


def _check_reference(run: RewardRun, *, has_rewards: bool) -> None:
    if has_rewards and (run.reference is not None or run.beta is not None):
        raise ModelError(run.policy, "is a reward model, which has no reference and no beta", "leave them out")
    if not has_rewards and run.reference is None:
        remedy = "name the model it was trained from: --reference MODEL"
        raise ModelError(run.policy, "is a language model, whose rewards are relative to a reference", remedy)


def _encoded(run: RewardRun, *, to_end: bool) -> _Encoded:
    """The pairs as ids of the policy's tokenizer, those left out counted; `to_end`: as of `encoded_preference`."""
    rows = open_source(run.pairs, "preference", data_dir=Path(), offline=run.offline)
    encoder = DialogueEncoder(load_tokenizer(Source(run.policy, offline=run.offline)), ChatTemplateSection(name="own"))
    left_out: Counter[str] = Counter({str(reason): count for reason, count in rows.counts.items()})
    held: list[HeldPair] = []
    refused = RefusedRows()
    refused.read(rows)
    for row in islice(rows, run.pairs.max_rows):
        reason = _unfit(row)
        if reason:
            left_out[reason] += 1
            continue
        try:
            prompt, (chosen, *_, rejected) = encoded_preference(row, encoder, to_end=to_end)
        except UnusableError as error:
            left_out[refused.add(row, error)[1]] += 1
            continue
        pair = Pair(prompt, chosen, rejected)
        if len(prompt) + max(len(pair.chosen), len(pair.rejected)) > run.max_tokens:
            left_out[f"longer than {run.max_tokens} tokens"] += 1
        else:
            held.append(HeldPair(pair, row.source))
    refused.check()
    return _Encoded(held, left_out, rows.unused, encoder.chat_template)


def _unfit(row: Preference) -> str:
    """Why a row is no pair to score; of a list its best and its worst answer are."""
    if len(row.completions) < 2:
        return "one answer alone"
    if row.ratings[0] <= row.ratings[-1]:
        return "rated alike"
    return "equal answers" if row.answers[0] == row.answers[-1] else ""


def _logps(name: str, pairs: Sequence[HeldPair], run: RewardRun) -> tuple[Tensor, str]:
    device, dtype = placement()
    model = load_model(Source(name, offline=run.offline), dtype=dtype, device=device)
    highest = max(int(ids.max()) for held in pairs for ids in held.pair if len(ids))
    if highest >= num_embeddings(model):
        what = f"has no token {highest} of the policy's tokenizer, got {num_embeddings(model)} tokens"
        raise ModelError(name, what, "name the model that the policy was trained from")
    digest = weights_hash(model)
    with (
        closing(FinishedRequests(run.out / "logps.sqlite", of=f"{digest} {dtype}")) as finished,
        show_progress(f"log-probs of {name}", len(pairs)) as display,
    ):
        score = partial(answer_logps, model, max_tokens=2 * run.max_tokens)
        return kept_scores(score, pairs, finished, display.update), digest[:16]


def _rewards(source: Source, pairs: Sequence[HeldPair], run: RewardRun) -> tuple[Tensor, str]:
    judge = RewardJudge(source)
    digest = weights_hash(judge.model)

    def score(some: Sequence[Pair]) -> Tensor:
        rows = [[np.concatenate([pair.prompt, answer]) for answer in (pair.chosen, pair.rejected)] for pair in some]
        return torch.tensor(judge.rewards(rows), dtype=torch.float64)

    with (
        closing(FinishedRequests(run.out / "rewards.sqlite", of=f"{digest} {judge.dtype}")) as finished,
        show_progress(f"rewards of {source.name}", len(pairs)) as display,
    ):
        return kept_scores(score, pairs, finished, display.update, kind="reward"), digest[:16]


def _items(pairs: Sequence[HeldPair], found: Sequence[float]) -> list[Item]:
    items = []
    for number, (held, margin) in enumerate(zip(pairs, found, strict=True)):
        prompt = hashlib.sha256(held.pair.prompt.tobytes()).hexdigest()[:16]
        items.append(Item(REWARD_ACCURACY, str(number), prompt, held.source, float(margin > 0), "accuracy"))
        items.append(Item(REWARD_MARGIN, str(number), prompt, held.source, margin))
    return items
