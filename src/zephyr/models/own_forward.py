"""The proof that a scorer's numbers are its model's: log-probs of the model's own full forward beside the scorer's.

Every other check compares the scorer with itself, and shares its reading of the architecture: what the head does to
the hidden states, which settings are noise. Here the outer class of transformers computes, with the library's own
attention, mask and head. The cost is two forward passes of at most a thousand tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from zephyr.errors import ModelError
from zephyr.models.batch_scoring import device_of, frozen, reshard, runs_alone
from zephyr.models.collectives import on_every_rank
from zephyr.models.head import decoder_of, output_head, output_layer
from zephyr.models.rounding import SIGMAS, Rounding
from zephyr.models.scorer import ForestScorer
from zephyr.trees.forest import Ids, ScoredSequence, build_forest
from zephyr.trees.score import Head, edge_logps

COMPARED_TOKENS = 256
NUM_COMPARED = 4
# Logits that exist in float64 at a time.
ROWS = 64
# What a factor or a cap explains agrees with it this well, in any dtype.
EXPLAINED = 0.03


def check_own_forward(scorer: ForestScorer, sequences: Sequence[Ids], *, rounding: Rounding) -> None:
    """Check that the scorer gives every token of a few short sequences the log-prob that the model itself gives it.

    The scorer computes in the mode it is in, the model in eval mode with no setting switched off. With a sharded scorer
    every rank must pass the same sequences. Raises ModelError.
    """
    probe = _probe(sequences)
    if not probe:
        return
    ours, own = _scorer_logps(scorer, probe), torch.cat([_own_pass(scorer, ids).logps for ids in probe])
    # Ranks may round differently, and must look for the cause together.
    if not any(on_every_rank(lambda: _differ(ours, own, rounding))):
        return
    cause = _probable_cause(scorer, probe, own, rounding)
    name, off = type(scorer.transformers_model).__name__, _difference(ours, own)
    # A NaN on either side is the worst of all.
    worst = int((ours - own).abs().nan_to_num(torch.inf).argmax())
    limits = _limits(rounding, len(own))
    raise ModelError(
        name,
        f"its own forward gives other log-probs than our scoring: a token has {float(own[worst]):.6f} by {name}'s "
        f"forward and {float(ours[worst]):.6f} here; {len(own)} tokens differ by {off.spread:.1e} (root mean square) "
        f"and {off.mean:.1e} on average, where rounding explains {limits.spread:.0e} and {limits.mean:.0e}; "
        f"probably {cause}",
        "use another architecture, or report this with the versions that `zephyr env` prints",
    )


def _probe(sequences: Sequence[Ids]) -> list[Ids]:
    """The beginnings of a few of the sequences, each once, of at least two tokens."""
    cut = {ids[:COMPARED_TOKENS].tobytes(): ids[:COMPARED_TOKENS] for ids in sequences if len(ids) > 1}
    return list(cut.values())[:NUM_COMPARED]


def _scorer_logps(scorer: ForestScorer, probe: Sequence[Ids]) -> Tensor:
    """(n,) the log-prob of every token but each sequence's first, in one forest, on the CPU."""
    each = [ScoredSequence(ids, np.arange(len(ids)) == place) for ids in probe for place in range(1, len(ids))]
    with torch.no_grad():
        logps: Tensor = scorer(build_forest(each).to(device_of(scorer))).logps
    reshard(scorer)
    return logps.cpu().double()


class _Pass(NamedTuple):
    """One own forward of n + 1 tokens: (n,) log-probs on the CPU, and what passed through the head to make them.

    ``hidden`` (n, H): what the decoder gave, ``handed`` (n, H') what the output layer was given, ``logits`` (n, V). The
    first two are empty where the forward does not call these modules.
    """

    logps: Tensor
    hidden: Tensor
    handed: Tensor
    logits: Tensor


def _own_pass(scorer: ForestScorer, ids: Ids) -> _Pass:
    model, device = scorer.transformers_model, device_of(scorer)
    hidden, handed = torch.empty(0), torch.empty(0)

    def decoded(_module: nn.Module, _inputs: object, output: Sequence[Tensor]) -> None:
        nonlocal hidden
        hidden = output[0]

    def given(_module: nn.Module, inputs: Sequence[Tensor]) -> None:
        nonlocal handed
        handed = inputs[0]

    hooks = decoder_of(model).register_forward_hook(decoded), output_layer(model).register_forward_pre_hook(given)
    whole = torch.from_numpy(ids)[None].to(device)
    computed = torch.autocast(device.type, dtype=scorer.autocast) if scorer.autocast is not None else nullcontext()
    try:
        with runs_alone(scorer), scorer.as_published(), computed, torch.compiler.set_stance("force_eager"):
            logits = scorer.causal_lm(input_ids=whole, use_cache=False).logits[0, :-1]
    finally:
        for hook in hooks:
            hook.remove()
    targets = whole[0, 1:]
    logps = torch.cat(
        [_logps_of(*part) for part in zip(torch.split(logits, ROWS), torch.split(targets, ROWS), strict=True)]
    )
    hidden, handed = (found.flatten(0, -2)[: len(logits)] if found.numel() else found for found in (hidden, handed))
    return _Pass(logps.cpu(), hidden, handed, logits)


def _logps_of(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,) log-probs of targets (n,) under logits (n, V), in float64: float32 adds up a vocabulary off by 2e-5."""
    last = logits.shape[1] - 1
    logps = logits.double().log_softmax(-1).gather(1, targets.clamp(max=last)[:, None])[:, 0]
    return logps.masked_fill(targets > last, -torch.inf)  # no token of the model's vocabulary


class _Difference(NamedTuple):
    """How far log-probs differ, a token: the root mean square, and the size of the mean."""

    spread: float
    mean: float


def _difference(first: Tensor, second: Tensor) -> _Difference:
    return _Difference(float((first - second).square().mean().sqrt()), abs(float((first - second).mean())))


def _limits(rounding: Rounding, num_tokens: int) -> _Difference:
    """What rounding explains; errors of tokens are nearly independent, so their mean is far smaller than they are."""
    return _Difference(SIGMAS * rounding.per_token, SIGMAS * rounding.per_token / num_tokens**0.5)


def _differ(first: Tensor, second: Tensor, rounding: Rounding) -> bool:
    """Whether log-probs (n,) differ by more than rounding explains."""
    off, limits = _difference(first, second), _limits(rounding, len(first))
    # Written so that a NaN on either side counts as different.
    return not (off.spread <= limits.spread and off.mean <= limits.mean)


def _probable_cause(scorer: ForestScorer, probe: Sequence[Ids], own: Tensor, rounding: Rounding) -> str:
    """What the difference comes from, in words; the forward passes are those of every rank."""
    in_head = _cause_in_head(scorer, probe[0], rounding)
    with frozen(scorer):
        evaluated = _scorer_logps(scorer, probe)
    in_noise = _cause_in_noise(scorer, probe[0], rounding)
    if in_head is not None:
        return in_head
    if not _differ(evaluated, own, rounding):
        return "it computes something else in train mode than in eval mode, such as experts drawn at random"
    return in_noise or "its layers attend, or count positions, in another way than prefix trees do"


def _cause_in_noise(scorer: ForestScorer, ids: Ids, rounding: Rounding) -> str | None:
    with_settings, switched_off = _own_pass(scorer, ids).logps, scorer.noise
    scorer.noise = []
    try:
        without = _own_pass(scorer, ids).logps
    finally:
        scorer.noise = switched_off
    if not _differ(with_settings, without, rounding):
        return None
    names = ", ".join(sorted({noise.name for noise in switched_off}))
    return f"a setting that is switched off as noise takes part in the computation: {names}"


def _cause_in_head(scorer: ForestScorer, ids: Ids, rounding: Rounding) -> str | None:
    """What the model's head does that the scorer does not, in words; None where the scorer reads it right."""
    itself = _own_pass(scorer, ids)
    if not itself.hidden.numel() or not itself.handed.numel():
        return "a head that does not read what the decoder gives"
    with runs_alone(scorer):
        head = output_head(scorer.transformers_model)
        handed = scorer.handed_over(itself.hidden)
        targets = torch.from_numpy(ids[1:]).to(handed.device)
        ours = edge_logps(handed, head, targets)[0].cpu().double()
        if not _differ(ours, itself.logps, rounding):
            return None
        if handed.shape != itself.handed.shape or _factor(handed, itself.handed) is None:
            return "a transform between its decoder and its output layer"
        return _cause_in_logits(handed, head, itself.logits.float())


def _cause_in_logits(handed: Tensor, head: Head, logits: Tensor) -> str:
    rows = head.weight.shape[0]
    if logits.shape[1] != rows:
        return f"an unpadded vocabulary: its head gives {logits.shape[1]} logits, its output layer {rows}"
    ours = head.scale * functional.linear(handed.to(head.weight.dtype), head.weight, head.bias).to(logits.dtype)
    factor = _factor(ours, logits)
    if factor is not None:
        return f"a head multiplier: its logits are {factor:.3g} times those we read from its configuration"
    if bool((logits.abs() <= ours.abs() + EXPLAINED * ours.abs().max()).all()):
        return f"a soft cap of its logits, the largest of which is {float(logits.abs().max()):.4g}"
    return "a head that does something else than its configuration says"


def _factor(first: Tensor, second: Tensor) -> float | None:
    """The number by which ``second`` is ``first``, both of any shape; None where there is none."""
    first, second = first.double(), second.double()
    factor = float((first * second).sum() / first.square().sum())
    off = (second - factor * first).square().mean().sqrt()
    return factor if off <= EXPLAINED * second.square().mean().sqrt() else None
