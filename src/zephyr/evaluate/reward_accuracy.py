"""How often a policy, measured against its reference, prefers what was preferred: on any pairs, and in parts of them.

A reward is beta times the policy's log-prob of an answer minus the reference's, as RewardBench scores models trained
by DPO. Log-probs are kept on disk, so that an interrupted run goes on where it stopped. Source: arXiv 2403.13787.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zephyr.evaluate.harness.finished import Answer, FinishedRequests
from zephyr.evaluate.preference import Pair, PreferenceMetrics, answer_logps, preference_metrics, prompt_numbers
from zephyr.models.scorer import CausalLM

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


def kept_logps(
    model: CausalLM,
    pairs: Sequence[HeldPair],
    finished: FinishedRequests,
    show: Callable[[int], None],
    *,
    max_tokens: int,
) -> Tensor:
    """(n, 2) float64 log-probs of chosen and rejected answers, those of earlier runs from `finished`."""
    keys = [_keys(finished, held.pair) for held in pairs]
    known = finished.known([key for both in keys for key in both])
    missing = [index for index, both in enumerate(keys) if not all(key in known for key in both)]
    show(len(pairs) - len(missing))
    for start in range(0, len(missing), PAIRS_TOGETHER):
        some = missing[start : start + PAIRS_TOGETHER]
        logps = answer_logps(model, [pairs[index].pair for index in some], max_tokens=max_tokens).tolist()
        fresh: dict[str, Answer] = {}
        for index, row in zip(some, logps, strict=True):
            fresh.update(zip(keys[index], row, strict=True))
        # An answer that stands in several pairs keeps the log-prob it had first.
        fresh = {key: value for key, value in fresh.items() if key not in known}
        finished.add(fresh)
        known |= fresh
        show(len(pairs) - len(missing) + start + len(some))
    return torch.tensor([[_number(known[key]) for key in both] for both in keys], dtype=torch.float64)


def reward_accuracy(
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
    """The reward of each chosen answer minus that of the rejected one."""
    rewards = beta * (logps - ref_logps)
    return [float(margin) for margin in rewards[:, 0] - rewards[:, 1]]


def _keys(finished: FinishedRequests, pair: Pair) -> tuple[str, str]:
    prompt = np.asarray(pair.prompt).tolist()
    chosen, rejected = (
        finished.key("answer log-prob", prompt, np.asarray(answer).tolist()) for answer in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def _number(answer: object) -> float:
    assert isinstance(answer, float)
    return answer


def parts_of(found: RewardAccuracy) -> Mapping[str, Mapping[str, PreferenceMetrics]]:
    """The metrics by the name of the part and of its group."""
    return {"all": {"all": found.overall}, "source": found.sources, "tokens": found.lengths, "longer": found.longer}
