"""The audit: hand-made tables whose beta, epochs and rows are known, and the two published cards."""

import math
from pathlib import Path

import pytest

from zephyr.deliver.card_audit import audit_card, training_table
from zephyr.errors import DataError


def card(*, beta: float, steps_per_epoch: float, rows: int, num_rows: int = 20, batch: int | None = 8) -> str:
    """A card whose table follows from these, in the published order and rounding."""
    lines = [] if batch is None else [f"- total_train_batch_size: {batch}", ""]
    titles = "Training Loss | Epoch | Step | Validation Loss | Rewards/chosen | Rewards/rejected | Rewards/accuracies"
    lines += [f"| {titles} | Rewards/margins | Logps/rejected | Logps/chosen |", "|:---:|:---:" + "|---" * 8 + "|"]
    for number in range(1, num_rows + 1):
        step = 100 * number
        chosen, rejected = -200.0 + 3 * math.sin(number), -300.0 - 4.0 * number
        rewards = beta * (chosen + 200.0), beta * (rejected + 300.0)
        right = (rows // 2 + number) / rows
        lines.append(
            f"| 0.5 | {round(step / steps_per_epoch, 2)} | {step} | 0.5 | {rewards[0]:.4f} | {rewards[1]:.4f} "
            f"| {round(right, 4)} | {rewards[0] - rewards[1]:.4f} | {rejected:.4f} | {chosen:.4f} |"
        )
    return "\n".join([*lines, "", "text"])


def test_a_table_gives_away_what_it_was_made_from():
    found = audit_card(card(beta=0.3, steps_per_epoch=777, rows=51))
    assert found.beta == pytest.approx(0.3, abs=2e-5)
    assert found.steps_per_epoch_low <= 777 <= found.steps_per_epoch_high
    assert found.examples_low <= 776 * 8 + 1 <= 777 * 8 <= found.examples_high
    assert found.accuracy_granularity == 51
    assert found.largest_margin_error <= 1.01e-4
    assert (found.rows, found.total_train_batch_size, found.batch_is_assumed) == (20, 8, False)


def test_an_epoch_bounds_the_steps():
    """Step 100 printed as epoch 0.50 lies between 0.495 and 0.505, so an epoch has 198.02 to 202.02 steps."""
    text = "| Step | Epoch | Validation Loss |\n|---|---|---|\n| 100 | 0.5 | 0.6 |\n"
    found = audit_card(text, batch_size=10)
    assert (found.steps_per_epoch_low, found.steps_per_epoch_high) == (198.02, 202.02)
    # 199 to 202 whole steps of 10 rows, the last of which has 1 row or more.
    assert (found.examples_low, found.examples_high) == (1981, 2020)
    assert (found.beta, found.accuracy_granularity) == (None, None)


def test_rows_that_contradict_each_other_bound_nothing():
    text = "| Step | Epoch | Loss |\n|---|---|---|\n| 100 | 0.5 | 0.6 |\n| 200 | 0.5 | 0.6 |\n"
    found = audit_card(text)
    assert (found.steps_per_epoch, found.examples_low) == (None, None)


def test_a_batch_that_is_not_told_is_assumed_aloud():
    found = audit_card(card(beta=0.1, steps_per_epoch=500, rows=64, batch=None))
    assert (found.total_train_batch_size, found.batch_is_assumed) == (32, True)


def test_numbers_as_people_write_them():
    text = "- total_train_batch_size: 1,024\n| Epoch | Step | Validation Loss |\n|---|---|---|\n| 1.0 | 1,500 | 0.5 |\n"
    assert training_table(text) == [{"epoch": "1.0", "step": "1500", "validation loss": "0.5"}]
    assert audit_card(text).total_train_batch_size == 1024


def test_translated_columns_and_stray_cells_are_read():
    text = "| 步数(Step)| 轮次 (Epoch)|奖励/选中\uff08Rewards/chosen\uff09|别的|\n|---|---|---|---|\n|5|1.0|No log|x|\n"
    assert training_table(text) == [{"step": "5", "epoch": "1.0"}]


@pytest.mark.parametrize("text", ["", "no table", "| Model | ModelScore |\n|---|---|\n| a | 1 |\n"])
def test_no_table_is_an_error(text):
    with pytest.raises(DataError, match="card: holds no training table"):
        audit_card(text)


@pytest.mark.parametrize(
    ("file", "beta", "low", "high"),
    [("000_*.txt", 0.1, 1936.842, 1937.046), ("002_*.txt", 0.05, 1935.484, 1939.394)],
)
def test_the_published_cards(shared_data: Path, file, beta, low, high):
    seeds = sorted((shared_data.parent / "seeds").glob(file))
    if not seeds:
        pytest.skip("the published cards are not here")
    found = audit_card(seeds[0].read_text(encoding="utf-8"))
    assert found.beta == beta
    assert (found.steps_per_epoch_low, found.steps_per_epoch_high) == (low, high)
    assert (found.steps_per_epoch, found.accuracy_granularity) == (1937, 64)
    assert found.examples_low <= 61_966 <= found.examples_high
    assert found.largest_margin_error <= 1e-4
