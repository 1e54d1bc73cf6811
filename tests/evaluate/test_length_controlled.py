"""The length-controlled win rate: published weights and predictions, and a fit that finds what made the data."""

import numpy as np
import pytest

from zephyr.errors import DataError
from zephyr.evaluate.judged.length_controlled import (
    Rows,
    Weights,
    fit,
    length_controlled,
    length_terms,
    predict,
    read_difficulty,
    read_gamed,
    win_rate_between,
)

BETA = Weights(-1.2414691063648409, 1.0472105841184596, -2.5872480742143988)
DIFFICULTY = np.array([-1.0, 0.0, 1.0, 2.0])


def drawn(num_rows, weights, seed=0):
    dice = np.random.default_rng(seed)
    terms, difficulty = np.tanh(dice.normal(size=num_rows)), dice.normal(size=num_rows)
    return Rows(predict(weights, difficulty, terms), terms, difficulty)


def test_predictions_of_the_published_weights():
    assert predict(BETA, DIFFICULTY) == pytest.approx([0.025719, 0.069964, 0.176530, 0.379228], abs=1e-6)
    longer = predict(BETA, DIFFICULTY, np.tanh(-0.5))
    assert longer == pytest.approx([0.044755, 0.117788, 0.275612, 0.520208], abs=1e-6)
    baseline = Weights(0.0, 0.0, 0.0)
    assert win_rate_between(BETA, baseline, DIFFICULTY) == pytest.approx(100 * predict(BETA, DIFFICULTY).mean())
    assert win_rate_between(BETA, BETA, DIFFICULTY) == 50.0


def test_length_terms_by_hand():
    # Differences -2, 0, 2 have the sample deviation 2.
    assert length_terms([1, 2, 3], [3, 2, 1]) == pytest.approx(np.tanh([-1.0, 0.0, 1.0]))
    assert length_terms([5, 6], [5, 6]).tolist() == [0.0, 0.0]


def test_the_fit_finds_the_weights_that_made_the_data():
    true = Weights(-1.2, 0.8, -1.5)
    rows = drawn(805, true)
    assert tuple(fit(rows)) == pytest.approx(tuple(true), abs=0.05)
    found = length_controlled(rows, all_difficulty=rows.difficulty)
    at_equal_length = predict(true, rows.difficulty)
    assert found.win_rate == pytest.approx(100 * at_equal_length.mean(), abs=0.5)
    assert found.standard_error == pytest.approx(100 * at_equal_length.std(ddof=1) / np.sqrt(805), rel=0.1)


def test_gamed_baselines_hold_the_length_weight_down():
    rows = drawn(805, Weights(-2.0, 0.5, -1.0))
    level = drawn(1610, Weights(0.0, 0.0, 0.0), seed=1)
    assert abs(fit(rows, level).length) < abs(fit(rows).length)


def test_the_fit_is_the_minimum_of_scikit_learns_problem():
    linear = pytest.importorskip("sklearn.linear_model")
    from zephyr.evaluate.judged import length_controlled as module

    rows = drawn(400, Weights(-1.0, 0.3, 0.5))
    features, target, weight = module._table(rows, None)
    ours = module._solve(features, target, weight, 0.36, np.zeros(3))
    theirs = linear.LogisticRegression(
        l1_ratio=1.0, solver="liblinear", C=0.36, fit_intercept=False, tol=1e-8, max_iter=10_000, random_state=0
    ).fit(
        np.concatenate([features, features]),
        np.repeat([1, 0], len(target)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    assert ours == pytest.approx(theirs.coef_[0], abs=1e-4)


def test_too_few_rows():
    with pytest.raises(ValueError, match="at least 5"):
        fit(Rows(*(np.zeros(3) for _ in range(3))))


def test_files_of_alpaca_eval(tmp_path):
    difficulty = tmp_path / "instruction_difficulty.csv"
    difficulty.write_text("index,instruction_difficulty\n0,-0.5\n1,1.25\n")
    assert read_difficulty(difficulty) == [-0.5, 1.25]
    gamed = tmp_path / "df_gamed.csv"
    gamed.write_text("preference,index,std_delta_len,instruction_difficulty\n0.75,0,1.0,-0.5\n,1,0.5,1.25\n")
    rows = read_gamed(gamed)
    assert rows.preferred.tolist() == [0.75]
    assert rows.length_terms.tolist() == [np.tanh(1.0)]
    difficulty.write_text("index,instruction_difficulty\n0,hard\n")
    with pytest.raises(DataError, match="has no number 'instruction_difficulty', got 'hard'"):
        read_difficulty(difficulty)
