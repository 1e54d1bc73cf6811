"""What a reader of the training curves would say: in words, with numbers and steps, of every stage that trained.

The checks of the training itself see alarming patterns while it runs; here is said what the finished curves show.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from zephyr.deliver.run_facts import evaluations
from zephyr.recipe.stage_sections import PRETRAIN
from zephyr.records.fields import Json
from zephyr.runs.reader import FinishedStage, RunRecord, number

_ACCURACY, _LOSS = "eval_rewards/accuracies", "eval_loss"
# Less than this lost since the best evaluation is not spoken of.
_FALL = 0.02
_LOSS_RISE = 0.01
# Of the norm's median; one batch in training that pulls this hard is worth a look.
_SPIKE = 10.0
# The training loss below the held-out one by this share: examples are remembered more than rules learned.
_GAP = 0.3


class CurveNote(NamedTuple):
    """What the curves of a stage show; `is_warning`: a reader would act on it."""

    stage: str
    words: str
    is_warning: bool


class _Curve(NamedTuple):
    steps: Sequence[int]
    values: Sequence[float]


def curve_notes(run: RunRecord) -> list[CurveNote]:
    """The notes on all trainings, in the order of the stages."""
    return [note for stage in run.stages.values() for note in _stage_notes(stage)]


def curve_warnings(run: RunRecord) -> list[str]:
    """The notes that a reader would act on, each with its stage."""
    return [f"{note.stage}: {note.words}" for note in curve_notes(run) if note.is_warning]


def _stage_notes(stage: FinishedStage) -> Iterator[CurveNote]:
    log = stage.log()
    held_out = number(stage.facts.get("held_out"))
    for words, is_warning in _notes(log, int(held_out or 0)):
        yield CurveNote(stage.name, words, is_warning and stage.name != PRETRAIN)


def _notes(log: Sequence[Mapping[str, Json]], held_out: int) -> Iterator[tuple[str, bool]]:
    loss = _curve(log, "loss")
    if len(loss.values) > 1:
        yield f"the training loss went from {loss.values[0]:.3f} to {loss.values[-1]:.3f}", False
    measured = evaluations(log)
    accuracy, eval_loss = _curve(measured, _ACCURACY), _curve(measured, _LOSS)
    if len(accuracy.values) > 1:
        yield _accuracy_words(accuracy, held_out)
    if len(eval_loss.values) > 1:
        yield _loss_words(eval_loss)
    elif loss.values:
        yield _few_evaluations(len(eval_loss.values)), False
    if eval_loss.values and loss.values:
        yield from _gap(loss.values, eval_loss.values[-1])
    yield from _spikes(_curve(log, "grad_norm"))


def _accuracy_words(curve: _Curve, held_out: int) -> tuple[str, bool]:
    best = max(range(len(curve.values)), key=curve.values.__getitem__)
    first, top, last = curve.values[0], curve.values[best], curve.values[-1]
    if top - last <= _FALL:
        return f"held-out accuracy ({_ACCURACY}) went from {first:.2f} to {last:.2f}{_doubt(last, held_out)}", False
    error = _standard_error(top, held_out)
    chance = "; with so few rows that may be chance" if error is not None and top - last < 2 * error else ""
    words = (
        f"held-out accuracy ({_ACCURACY}) fell from {top:.2f} at step {curve.steps[best]:,} to {last:.2f} at the end"
        f"{_doubt(last, held_out)}{chance}; keep the best checkpoint (train.metric_for_best_model: {_ACCURACY}) or "
        "train for fewer steps"
    )
    return words, True


def _loss_words(curve: _Curve) -> tuple[str, bool]:
    best = min(range(len(curve.values)), key=curve.values.__getitem__)
    first, lowest, last = curve.values[0], curve.values[best], curve.values[-1]
    if last - lowest > _LOSS_RISE * abs(lowest):
        words = (
            f"held-out loss ({_LOSS}) rose from {lowest:.3f} at step {curve.steps[best]:,} to {last:.3f} at the end; "
            f"keep the best checkpoint (train.metric_for_best_model: {_LOSS}) or train for fewer steps"
        )
        return words, True
    falls = len(curve.values) > 2 and curve.values[-2] - last > _LOSS_RISE * abs(last)
    more = "; it was still falling, so more steps may help" if falls else ""
    return f"held-out loss ({_LOSS}) went from {first:.3f} to {last:.3f}, its best{more}", False


def _few_evaluations(count: int) -> str:
    measured = "measured once, at the end" if count else "never measured"
    return f"held-out rows were {measured}, so nothing is known of its best step; set train.eval_steps"


def _gap(losses: Sequence[float], held_out: float) -> Iterator[tuple[str, bool]]:
    recent = sorted(losses[-5:])[len(losses[-5:]) // 2]
    if recent > 0 and held_out > (1 + _GAP) * recent:
        words = f"the loss ended at {recent:.3f} on training rows and at {held_out:.3f} on held-out ones: it overfits"
        yield words, True


def _spikes(norms: _Curve) -> Iterator[tuple[str, bool]]:
    """A note on gradient norms far above the others; those of the first tenth, the warm-up, are let be."""
    later = list(zip(norms.steps, norms.values, strict=True))[len(norms.values) // 10 :]
    if len(later) < 10:
        return
    usual = sorted(value for _, value in later)[len(later) // 2]
    step, highest = max(later, key=lambda one: one[1])
    if highest > _SPIKE * usual > 0:
        yield f"the gradient norm was {highest:.3g} at step {step:,}, {highest / usual:.0f} times the median", True


def _doubt(accuracy: float, held_out: int) -> str:
    error = _standard_error(accuracy, held_out)
    return "" if error is None else f" ({held_out:,} rows, standard error {error:.2f})"


def _standard_error(share: float, count: int) -> float | None:
    return math.sqrt(share * (1 - share) / count) if count else None


def _curve(lines: Sequence[Mapping[str, Json]], name: str) -> _Curve:
    found = [(number(line.get("step")), number(line.get(name))) for line in lines]
    there = [(int(step), value) for step, value in found if step is not None and value is not None]
    return _Curve([step for step, _ in there], [value for _, value in there])
