"""Win rates of AlpacaEval annotations, by hand and as published."""

import json
import math

import pytest

from zephyr.errors import DataError
from zephyr.evaluation.judged.alpaca_eval_files import choose_annotations, mean_and_error, read_annotations, win_rates

MODEL = {"generator_1": "base", "generator_2": "mine", "annotator": "judge"}


def written(tmp_path, preferences):
    path = tmp_path / "annotations.json"
    rows = [{"instruction": f"Task {n}", "preference": one, **MODEL} for n, one in enumerate(preferences)]
    path.write_text(json.dumps(rows))
    return path


def test_win_rate_by_hand(tmp_path):
    # Shares 1, 0, 0.5 (an old tie), 0.75, and one that is missing: the mean of four is 0.5625.
    (rate,) = win_rates(read_annotations(written(tmp_path, [2, 1, 0, 1.75, None])))
    assert (rate.model, rate.annotator) == ("mine", "judge")
    assert rate.win_rate == pytest.approx(56.25)
    deviation = math.sqrt((0.4375**2 + 0.5625**2 + 0.0625**2 + 0.1875**2) / 3)
    assert rate.standard_error == pytest.approx(100 * deviation / 2)
    assert (rate.n, rate.missing, rate.wins, rate.losses, rate.ties) == (4, 1, 2, 1, 1)
    assert rate.discrete_win_rate == pytest.approx(62.5)


def test_nothing_judged_is_no_score(tmp_path):
    (rate,) = win_rates(read_annotations(written(tmp_path, [None, math.nan])))
    assert (rate.win_rate, rate.standard_error, rate.n, rate.missing) == (None, None, 0, 2)
    assert mean_and_error([3.0]) == (3.0, None)


@pytest.mark.parametrize("preference", [3, 0.5, -1, "2", True])
def test_other_preferences_are_refused(tmp_path, preference):
    with pytest.raises(DataError, match=r"1 rows are unusable: annotations\.json row 2 has"):
        read_annotations(written(tmp_path, [1, preference]))


def test_an_instruction_comes_once(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(2 * (json.dumps({"instruction": "x", "preference": 1, **MODEL}) + "\n"))
    with pytest.raises(DataError, match="was judged on before"):
        read_annotations(path)


def test_names_that_are_not_there(tmp_path):
    judged = read_annotations(written(tmp_path, [1]))
    with pytest.raises(DataError, match="got 'mne'; did you mean 'mine'"):
        choose_annotations(judged, model="mne", annotator=None)
    assert list(choose_annotations(judged, model="mine", annotator="judge")) == [("mine", "judge")]


def test_published_win_rates(shared_data):
    judged = read_annotations(shared_data / "pref" / "alpaca_eval" / "annotations.jsonl.gz")
    rates = {(rate.model, rate.annotator): rate for rate in win_rates(judged)}
    beta = rates["zephyr-7b-beta", "alpaca_eval_gpt4"]
    assert beta.win_rate == pytest.approx(90.5977584059776, abs=1e-10)
    assert beta.standard_error == pytest.approx(1.0287080531312012, abs=1e-10)
    assert (beta.wins, beta.losses, beta.ties, beta.n, beta.missing) == (727, 75, 1, 803, 2)
    assert len(rates) == 125
    for key, rate in rates.items():
        preferences = [row.preference for row in judged[key] if row.preference is not None]
        assert rate.win_rate == pytest.approx(100 * (sum(preferences) / len(preferences) - 1))
        assert rate.n + rate.missing == 805
