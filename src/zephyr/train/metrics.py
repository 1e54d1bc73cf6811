"""Shares of losses and metrics from micro-batches, ranks and steps, added up to the numbers of a log line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch

from zephyr.models.collectives import on_every_rank
from zephyr.records.fields import Json
from zephyr.train.checkpoint.optimizer_state import JsonObject
from zephyr.train.objectives import Metric


class Shares(NamedTuple):
    """A loss (scalar tensor) and its metrics, as shares to be added: over micro-batches, ranks and steps."""

    loss: torch.Tensor
    metrics: dict[str, Metric]


def added(shares: Sequence[Shares]) -> Shares:
    """The sum of this rank's shares, on the CPU in float64."""
    loss = torch.zeros((), dtype=torch.float64)
    metrics: dict[str, Metric] = {}
    for share in _on_cpu(shares):
        loss = loss + share.loss
        for name, one in share.metrics.items():
            known = metrics.get(name)
            metrics[name] = one if known is None else Metric(known.total + one.total, known.weight + one.weight)
    return Shares(loss, metrics)


def _on_cpu(shares: Sequence[Shares]) -> list[Shares]:
    """The shares on the CPU in float64, all in one copy: each copy waits until a GPU has done what it was given."""
    if not shares:
        return []
    values = [value for one in shares for value in (one.loss, *(part for m in one.metrics.values() for part in m))]
    device = shares[0].loss.device
    exact = torch.float32 if device.type == "mps" else torch.float64  # which MPS does not know
    numbers = iter(torch.stack([value.to(device, exact) for value in values]).cpu().double())
    return [
        Shares(next(numbers), {name: Metric(next(numbers), next(numbers)) for name in one.metrics}) for one in shares
    ]


def over_ranks(shares: Sequence[Shares], norm: torch.Tensor) -> tuple[Shares, float]:
    """The sum of all ranks' shares, and the scalar ``norm`` that each of them has; a collective call.

    It is the one place of a step that waits for the device.
    """
    *mine, beside = _on_cpu([*shares, Shares(norm, {})])
    total = added(on_every_rank(lambda: added(mine)))
    return total, float(beside.loss)


def as_line(total: Shares, *, num_steps: int = 1) -> dict[str, float]:
    """Names and values of a log line: the mean loss of ``num_steps`` steps, and every metric that was measured."""
    means = {name: float(m.total / m.weight) for name, m in total.metrics.items() if float(m.weight) > 0}
    return {"loss": float(total.loss) / num_steps} | means


def plain(waiting: Sequence[Shares]) -> JsonObject:
    """The shares of steps that are not logged yet as plain values, to the bit, for a checkpoint's notes."""
    # In hexadecimal, which unlike JSON's numbers holds NaN too.
    steps: list[Json] = []
    for share in waiting:
        step: JsonObject = {"loss": [_hex(share.loss)]}
        step |= {name: [_hex(metric.total), _hex(metric.weight)] for name, metric in share.metrics.items()}
        steps.append(step)
    return {"waiting": steps}


def shares_of(notes: JsonObject) -> list[Shares]:
    """The shares that ``plain`` wrote."""
    steps = cast("list[dict[str, list[str]]]", notes.get("waiting", []))
    waiting = []
    for step in steps:
        read = {
            name: [torch.tensor(float.fromhex(text), dtype=torch.float64) for text in texts]
            for name, texts in step.items()
        }
        (loss,) = read.pop("loss")
        waiting.append(Shares(loss, {name: Metric(*parts) for name, parts in read.items()}))
    return waiting


def _hex(value: torch.Tensor) -> str:
    return float(value).hex()


def split_line(line: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """What a log line says of training, and of an evaluation."""
    trained = {name: value for name, value in line.items() if name != "step" and not _is_measured(name)}
    return trained, {name: value for name, value in line.items() if _is_measured(name)}


def _is_measured(name: str) -> bool:
    """Whether an evaluation gives it."""
    return name.startswith(("eval_", "generations/"))


def logged_lines(path: Path) -> list[dict[str, float]]:
    """The lines a resumed run has logged before."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if isinstance(v, int | float)} for line in lines]
