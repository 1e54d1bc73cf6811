"""What is said of curves: of a held-out accuracy that fell, a loss that rose, a spike, and of nothing to see."""

import json

import pytest

from tests.deliver.small_run import write_run
from zephyr.deliver.card import card_of
from zephyr.deliver.curve_notes import curve_notes, curve_warnings
from zephyr.deliver.report import report_of
from zephyr.runs.reader import read_run


@pytest.fixture
def run_with(tmp_path):
    """A function that makes a run whose align stage has logged these lines, with so many rows held out."""

    def make(lines, held_out=400):
        folder = write_run(tmp_path / "run")
        (stage,) = folder.glob("align-*")
        told = json.loads((stage / "stage.json").read_bytes())
        told["facts"] |= {"held_out": held_out, "health": []}
        (stage / "stage.json").write_text(json.dumps(told))
        (stage / "train" / "train_log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return read_run(folder)

    return make


def evaluated(*pairs):
    return [
        {"step": 10 * (number + 1), "loss": 0.6, "eval_loss": loss, "eval_rewards/accuracies": accuracy}
        for number, (accuracy, loss) in enumerate(pairs)
    ]


def test_an_accuracy_that_fell_after_its_best_is_a_warning(run_with):
    run = run_with(evaluated((0.7, 0.65), (0.81, 0.6), (0.72, 0.6)))
    (warning,) = curve_warnings(run)
    assert warning.startswith(
        "align: held-out accuracy (eval_rewards/accuracies) fell from 0.81 at step 20 to 0.72 at the end "
        "(400 rows, standard error 0.02); keep the best checkpoint"
    )
    page = report_of(run)
    assert "1 thing to look at in the curves" in page
    assert "fell from 0.81 at step 20 to 0.72" in page
    assert "fell from 0.81 at step 20 to 0.72" in card_of(run)


def test_of_few_rows_a_fall_may_be_chance(run_with):
    (warning,) = curve_warnings(run_with(evaluated((0.81, 0.6), (0.72, 0.6)), held_out=37))
    assert "(37 rows, standard error 0.07); with so few rows that may be chance" in warning


def test_a_loss_that_rose_and_one_far_above_the_training_loss_are_warnings(run_with):
    rose, gap = curve_warnings(run_with(evaluated((0.7, 0.6), (0.7, 0.8))))
    assert "held-out loss (eval_loss) rose from 0.600 at step 10 to 0.800 at the end" in rose
    assert "ended at 0.600 on training rows and at 0.800 on held-out ones: it overfits" in gap


def test_a_spike_of_the_gradient_is_a_warning(run_with):
    lines = [{"step": step, "loss": 0.5, "grad_norm": 30.0 if step == 15 else 1.0} for step in range(1, 21)]
    (warning,) = curve_warnings(run_with(lines))
    assert warning == "align: the gradient norm was 30 at step 15, 30 times the median"


def test_good_curves_are_described_without_a_warning(run_with):
    run = run_with(evaluated((0.7, 0.7), (0.75, 0.65), (0.8, 0.62)))
    assert curve_warnings(run) == []
    words = "; ".join(note.words for note in curve_notes(run))
    assert "held-out loss (eval_loss) went from 0.700 to 0.620, its best; it was still falling" in words
    assert "The checks during training noticed no problem" in report_of(run)


def test_a_training_without_evaluations_says_that_nothing_is_known(run_with):
    run = run_with([{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}])
    assert [note.words for note in curve_notes(run)][-1] == (
        "held-out rows were never measured, so nothing is known of its best step; set train.eval_steps"
    )
