"""The health of preference training, read off its metrics and said in words: advice, never a stop.

Each check is a pure function from the metric history to a note or None. A history is the run's logged lines
in order, each a mapping with `step`, `epoch` and the metrics of that line; those of evaluations begin with
`eval_`. What must stop a run is in `invariants.py`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

LogLine = Mapping[str, float]
History = Sequence[LogLine]

# The mean number of tokens of the answers sampled during training, as the loop logs it.
GENERATED_TOKENS = "generations/mean_tokens"

# Training lines are noisy (each is a few batches), so this many of them are averaged.
SMOOTHED_LINES = 5

# The chosen log-probs of Zephyr-7B-beta fell by 18 % in three epochs, those of alpha by 1 % in one, and both
# chat well. At 50 % a token's probability p has become p^1.5: the policy forgets how to write such answers.
COLLAPSE_SHARE = 0.5
# Below half a nat even half of a tiny number is nothing. Averages per token (IPO, ORPO) can pass it too.
COLLAPSE_NATS = 0.5

# DPO exaggerates its data's liking for long answers (arXiv 2403.19159). Half as long again is more than a
# change of style, and enough to move a judge.
GROWTH_FACTOR = 1.5
# So that growth from 4 to 8 tokens raises no alarm.
GROWTH_TOKENS = 20.0

# At a margin of 5 a pair's gradient, sigmoid(-5), is 0.7 % of full strength: little more is learned from it.
SATURATED_MARGIN = 5.0
SATURATED_ACCURACY = 0.99

# Both published runs were above 0.70 at their first line, step 100. Ten lines of ten batches of 32 pairs have
# a standard error of 0.01, of one batch of 8 pairs 0.06: five hundredths are left for noise.
CHANCE_ACCURACY = 0.55
CHANCE_LINES = 10
# As many lines before them are forgiven: the warm-up, where the model is still its own reference.
CHANCE_PATIENCE = 10
CHANCE_EVALUATIONS = 3

# At its two epoch boundaries the training loss of Zephyr-7B-beta fell by factors of 6.0 and 5.1; elsewhere
# learning does not lower it threefold within a few lines.
BOUNDARY_FACTOR = 3.0
# A fall below this is a change from little to less.
BOUNDARY_FALL = 0.05
# How far around the boundary lines are averaged, in epochs: three lines of the published runs on each side.
BOUNDARY_WINDOW = 0.16
# In that run eval_loss rose by 4 % and 11 % over the same lines; less than half of 4 % could be noise.
EVALUATION_RISE = 0.02

# A check reads the whole history, so in long runs it is made when the history has grown by this share.
RECHECK_SHARE = 0.01


class HealthNote(NamedTuple):
    """What was noticed, up to which step, and the words for it."""

    kind: str
    step: int
    words: str


class _Point(NamedTuple):
    step: int
    epoch: float
    value: float


class _Change(NamedTuple):
    name: str
    first: float
    last: float
    step: int


def chosen_collapse(history: History) -> HealthNote | None:
    """A note if the chosen answers have become far less likely than they were at first."""
    change = _change(history, "logps/chosen")
    if change is None:
        return None
    fall = change.first - change.last
    if fall <= COLLAPSE_NATS or fall <= COLLAPSE_SHARE * abs(change.first):
        return None
    rejected = _change(history, "logps/rejected")
    beside = "" if rejected is None else f" (rejected: {rejected.first:.1f} to {rejected.last:.1f})"
    words = (
        f"the chosen answers are being unlearned: {change.name} fell from {change.first:.1f} to "
        f"{change.last:.1f}{beside}; margins can still grow while the text gets worse, so read the sampled "
        "generations, and lower learning_rate, raise beta, train for fewer epochs, or add the NLL of the "
        "chosen answers to the loss"
    )
    return HealthNote("chosen_collapse", change.step, words)


def length_growth(history: History) -> HealthNote | None:
    """A note if sampled generations have become much longer than the first ones."""
    points = _series(history, GENERATED_TOKENS)
    if len(points) < 2:
        return None
    first, last = points[0], points[-1]
    if last.value - first.value <= GROWTH_TOKENS or last.value <= GROWTH_FACTOR * first.value:
        return None
    words = (
        f"answers are growing: sampled generations went from {first.value:.0f} to {last.value:.0f} tokens on "
        "average; compare the lengths of chosen and rejected answers in the data, see that a stop token is "
        "learned, and try a length-normalised loss or a higher beta"
    )
    return HealthNote("length_growth", last.step, words)


def saturated_margins(history: History) -> HealthNote | None:
    """A note if nearly every training pair is ordered with a margin that leaves no gradient."""
    margins = _series(history, "rewards/margins")[-SMOOTHED_LINES:]
    accuracies = _series(history, "rewards/accuracies")[-SMOOTHED_LINES:]
    if min(len(margins), len(accuracies)) < SMOOTHED_LINES:
        return None
    margin, accuracy = _mean(margins), _mean(accuracies)
    if margin < SATURATED_MARGIN or accuracy < SATURATED_ACCURACY:
        return None
    strength = 1 / (1 + math.exp(min(margin, 50.0)))
    words = (
        f"margins are saturated: {accuracy:.0%} of the training pairs are ordered rightly, by {margin:.1f} "
        f"on average, where a pair's gradient is {strength:.1%} of full strength; more steps mostly drive "
        "both answers away from the reference: stop here, train for fewer epochs, or see if a trivial mark "
        "(length, a phrase, an ending) tells chosen from rejected"
    )
    return HealthNote("saturated_margins", margins[-1].step, words)


def accuracy_at_chance(history: History) -> HealthNote | None:
    """A note if, well after the start, pairs are ordered no better than by a coin."""
    # Step 0 is left out: there all rewards are equal, which counts as wrong.
    evaluated = [point for point in _series(history, "eval_rewards/accuracies") if point.step > 0]
    trained = _series(history, "rewards/accuracies")
    for name, points, enough, window in (
        ("eval_rewards/accuracies", evaluated, CHANCE_EVALUATIONS, CHANCE_EVALUATIONS),
        ("rewards/accuracies", trained, CHANCE_PATIENCE + CHANCE_LINES, CHANCE_LINES),
    ):
        recent = points[-window:]
        if len(points) < enough or _mean(recent) > CHANCE_ACCURACY:
            continue
        words = (
            f"pairs are ordered no better than by a coin: {name} was {_mean(recent):.2f} on average over the "
            f"last {len(recent)} lines; look at a few pairs (are chosen and rejected mixed up, or cut to the "
            "same text?), and if they are right, raise learning_rate or beta"
        )
        return HealthNote("accuracy_at_chance", recent[-1].step, words)
    return None


def over_epoching(history: History) -> HealthNote | None:
    """A note if the training loss broke down as an epoch began while the evaluation loss rose.

    Zephyr-7B-beta's model card shows the pattern: 0.50 to 0.09 to 0.02, and 0.52 to 0.55 to 0.65.
    """
    train, evaluated = _series(history, "loss"), _series(history, "eval_loss")
    if not train or not evaluated:
        return None
    for boundary in range(1, math.ceil(max(point.epoch for point in train))):
        train_before, train_after = _around(train, boundary)
        eval_before, eval_after = _around(evaluated, boundary)
        if not (train_before and train_after and eval_before and eval_after):
            continue
        before, after = _mean(train_before), _mean(train_after)
        was, now = _mean(eval_before), _mean(eval_after)
        broke_down = before > BOUNDARY_FACTOR * after and before - after > BOUNDARY_FALL
        if broke_down and now - was > EVALUATION_RISE * abs(was):
            words = (
                f"examples are being recalled: as epoch {boundary + 1} began, loss fell from {before:.3f} to "
                f"{after:.3f} and eval_loss rose from {was:.3f} to {now:.3f}; the published Zephyr-7B-beta "
                "run did so too, and its best eval_loss came in its first epoch: prefer the best checkpoint "
                f"to the last, or set num_train_epochs to {boundary}"
            )
            return HealthNote("over_epoching", max(train_after[-1].step, eval_after[-1].step), words)
    return None


HEALTH_CHECKS: tuple[Callable[[History], HealthNote | None], ...] = (
    chosen_collapse,
    length_growth,
    saturated_margins,
    accuracy_at_chance,
    over_epoching,
)


class HealthMonitor:
    """Collects logged lines and hands out each kind of note once.

    A resumed run passes the lines logged so far: what they already gave cause for is not said again, but stands in
    `notes`, which holds all of the run.
    """

    def __init__(self, past: Iterable[LogLine] = ()) -> None:
        self.notes: list[HealthNote] = []
        self._history: list[LogLine] = []
        self._said: set[str] = set()
        self._num_checked = 0
        for line in past:
            self.observe(line)

    def observe(self, line: LogLine) -> list[HealthNote]:
        """The notes for which this line was the last straw."""
        self._history.append(dict(line))
        grown = len(self._history) - self._num_checked
        evaluated = any(name.startswith("eval_") for name in line) or GENERATED_TOKENS in line
        if not evaluated and grown < RECHECK_SHARE * len(self._history):
            return []
        self._num_checked = len(self._history)
        found = [note for check in HEALTH_CHECKS if (note := check(self._history)) and note.kind not in self._said]
        self._said.update(note.kind for note in found)
        self.notes += found
        return found


def _series(history: History, name: str) -> list[_Point]:
    return [
        _Point(int(line.get("step", 0)), line.get("epoch", 0.0), line[name])
        for line in history
        if name in line and math.isfinite(line[name])
    ]


def _mean(points: Sequence[_Point]) -> float:
    return sum(point.value for point in points) / len(points)


def _change(history: History, name: str) -> _Change | None:
    """From the first to the last evaluation, or if there are none, from the first to the last few lines."""
    points = _series(history, f"eval_{name}")
    if len(points) >= 2:
        return _Change(f"eval_{name}", points[0].value, points[-1].value, points[-1].step)
    points = _series(history, name)
    if len(points) < 2 * SMOOTHED_LINES:
        return None
    first, last = points[:SMOOTHED_LINES], points[-SMOOTHED_LINES:]
    return _Change(name, _mean(first), _mean(last), points[-1].step)


def _around(points: Sequence[_Point], boundary: int) -> tuple[list[_Point], list[_Point]]:
    """The points shortly before and shortly after the end of epoch `boundary`, or the nearest on a side.

    One point after it is taken for chance as long as more may come into the window.
    """
    before = [point for point in points if boundary - 1 < point.epoch <= boundary]
    after = [point for point in points if boundary < point.epoch <= boundary + 1]
    near_before = [point for point in before if point.epoch > boundary - BOUNDARY_WINDOW]
    near_after = [point for point in after if point.epoch <= boundary + BOUNDARY_WINDOW]
    if len(near_after) < 2 and points[-1].epoch < boundary + BOUNDARY_WINDOW:
        return [], []
    return near_before or before[-1:], near_after or after[:1]
