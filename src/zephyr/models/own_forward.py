"""The proof that a scorer's numbers are its model's: log-probs of the model's own full forward beside the scorer's.

Every other check compares the scorer with itself, and shares its reading of the architecture: what the head does to
the hidden states, which settings are noise. Here the outer class of transformers computes, with the library's own
attention, mask and head. The cost is two forward passes of at most a thousand tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from zephyr.errors import ModelError
from zephyr.models.batch_scoring import device_of, frozen, reshard, runs_alone
from zephyr.models.collectives import on_every_rank
from zephyr.models.head import decoder_of, output_head, output_layer
from zephyr.models.reward_model import own_rewards, read_ids
from zephyr.models.rounding import SIGMAS, Rounding, measured_rounding
from zephyr.models.scorer import CausalLM, ForestScorer
from zephyr.trees.forest import Ids, ScoredSequence, all_scored, build_forest, last_scored

COMPARED_TOKENS = 256
NUM_COMPARED = 4
# Logits that exist in float64 at a time.
ROWS = 64
# Logits of the same hidden states agree this well, by their root mean square, or up to two roundings.
LEAST_TOLERANCE = 1e-4
_REMEDY = "use another architecture, or report this with the versions that `zephyr env` prints"


def proven_scorer(model: CausalLM, sequences: Sequence[Ids]) -> ForestScorer:
    """A scorer of the model as it stands, proven on the beginnings of the sequences. Raises ModelError."""
    scorer = ForestScorer(model)
    check_scorer(scorer, sequences)
    return scorer


def check_scorer(scorer: ForestScorer, sequences: Sequence[Ids]) -> None:
    """Check as ``check_own_forward`` does, within the rounding measured on the same tokens. Raises ModelError."""
    probe = [all_scored(ids) for ids in _probe(sequences)]
    if probe:
        dtype = scorer.autocast or next(scorer.parameters()).dtype
        check_own_forward(scorer, sequences, rounding=measured_rounding(scorer, probe, dtype=dtype))


def check_own_forward(scorer: ForestScorer, sequences: Sequence[Ids], *, rounding: Rounding) -> None:
    """Check that the scorer gives every token of a few short sequences the log-prob that the model itself gives it.

    The scorer computes in the mode it is in, the model in eval mode with no setting switched off. With a sharded scorer
    every rank must pass the same sequences. Of a reward model the rewards are compared, padded to one length. Raises
    ModelError.
    """
    probe = _probe(sequences)
    if not probe:
        return
    if scorer.gives_rewards:
        _check_own_rewards(scorer, probe, rounding)
        return
    ours, own = _scorer_logps(scorer, probe), torch.cat([_own_pass(scorer, ids).logps for ids in probe])
    name = type(scorer.transformers_model).__name__
    _check_head(scorer, probe[0][: ROWS + 1], name, rounding.dtype)
    # Ranks may round differently, and must look for the cause together.
    if not any(on_every_rank(lambda: _differ(ours, own, rounding))):
        return
    cause, off = _probable_cause(scorer, probe, own, rounding), _difference(ours, own)
    # A NaN on either side is the worst of all.
    worst = int((ours - own).abs().nan_to_num(torch.inf).argmax())
    limits = _limits(rounding, len(own))
    raise ModelError(
        name,
        f"its own forward gives other log-probs than our scoring: a token has {float(own[worst]):.6f} by {name}'s "
        f"forward and {float(ours[worst]):.6f} here; {len(own)} tokens differ by {off.spread:.1e} (root mean square) "
        f"and {off.mean:.1e} on average, where rounding explains {limits.spread:.0e} and {limits.mean:.0e}; "
        f"probably {cause}",
        _REMEDY,
    )


def _check_own_rewards(scorer: ForestScorer, probe: Sequence[Ids], rounding: Rounding) -> None:
    pad = scorer.transformers_model.config.get_text_config().pad_token_id
    probe = [read_ids(ids, pad) for ids in probe]  # a cut may end in what is padding at the end alone
    with frozen(scorer):
        forest = build_forest([last_scored([], ids) for ids in probe]).to(device_of(scorer))
        ours: Tensor = scorer(forest).logps.cpu()
    with runs_alone(scorer), scorer.as_published(), _computing(scorer), torch.compiler.set_stance("force_eager"):
        own = own_rewards(scorer.transformers_model, probe)
    off, limit = float((ours - own).abs().max()), float(rounding.tolerance(torch.ones(1)))
    if any(on_every_rank(lambda: not off <= limit)):  # NaN is above every limit
        name = type(scorer.transformers_model).__name__
        what = f"its own forward gives other rewards than ours, by up to {off:.1e}, where rounding explains {limit:.0e}"
        raise ModelError(name, what, _REMEDY)


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


@contextmanager
def _computing(scorer: ForestScorer) -> Iterator[None]:
    """Inside, products are made in the scorer's dtype."""
    kind = device_of(scorer).type
    with torch.autocast(kind, dtype=scorer.autocast) if scorer.autocast is not None else nullcontext():
        yield


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
    try:
        with runs_alone(scorer), scorer.as_published(), _computing(scorer), torch.compiler.set_stance("force_eager"):
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
    """What the difference comes from, in words; the forward passes are those of every rank.

    The head is right, but where the forward goes around the decoder's own: then it was not compared.
    """
    with frozen(scorer):
        evaluated = _scorer_logps(scorer, probe)
    in_noise = _cause_in_noise(scorer, probe[0], rounding)
    if not _differ(evaluated, own, rounding):
        return "it computes something else in train mode than in eval mode, such as experts drawn at random"
    layers = "its layers attend, or count positions, in another way than prefix trees do"
    unseen = not _own_pass(scorer, probe[0]).hidden.numel()
    return in_noise or (f"its head does not read what its decoder gives, or {layers}" if unseen else layers)


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


def _check_head(scorer: ForestScorer, ids: Ids, name: str, dtype: torch.dtype) -> None:
    """Check that the scorer makes the model's logits of the model's hidden states. Raises ModelError.

    Log-probs in 16 bits are too coarse to show a weak soft cap or a few rows of padding; these logits are not.
    """
    itself = _own_pass(scorer, ids)
    if not itself.hidden.numel():  # the decoder is not called as a whole: log-probs alone must tell
        return
    tolerance = max(2 * torch.finfo(dtype).eps, LEAST_TOLERANCE)
    with runs_alone(scorer), _computing(scorer):
        head, handed = output_head(scorer.transformers_model), scorer.handed_over(itself.hidden)
        logits = head.scale * functional.linear(handed.to(head.weight.dtype), head.weight, head.bias).float()
    logits = logits if head.softcap is None else head.softcap * (logits / head.softcap).tanh()
    cause = _cause_in_logits(logits, itself.logits.float(), tolerance)
    if cause is not None and itself.handed.numel() and not _is_multiple(handed, itself.handed, tolerance):
        cause = "a transform between its decoder and its output layer"
    if any(on_every_rank(lambda: cause is not None)):
        shared = min(logits.shape[1], itself.logits.shape[1])
        ours, own = (found[:, :shared].flatten().float() for found in (logits, itself.logits))
        worst = int((ours - own).abs().nan_to_num(torch.inf).argmax())
        raise ModelError(
            name,
            f"its own forward makes other logits of the same hidden states: one is {float(own[worst]):.6f} by {name}'s "
            f"head and {float(ours[worst]):.6f} here; probably {cause}",
            _REMEDY,
        )


def _cause_in_logits(ours: Tensor, own: Tensor, tolerance: float) -> str | None:
    """What makes the model's logits (n, V) others than ours, in words; None where they are the same."""
    if own.shape != ours.shape:
        return f"an unpadded vocabulary: its head gives {own.shape[1]} logits, its output layer {ours.shape[1]}"
    if not _off(ours, own, tolerance):
        return None
    largest, expected = float(own.abs().max()), float(ours.abs().max())
    small = ours.abs() <= ours.abs().median()
    of_small = float((ours[small] * own[small]).sum() / ours[small].square().sum())
    if abs(1 - of_small) < (1 - largest / expected) / 2:
        return f"a soft cap of its logits, the largest of which is {largest:.4g}, not {expected:.4g}"
    factor = _factor(ours, own, tolerance)
    if factor is not None:
        return f"a head multiplier: its logits are {factor:.3g} times those we read from its configuration"
    return "a head that does something else than its configuration says"


def _off(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Whether ``second`` is not ``first``, of one shape, up to a share of its root mean square."""
    difference = (second.double() - first.double()).square().mean().sqrt()
    return not difference <= tolerance * second.double().square().mean().sqrt()


def _is_multiple(first: Tensor, second: Tensor, tolerance: float) -> bool:
    return first.shape == second.shape and _factor(first, second, tolerance) is not None


def _factor(first: Tensor, second: Tensor, tolerance: float) -> float | None:
    """The number by which ``second`` is ``first``, of one shape; None where there is none."""
    first, second = first.double(), second.double()
    factor = float((first * second).sum() / first.square().sum())
    return None if _off(factor * first, second, tolerance) else factor
