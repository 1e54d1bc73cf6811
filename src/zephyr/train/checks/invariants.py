"""Proofs that training makes of itself while it runs: what must hold, and an explanation where it does not.

Each check raises InvariantError if something is wrong. Those of step 0 cost a few forward passes of a probe
batch, `check_finite` nothing. Advice on the health of a sound run is in `health.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from zephyr.data.tokenize.token_store import Example
from zephyr.errors import InvariantError
from zephyr.models.batch_scoring import ScoredRow, device_of, frozen
from zephyr.models.rounding import Rounding
from zephyr.train.objectives import Objective, Scored
from zephyr.trees.forest import Forest, Ids, ScoredSequence, build_forest
from zephyr.trees.score import SequenceScores

# What scores a forest: a `ForestScorer`, or any function that does the same.
Scorer = Callable[[Forest], SequenceScores]

# How near a loss of about 1 must come to its value at step 0, by the precision of the computation.
LOSS_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-6, torch.float16: 5e-3, torch.bfloat16: 2e-2}
# A float64 sum in another order, as accelerators add, moves by less; one bit of a float32 log-prob by more.
SUM_ORDER = 1e-9

NUM_LISTED = 3


class Supervision(NamedTuple):
    """How much of the data is learned: tokens, those that the loss counts, examples with a stop token."""

    num_tokens: int
    num_supervised: int
    num_with_stop: int
    num_examples: int

    @property
    def share(self) -> float:
        """The supervised share of the tokens."""
        return self.num_supervised / max(1, self.num_tokens)


def check_first_loss(
    loss: float, objective: Objective, examples: Sequence[Example], ref_logps: Tensor, *, rounding: Rounding
) -> None:
    """Check that the first loss is what the objective gives where the policy equals its reference.

    `loss` is that of the whole first step before any update, over all micro-batches and ranks, without a
    router's balance loss; `examples` are the global batch, `ref_logps` (B, C) its reference. For sigmoid DPO
    it is ln 2. Raises InvariantError.
    """
    scored = _at_zero_margin(objective, examples, ref_logps)
    totals = objective.totals(examples)
    at_zero = scored.logps.clone().requires_grad_()
    expected = objective.loss(scored._replace(logps=at_zero), totals)
    (slopes,) = torch.autograd.grad(expected, at_zero)
    # A large beta or a small batch lets more rounding through to the loss; three standard deviations of it.
    let_through = float((slopes * rounding.tolerance(scored.num_tokens)).norm()) / 2
    value = float(expected.detach())
    tolerance = max(LOSS_TOLERANCE[rounding.dtype] * max(1.0, abs(value)), let_through)
    if abs(loss - value) <= tolerance:
        return
    ratio = f", {loss / value:.2f} times that" if value and math.isfinite(loss) else ""
    raise InvariantError(
        "step 0",
        f"the policy is still its own reference, so the {objective.name} loss must be {value:.6f} (within "
        f"{tolerance:.0e}), got {loss:.6f}{ratio}; usually sequences of a micro-batch see each other, the "
        "reference's log-probs belong to another model or other tokens, or shares of the loss are added up "
        "wrongly",
        "clear the reference store and run again; if it stays, set max_tokens_per_micro_batch so low that "
        "every example runs alone: a loss that is right then points to the layout",
    )


def check_reference_agrees(
    logps: Tensor, ref_logps: Tensor, num_tokens: Tensor, names: Sequence[str], *, rounding: Rounding
) -> None:
    """Check that policy and reference, of the same weights, give the same log-probs; all (n, C).

    Raises InvariantError.
    """
    _agree(
        logps,
        ref_logps,
        num_tokens,
        names,
        rounding=rounding,
        complaint=_Complaint(
            where="reference log-probs",
            claim="the policy has the reference's weights, but not its log-probs",
            sides=("policy", "reference"),
            meaning="usually they were computed by another model, with adapters on, or in another precision",
            remedy="see if the line 'reference: ...' of the log names the right model, and clear its store",
        ),
    )


def check_layouts_agree(
    scorer: Scorer, sequences: Sequence[ScoredSequence], names: Sequence[str], *, rounding: Rounding
) -> None:
    """Check that the sequences get the same log-probs in one shared forest as each in a forest of its own.

    What a sequence sees in the shared forest is compared exactly first: positions that run on by a few tokens can move
    log-probs by less than 16 bits round them. With a sharded scorer every rank must pass equally many sequences.
    Raises InvariantError.
    """
    shared = build_forest(sequences)
    _check_what_is_seen(shared, sequences, names)
    together = _scores(scorer, shared)
    alone = torch.cat([_scores(scorer, build_forest([sequence])).logps for sequence in sequences])
    _agree(
        together.logps[:, None],
        alone[:, None],
        together.num_tokens[:, None],
        names,
        rounding=rounding,
        complaint=_Complaint(
            where="layout of sequences",
            claim="packed with others a sequence has other log-probs than alone",
            sides=("packed", "alone"),
            meaning="usually attention does not keep sequences apart, or positions do not restart",
            remedy="do not train this model on this backend: try another device or torch, and report it",
        ),
    )


def _check_what_is_seen(forest: Forest, sequences: Sequence[ScoredSequence], names: Sequence[str]) -> None:
    """Check that the last token of every sequence sees the sequence's tokens, at positions that count from 0."""
    ids, position, reach = (vector.cpu().numpy() for vector in (forest.ids, forest.position, forest.reach))
    place = np.arange(forest.num_tokens)
    for sequence, last, name in zip(sequences, forest.last.tolist(), names, strict=True):
        seen = (place <= last) & (last < reach)
        if not np.array_equal(ids[seen], sequence.ids):
            found = f"sees {int(seen.sum())} tokens, which are not its own {len(sequence.ids)}"
        elif not np.array_equal(position[seen], np.arange(len(sequence.ids))):
            found = f"has positions {position[seen].min()} to {position[seen].max()}, not 0 to {len(sequence.ids) - 1}"
        else:
            continue
        raise InvariantError(
            "layout of sequences",
            f"packed with others a sequence must keep its tokens and positions, but that of {name} {found}",
            "do not train with this version of Zephyr, and report it with the versions that `zephyr env` prints",
        )


def check_no_leak(
    scorer: Scorer,
    sequences: Sequence[ScoredSequence],
    names: Sequence[str],
    *,
    within: Rounding | None = None,
    changing: Iterable[int] | None = None,
) -> None:
    """Check that changing the tokens that only one sequence has leaves the others' log-probs as they are.

    To the bit, or up to the rounding `within`: mixtures of experts group tokens by what they
    contain, so there other tokens can move last bits. Every sequence is changed in its turn, or those numbered
    ``changing``, a forward each.
    With a sharded scorer every rank must pass the same sequences. Raises InvariantError.
    """
    scores = _scores(scorer, build_forest(sequences))
    before = scores.logps.double()
    allowed = torch.full_like(before, 0.0 if device_of(scorer).type == "cpu" else SUM_ORDER)
    if within is not None:
        allowed = within.tolerance(scores.num_tokens)
    for changed in range(len(sequences)) if changing is None else changing:
        forest = _with_other_tokens(sequences, changed)
        if forest is None:  # it has no token of its own
            continue
        after = _scores(scorer, forest).logps.double()
        is_other = torch.tensor([not np.array_equal(one.ids, sequences[changed].ids) for one in sequences])
        leaked = torch.nonzero(is_other & ~((before - after).abs() <= allowed)).flatten().tolist()
        if leaked:
            first = leaked[0]
            raise InvariantError(
                "layout of sequences",
                f"changing tokens of {names[changed]} changed the log-prob of {names[first]} from "
                f"{float(before[first]):.6f} to {float(after[first]):.6f} ({len(leaked)} of {len(sequences)} "
                "sequences are affected); the attention lets sequences of a micro-batch see each other",
                "do not train this model on this backend: try another device or torch, and report it",
            )


def check_supervision(
    rows: Sequence[ScoredRow], names: Sequence[str], *, stop_ids: Collection[int], all_allowed: bool = False
) -> Supervision:
    """How much of the data is supervised. Raises InvariantError if it is nothing, everything, or no stop token.

    `all_allowed`: everything may be supervised, as in continued pretraining. Without `stop_ids` no stop token
    is looked for. An example with a sequence that has no scored token is an error, too, that names it.
    """
    counts = [_supervised(row, stop_ids) for row in rows]
    total = Supervision(*map(sum, zip(*counts, strict=True))) if counts else Supervision(0, 0, 0, 0)
    empty = [name for name, row in zip(names, rows, strict=True) if _has_unscored(row)]
    if empty or not rows:
        raise InvariantError(
            "supervised tokens",
            f"{len(empty)} of {len(rows)} examples have a sequence without any ({_listed(empty)}); usually "
            "truncation removed the answer, or the chat template marks no assistant turn",
            "raise max_length, remove these examples, or look at the loss mask with `zephyr inspect`",
        )
    if not all_allowed and total.num_supervised == total.num_tokens:
        raise InvariantError(
            "supervised tokens",
            f"all {total.num_tokens} tokens are supervised, including prompts; usually the loss mask was not applied",
            "look at it with `zephyr inspect`, or set loss_on to everything, as in continued pretraining",
        )
    if stop_ids and not total.num_with_stop:
        raise InvariantError(
            "supervised tokens",
            f"no stop token (id {', '.join(map(str, sorted(stop_ids)))}) is among the "
            f"{total.num_supervised}, so the model would not learn to end its answers",
            "let the chat template end assistant turns with the end-of-sequence token inside the loss mask, "
            "and raise max_length if truncation cuts it off",
        )
    return total


def check_finite(
    loss: float,
    grad_norm: float,
    *,
    step: int,
    names: Sequence[str] = (),
    logps: Tensor | None = None,
    parameters: Iterable[tuple[str, Tensor]] = (),
) -> None:
    """Check that loss and gradient norm are finite; to be called before the optimizer steps.

    To name the culprits: `logps` (n, C) of the examples `names`, as far as known, and `parameters`, which are
    only read if something is wrong. Raises InvariantError.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    found = [name for name, tensor in parameters if not _is_finite(tensor)]
    broken = [] if logps is None else torch.nonzero(~logps.isfinite().all(dim=1)).flatten().tolist()
    details = [f"the loss is {loss} and the gradient norm {grad_norm}"]
    remedy = "lower learning_rate, use bf16 or float32 instead of fp16, and look at the examples"
    if found:
        details.append(f"weights that are not finite: {_listed(found)}")
        remedy = "start again from a model or checkpoint without such weights"
    if broken:
        details.append(f"examples whose log-prob is not finite: {_listed([names[index] for index in broken])}")
    elif names:
        details.append(f"examples of the step: {_listed(names)}")
    raise InvariantError(f"step {step}", "; ".join(details), f"the optimizer has not stepped; {remedy}")


class _Complaint(NamedTuple):
    """The words for two tables that differ."""

    where: str
    claim: str
    sides: tuple[str, str]
    meaning: str
    remedy: str


def _agree(
    first: Tensor,
    second: Tensor,
    num_tokens: Tensor,
    names: Sequence[str],
    *,
    rounding: Rounding,
    complaint: _Complaint,
) -> None:
    """Check that two tables (n, C) of log-probs agree up to rounding."""
    first, second = first.detach().cpu().double(), second.detach().cpu().double()
    tolerance = rounding.tolerance(num_tokens.cpu())
    # Written so that a NaN on either side counts as different.
    differing = ~((first - second).abs() <= tolerance)
    if not differing.any():
        return
    excess = torch.where(differing, ((first - second).abs() / tolerance).nan_to_num(math.inf, math.inf), 0.0)
    row, column = divmod(int(excess.argmax()), first.shape[1])
    raise InvariantError(
        complaint.where,
        f"{complaint.claim}: {names[row]} has {complaint.sides[0]} {float(first[row, column]):.6f}, "
        f"{complaint.sides[1]} {float(second[row, column]):.6f}, where rounding explains "
        f"{float(tolerance[row, column]):.0e} ({int(differing.sum())} of {differing.numel()} differ); "
        f"{complaint.meaning}",
        complaint.remedy,
    )


def _at_zero_margin(objective: Objective, examples: Sequence[Example], ref_logps: Tensor) -> Scored:
    """What a policy that equals its reference would be given for its loss."""
    reference = ref_logps.detach().cpu().double()
    counts = [[int(sequence.scored.sum()) for sequence in objective.sequences(one)] for one in examples]
    num_tokens = torch.tensor(counts, dtype=torch.int64)
    labels = objective.labels(examples)
    return Scored(reference, num_tokens, reference, torch.zeros_like(reference), labels)


def _scores(scorer: Scorer, forest: Forest) -> SequenceScores:
    with frozen(scorer):
        scores = scorer(forest.to(device_of(scorer)))
        return SequenceScores(scores.logps.cpu(), scores.num_tokens.cpu(), scores.mean_logits.cpu())


def _with_other_tokens(sequences: Sequence[ScoredSequence], changed: int) -> Forest | None:
    """The forest with one sequence's own tokens replaced and nothing moved; None if it has none of its own.

    Sequences with the same ids are changed with it.
    """
    ids = sequences[changed].ids
    others = [other.ids for other in sequences if not np.array_equal(other.ids, ids)]
    start = max((_common_prefix(ids, other) for other in others), default=0)
    if start >= len(ids):
        return None
    known = np.unique(np.concatenate([sequence.ids for sequence in sequences]))
    layout = build_forest(sequences)
    for shift in range(1, len(known)):
        # Only ids that occur, for they are sure to be in the vocabulary.
        own = known[(np.searchsorted(known, ids[start:]) + shift) % len(known)]
        replaced = np.concatenate([ids[:start], own])
        now = [one._replace(ids=replaced) if np.array_equal(one.ids, ids) else one for one in sequences]
        forest = build_forest(now)
        # A new id may make it share a token with another sequence; then another id is tried.
        if torch.equal(forest.reach, layout.reach) and torch.equal(forest.position, layout.position):
            return forest
    return None


def _common_prefix(first: Ids, second: Ids) -> int:
    length = min(len(first), len(second))
    differing = np.flatnonzero(first[:length] != second[:length])
    return int(differing[0]) if len(differing) else length


def _union(row: ScoredRow) -> list[ScoredSequence]:
    """A row's distinct sequences; a token counts as scored if it is so in one of those with the same ids."""
    masks: dict[bytes, ScoredSequence] = {}
    for sequence in row:
        if len(sequence.ids):
            key = sequence.ids.tobytes()
            known = masks.get(key, sequence)
            masks[key] = known._replace(scored=known.scored | sequence.scored)
    return list(masks.values())


def _supervised(row: ScoredRow, stop_ids: Collection[int]) -> tuple[int, int, int, int]:
    """Tokens that could be targets, those that are, and 1 if a stop token is among them; a count of 1."""
    distinct = _union(row)
    targets = [sequence.ids[sequence.scored] for sequence in distinct]
    has_stop = any(np.isin(ids, list(stop_ids)).any() for ids in targets)
    return sum(len(s.ids) - 1 for s in distinct), sum(map(len, targets)), int(has_stop), 1


def _has_unscored(row: ScoredRow) -> bool:
    """Whether a sequence of the row has no scored token, or the row no token at all."""
    distinct = _union(row)
    return not distinct or any(not sequence.scored.any() for sequence in distinct)


def _is_finite(tensor: Tensor) -> bool:
    # Of a sharded weight every rank looks at its own part: a collective call here could wait for ever.
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return bool(local.isfinite().all())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return (", ".join(names[:NUM_LISTED]) or "there are no examples") + more
