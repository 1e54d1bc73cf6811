"""The length-controlled win rate: published weights and predictions, and a fit that finds what made the data."""

import numpy as np
import pytest

from zephyr.errors import DataError
from zephyr.evaluation.judged.length_controlled import (
    JudgedRows,
    LengthWeights,
    fit,
    length_controlled,
    length_terms,
    predict,
    read_difficulty,
    read_gamed,
    win_rate_between,
)

BETA = LengthWeights(-1.2414691063648409, 1.0472105841184596, -2.5872480742143988)
DIFFICULTY = np.array([-1.0, 0.0, 1.0, 2.0])


def drawn(num_rows, weights, seed=0):
    dice = np.random.default_rng(seed)
    terms, difficulty = np.tanh(dice.normal(size=num_rows)), dice.normal(size=num_rows)
    return JudgedRows(predict(weights, difficulty, terms), terms, difficulty)


def test_predictions_of_the_published_weights():
    assert predict(BETA, DIFFICULTY) == pytest.approx([0.025719, 0.069964, 0.176530, 0.379228], abs=1e-6)
    longer = predict(BETA, DIFFICULTY, np.tanh(-0.5))
    assert longer == pytest.approx([0.044755, 0.117788, 0.275612, 0.520208], abs=1e-6)
    baseline = LengthWeights(0.0, 0.0, 0.0)
    assert win_rate_between(BETA, baseline, DIFFICULTY) == pytest.approx(100 * predict(BETA, DIFFICULTY).mean())
    assert win_rate_between(BETA, BETA, DIFFICULTY) == 50.0


def test_length_terms_by_hand():
    # Differences -2, 0, 2 have the sample deviation 2.
    assert length_terms([1, 2, 3], [3, 2, 1]) == pytest.approx(np.tanh([-1.0, 0.0, 1.0]))
    assert length_terms([5, 6], [5, 6]).tolist() == [0.0, 0.0]


def test_the_fit_finds_the_weights_that_made_the_data():
    true = LengthWeights(-1.2, 0.8, -1.5)
    rows = drawn(805, true)
    assert tuple(fit(rows)) == pytest.approx(tuple(true), abs=0.05)
    found = length_controlled(rows, all_difficulty=rows.difficulty)
    at_equal_length = predict(true, rows.difficulty)
    assert found.win_rate == pytest.approx(100 * at_equal_length.mean(), abs=0.5)
    assert found.standard_error == pytest.approx(100 * at_equal_length.std(ddof=1) / np.sqrt(805), rel=0.1)


def test_gamed_baselines_hold_the_length_weight_down():
    rows = drawn(805, LengthWeights(-2.0, 0.5, -1.0))
    level = drawn(1610, LengthWeights(0.0, 0.0, 0.0), seed=1)
    assert abs(fit(rows, level).length) < abs(fit(rows).length)


def objective(rows, weights, strength):
    """|w| + strength * log-loss, whose minimum the fit is to be."""
    score = weights[0] * rows.length_terms + weights[1] * rows.difficulty + weights[2]
    loss = np.logaddexp(0, score) - rows.preferred * score
    return np.abs(weights).sum() + strength * loss.sum()


def test_the_fit_is_a_minimum_of_one_of_the_strengths_that_are_tried():
    verdicts = np.random.default_rng(7)
    rows = drawn(400, LengthWeights(-1.0, 0.3, 0.5))
    rows = rows._replace(preferred=(verdicts.random(400) < rows.preferred).astype(np.float64))
    found = np.array(fit(rows))
    steps = [sign * 1e-3 * axis for axis in np.eye(3) for sign in (-1, 1)]
    assert any(
        all(objective(rows, found, strength) <= objective(rows, found + step, strength) for step in steps)
        for strength in np.logspace(-4, 4, 10)
    )


def test_the_fit_is_the_minimum_of_scikit_learns_problem():
    linear = pytest.importorskip("sklearn.linear_model")
    from zephyr.evaluation.judged import length_controlled as module

    rows = drawn(400, LengthWeights(-1.0, 0.3, 0.5))
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


@pytest.mark.parametrize(("share", "win_rate"), [(1.0, 100.0), (0.0, 0.0), (0.5, 50.0)])
@pytest.mark.parametrize("num_rows", [6, 40])
def test_a_model_that_wins_loses_or_ties_every_game(share, win_rate, num_rows):
    rows = drawn(num_rows, LengthWeights(0.0, 0.0, 0.0))._replace(
        preferred=np.full(num_rows, share), difficulty=np.zeros(num_rows)
    )
    found = length_controlled(rows, all_difficulty=rows.difficulty)
    # Where liblinear, which leaves out rows of no weight, gives 50 % to a model that loses every game.
    assert found.win_rate == pytest.approx(win_rate, abs=0.01)


def test_too_few_rows():
    with pytest.raises(ValueError, match="at least 5"):
        fit(JudgedRows(*(np.zeros(3) for _ in range(3))))


def test_files_of_alpaca_eval(tmp_path):
    difficulty = tmp_path / "instruction_difficulty.csv"
    difficulty.write_text("index,instruction_difficulty\n0,-0.5\n1,1.25\n")
    assert read_difficulty(difficulty) == ([], [-0.5, 1.25])
    difficulty.write_text("index,instruction_difficulty\n1,1.25\n0,-0.5\n")
    assert read_difficulty(difficulty) == ([], [-0.5, 1.25])
    difficulty.write_text("instruction,instruction_difficulty\nSay b.,1.25\nSay a.,-0.5\n")
    assert read_difficulty(difficulty) == (["Say b.", "Say a."], [1.25, -0.5])
    difficulty.write_text("index,instruction_difficulty\n0,1.25\n7,-0.5\n")
    with pytest.raises(DataError, match="has indices that do not count 2 instructions from 0"):
        read_difficulty(difficulty)
    gamed = tmp_path / "df_gamed.csv"
    gamed.write_text("preference,index,std_delta_len,instruction_difficulty\n0.75,0,1.0,-0.5\n,1,0.5,1.25\n")
    rows = read_gamed(gamed)
    assert rows.preferred.tolist() == [0.75]
    assert rows.length_terms.tolist() == [np.tanh(1.0)]
    difficulty.write_text("index,instruction_difficulty\n0,hard\n")
    with pytest.raises(DataError, match="has no number 'instruction_difficulty', got 'hard'"):
        read_difficulty(difficulty)
