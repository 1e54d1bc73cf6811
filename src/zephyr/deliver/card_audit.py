"""What a published card's training table implies: beta, the steps of an epoch, the size of the data.

Reads any card in Markdown whose table has the columns of the Trainer's cards, translated ones too, as long as the
column names stand in brackets. Own cards are written by `card`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from zephyr.errors import DataError

# The batch of the published Zephyr cards, assumed where a card does not state its own.
USUAL_BATCH = 32
MAX_EVAL_ROWS = 4096
_COLUMNS = (
    "training loss", "epoch", "step", "validation loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
    "rewards/margins", "logps/rejected", "logps/chosen", "logits/rejected", "logits/chosen",
)  # fmt: skip
_OTHER_NAMES = {"loss": "training loss", "steps": "step", "epochs": "epoch", "eval_loss": "validation loss"}
_TableRow = Mapping[str, str]


class CardAudit(NamedTuple):
    """What follows from a table; None where its columns are missing or leave it open.

    `accuracy_granularity` is the smallest n for which every accuracy is k/n: as many rows, or a divisor of as many,
    were measured. `total_train_batch_size` is the card's own unless `batch_is_assumed`.
    """

    rows: int
    beta: float | None
    steps_per_epoch: int | None
    steps_per_epoch_low: float | None
    steps_per_epoch_high: float | None
    total_train_batch_size: int
    batch_is_assumed: bool
    examples_low: int | None
    examples_high: int | None
    accuracy_granularity: int | None
    largest_margin_error: float | None


def audit_card(text: str, *, where: str = "card", batch_size: int | None = None) -> CardAudit:
    """What the card's training table implies. Raises DataError if the card has no such table."""
    rows = training_table(text)
    if not rows:
        remedy = "name a card with a table of Step, Epoch and Validation Loss or Rewards/..."
        raise DataError(where, "holds no training table", remedy)
    stated = _stated_batch(text) if batch_size is None else batch_size
    batch = USUAL_BATCH if stated is None else stated
    bounds = _steps_bounds(rows)
    whole = None if bounds is None else range(math.ceil(bounds[0]), math.floor(bounds[1]) + 1)
    # The last step of an epoch may be smaller than the others, but not empty.
    examples = None if not whole else ((whole[0] - 1) * batch + 1, whole[-1] * batch)
    return CardAudit(
        rows=len(rows),
        beta=_beta(rows),
        steps_per_epoch=None if bounds is None else round(sum(bounds) / 2),
        steps_per_epoch_low=None if bounds is None else round(bounds[0], 3),
        steps_per_epoch_high=None if bounds is None else round(bounds[1], 3),
        total_train_batch_size=batch,
        batch_is_assumed=stated is None,
        examples_low=None if examples is None else examples[0],
        examples_high=None if examples is None else examples[1],
        accuracy_granularity=_granularity([row["rewards/accuracies"] for row in rows if "rewards/accuracies" in row]),
        largest_margin_error=_margin_error(rows),
    )


def training_table(text: str) -> list[_TableRow]:
    """The rows of the first table that has steps and a measurement, as texts under the columns' usual names."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        names = [_column(cell) for cell in _cells(line)]
        if "step" in names and len(set(names) & set(_COLUMNS)) >= 3:
            return [row for row in _rows_below(lines[number + 1 :], names) if row]
    return []


def _rows_below(lines: Sequence[str], names: Sequence[str | None]) -> list[_TableRow]:
    rows: list[_TableRow] = []
    for line in lines:
        cells = _cells(line)
        if len(cells) != len(names):
            break
        if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            continue
        plain = [_without_separators(cell) for cell in cells]
        rows.append({name: cell for name, cell in zip(names, plain, strict=True) if name and _is_number(cell)})
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if "|" in line else []


def _column(title: str) -> str | None:
    """The usual name of a column, None for one that the audit does not know."""
    inner = re.search(r"[(\uff08]([A-Za-z/_ ]+)[)\uff09]", title)  # translated cards may have wide brackets
    name = (inner[1] if inner else title).strip().lower()
    name = _OTHER_NAMES.get(name, name)
    return name if name in _COLUMNS else None


def _without_separators(text: str) -> str:
    """A number as people write it, 1,024, as 1024; anything else as it is."""
    return text.replace(",", "") if re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", text) is not None


def _stated_batch(text: str) -> int | None:
    found = re.search(r"total_train_batch_size\W+(\d[\d,]*)", text)
    return int(found[1].replace(",", "")) if found else None


def _beta(rows: Sequence[_TableRow]) -> float | None:
    """The common slope of rewards on log-probabilities: reward = beta (logp - reference logp), chosen and rejected.

    Rounded to 4 digits, as rewards have 4 decimals. None where the log-probabilities do not move.
    """
    products = squares = 0.0
    for side in ("chosen", "rejected"):
        points = [
            (float(row[f"logps/{side}"]), float(row[f"rewards/{side}"]))
            for row in rows
            if {f"logps/{side}", f"rewards/{side}"} <= row.keys()
        ]
        if len(points) < 2:
            continue
        mean_logps, mean_reward = (math.fsum(values) / len(points) for values in zip(*points, strict=True))
        products += math.fsum((logps - mean_logps) * (reward - mean_reward) for logps, reward in points)
        squares += math.fsum((logps - mean_logps) ** 2 for logps, _ in points)
    return float(f"{products / squares:.4g}") if squares else None


def _steps_bounds(rows: Sequence[_TableRow]) -> tuple[float, float] | None:
    """The least and most steps that an epoch can have, so that every row's epoch is its step's, rounded as printed."""
    low, high = 0.0, math.inf
    for row in rows:
        if not {"epoch", "step"} <= row.keys():
            continue
        # Trailing zeros are not printed: 0.1 stands for 0.10, so two decimals are the least.
        half = 0.5 * 10.0 ** -max(2, _decimals(row["epoch"]))
        epoch, step = float(row["epoch"]), float(row["step"])
        low = max(low, step / (epoch + half))
        high = min(high, step / (epoch - half) if epoch > half else math.inf)
    return (low, high) if 0.0 < low <= high < math.inf else None


def _granularity(accuracies: Sequence[str]) -> int | None:
    """The smallest n so that each accuracy is k/n within its rounding; None where there is none up to 4,096."""
    known = [(float(text), 0.5 * 10.0 ** -max(4, _decimals(text)) * (1 + 1e-9)) for text in accuracies]
    if not known:
        return None
    candidates = range(1, MAX_EVAL_ROWS + 1)
    return next((n for n in candidates if all(abs(round(a * n) / n - a) <= half for a, half in known)), None)


def _margin_error(rows: Sequence[_TableRow]) -> float | None:
    wanted = ("rewards/margins", "rewards/chosen", "rewards/rejected")
    errors = [
        abs(float(row[wanted[0]]) - (float(row[wanted[1]]) - float(row[wanted[2]])))
        for row in rows
        if all(name in row for name in wanted)
    ]
    return round(max(errors), 6) if errors else None


def _decimals(number: str) -> int:
    return len(number.partition(".")[2])
