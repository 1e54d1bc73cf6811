"""AlpacaEval 2's length-controlled win rate: what the preference would be, were both outputs equally long.

A logistic model without intercept explains the judge's preference by the length difference, the instruction's
difficulty and a constant of the model; the length term is then set to zero. Source: arXiv 2404.04475 and AlpacaEval,
alpaca_eval/metrics/glm_winrate.py (there by scikit-learn's
liblinear, here solved exactly: what a library comes to is in docs/decisions/0001-dependencies.md).
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zephyr.errors import DataError
from zephyr.records.fields import Row, brief
from zephyr.records.reading import read_rows

Floats = NDArray[np.float64]

# The strengths that LogisticRegressionCV tries by itself, and AlpacaEval's folds and weight of its gamed baselines.
STRENGTHS = np.logspace(-4, 4, 10)
NUM_FOLDS = 5
GAMED_WEIGHT = 0.2 / 2
MAX_STEPS = 200


class LengthWeights(NamedTuple):
    """The model's three weights; the baseline's are all zero."""

    length: float
    difficulty: float
    constant: float


class JudgedRows(NamedTuple):
    """Judged instructions: the share of the verdict that goes to the model (0 to 1), length term, difficulty."""

    preferred: Floats
    length_terms: Floats
    difficulty: Floats


class LengthControlled(NamedTuple):
    """In percent: the win rate at equal length, its standard error over instructions, and the fitted weights."""

    win_rate: float
    standard_error: float
    weights: LengthWeights


def read_difficulty(path: Path) -> tuple[list[str], list[float]]:
    """The instructions, if the file names them, and their difficulties, from AlpacaEval's instruction_difficulty.csv.

    Without names they are in the order of its instructions. Raises DataError for a row without a number, and for
    instructions that some rows name, or that come twice.
    """
    rows = list(read_rows(path))
    difficulty = [_number(row, "instruction_difficulty") for row in rows]
    unknown = next((row for row, value in zip(rows, difficulty, strict=True) if not math.isfinite(value)), None)
    if unknown is not None:
        raise DataError(unknown.name, "has no instruction_difficulty", "use AlpacaEval's own file")
    texts = [text for row in rows if isinstance(text := row.fields.get("instruction"), str)]
    if texts and len(set(texts)) < len(rows):
        what = f"names {len(set(texts))} instructions in {len(rows)} rows"
        raise DataError(path.name, what, "name every instruction once, or none")
    if texts:
        return texts, difficulty
    numbers = [str(row.fields["index"]) for row in rows if row.fields.get("index") is not None]
    if numbers and sorted(numbers) != sorted(str(number) for number in range(len(rows))):
        what = f"has indices that do not count {len(rows)} instructions from 0, such as {brief(numbers[-1])}"
        raise DataError(path.name, what, "use AlpacaEval's own file")
    if numbers:
        difficulty = [value for _, value in sorted(zip(map(int, numbers), difficulty, strict=True))]
    return [], difficulty


def read_gamed(path: Path) -> JudgedRows:
    """The rows of AlpacaEval's df_gamed.csv: how its baseline, prompted to be verbose and concise, was judged."""
    rows = list(read_rows(path))
    columns = [
        np.array([_number(row, name) for row in rows], dtype=np.float64)
        for name in ("preference", "std_delta_len", "instruction_difficulty")
    ]
    judged = np.isfinite(columns[0])
    return JudgedRows(columns[0][judged], np.tanh(columns[1])[judged], columns[2][judged])


def length_terms(reference_lengths: Sequence[int], model_lengths: Sequence[int]) -> Floats:
    """The standardised differences in characters (n,), each as its tanh; zeros where all differences are equal."""
    difference = np.subtract(reference_lengths, model_lengths).astype(np.float64)
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    return np.tanh(difference / spread) if spread > 0 else np.zeros_like(difference)


def predict(weights: LengthWeights, difficulty: Floats, lengths: Floats | float = 0.0) -> Floats:
    """The model's share of each verdict (n,); at equal lengths, if no length terms are given."""
    score = weights.length * lengths + weights.difficulty * difficulty + weights.constant
    return _sigmoid(np.asarray(score, dtype=np.float64))


def win_rate_between(model: LengthWeights, baseline: LengthWeights, difficulty: Floats) -> float:
    """The win rate in percent of one fitted model against another, at equal lengths."""
    constant, slope = model.constant - baseline.constant, model.difficulty - baseline.difficulty
    return 100 * float(_sigmoid(constant + slope * difficulty).mean())


def length_controlled(rows: JudgedRows, *, all_difficulty: Floats, gamed: JudgedRows | None = None) -> LengthControlled:
    """The length-controlled win rate over all instructions, judged or not.

    `gamed`: AlpacaEval's rows of its baseline prompted to be verbose and concise, which hold the length weight down.
    """
    weights = fit(rows, gamed)
    predicted = predict(weights, all_difficulty)
    error = float(predicted.std(ddof=1)) / np.sqrt(len(predicted)) if len(predicted) > 1 else 0.0
    return LengthControlled(100 * float(predicted.mean()), 100 * error, weights)


def fit(rows: JudgedRows, gamed: JudgedRows | None = None) -> LengthWeights:
    """The weights, with the L1 strength that 5-fold cross-validation likes best. Raises ValueError without rows."""
    if len(rows.preferred) < NUM_FOLDS:
        raise ValueError(f"need at least {NUM_FOLDS} judged instructions, got {len(rows.preferred)}")
    features, target, weight = _table(rows, gamed)
    # Folds follow each other's turns: what AlpacaEval's GroupKFold comes to when every group has two rows.
    fold = np.arange(len(target)) % NUM_FOLDS
    losses = np.zeros(len(STRENGTHS))
    for held in range(NUM_FOLDS):
        train, test = fold != held, fold == held
        start = np.zeros(features.shape[1])
        for place, strength in enumerate(STRENGTHS):
            start = _solve(features[train], target[train], weight[train], float(strength), start)
            losses[place] += _loss(features[test], target[test], weight[test], start) / test.sum()
    best = float(STRENGTHS[int(np.argmin(losses))])
    return LengthWeights(*map(float, _solve(features, target, weight, best, np.zeros(features.shape[1]))))


def _table(rows: JudgedRows, gamed: JudgedRows | None) -> tuple[Floats, Floats, Floats]:
    parts = [(gamed, 0.0, GAMED_WEIGHT)] if gamed is not None else []
    parts.append((rows, 1.0, 1.0))
    features = [
        np.column_stack([part.length_terms, part.difficulty, np.full(len(part.preferred), constant)])
        for part, constant, _ in parts
    ]
    weights = [np.full(len(part.preferred), weight) for part, _, weight in parts]
    return np.concatenate(features), np.concatenate([part.preferred for part, _, _ in parts]), np.concatenate(weights)


def _solve(features: Floats, target: Floats, weight: Floats, strength: float, start: Floats) -> Floats:
    """The minimum of |w| + strength * weighted log-loss, by Newton steps whose quadratic is solved exactly."""
    w = start.copy()
    value = _objective(features, target, weight, strength, w)
    for _ in range(MAX_STEPS):
        p = _sigmoid(features @ w)
        gradient = strength * features.T @ (weight * (p - target))
        hessian = strength * (features.T * (weight * p * (1 - p))) @ features + 1e-12 * np.eye(len(w))
        step = _lasso_step(gradient, hessian, w) - w
        scale = 1.0
        while scale > 1e-10:
            tried = w + scale * step
            new = _objective(features, target, weight, strength, tried)
            if new <= value:
                break
            scale /= 2
        else:
            return w
        if np.abs(tried - w).max() < 1e-10:
            return tried
        w, value = tried, new
    return w


def _lasso_step(gradient: Floats, hessian: Floats, w: Floats) -> Floats:
    """The minimum of the quadratic at `w` plus the sum of absolute weights: of all patterns of signs, the best one.

    Coordinate descent would crawl where verdicts are all but decided by length, as the quadratic is flat there.
    """
    linear = gradient - hessian @ w
    best, value = np.zeros_like(w), 0.0
    for signs in itertools.product((-1.0, 0.0, 1.0), repeat=len(w)):
        sign = np.array(signs)
        active = np.flatnonzero(sign)
        if not len(active):
            continue
        found = np.zeros_like(w)
        found[active] = np.linalg.solve(hessian[np.ix_(active, active)], -(linear + sign)[active])
        at_found = float(linear @ found + found @ hessian @ found / 2 + np.abs(found).sum())
        if np.all(np.sign(found[active]) == sign[active]) and at_found < value:
            best, value = found, at_found
    return best


def _objective(features: Floats, target: Floats, weight: Floats, strength: float, w: Floats) -> float:
    return float(np.abs(w).sum()) + strength * _loss(features, target, weight, w)


def _loss(features: Floats, target: Floats, weight: Floats, w: Floats) -> float:
    score = features @ w
    return float(weight @ (np.logaddexp(0, score) - target * score))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -x)), dtype=np.float64)


def _number(row: Row, name: str) -> float:
    value = row.fields.get(name)
    try:
        return float(str(value)) if value not in (None, "") else math.nan
    except ValueError:
        raise DataError(row.name, f"has no number '{name}', got {brief(value)}", "use AlpacaEval's own file") from None
