"""How long a stage trains: on accelerators by arithmetic, on this machine by timed steps; and published hours."""

import math
from typing import NamedTuple

from zephyr.estimate.devices import GPUS_A_NODE, LINK_SHARE, UTILISATION, Device
from zephyr.estimate.memory import COMPUTE_BYTES, num_micro_batches, reduced_bytes
from zephyr.estimate.workload import Workload, stage_flops
from zephyr.recipe.stage_sections import ALIGN, SFT

HOUR = 3600
# A forward pass beside a step, which is forward, backward and update.
FORWARD_SHARE = 1 / 3


class Cluster(NamedTuple):
    """So many accelerators of a kind, and which share of their peak training reaches."""

    device: Device
    num_devices: int
    utilisation: float = UTILISATION

    @property
    def flops(self) -> float:
        """Operations a second of all together."""
        return self.device.peak_flops * self.num_devices * self.utilisation


class Duration(NamedTuple):
    """Seconds of a stage's arithmetic, and of sending its weights and gradients."""

    arithmetic: float
    traffic: float

    @property
    def least(self) -> float:
        """Seconds where the two overlap."""
        return max(self)

    @property
    def most(self) -> float:
        """Seconds where one waits for the other."""
        return sum(self)


class PublishedRun(NamedTuple):
    """Hours of a published stage from `low` to `high`, and the machines it ran on."""

    low: float
    high: float
    num_devices: int
    device: str
    source: str

    def line(self) -> str:
        """The run in words."""
        hours = f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return f"published: {hours} h on {self.num_devices} {self.device} ({self.source})"


_ON_16_A100 = PublishedRun(2, 4, 16, "a100-80g", "arXiv 2310.16944, section 4")
# By the recipe's name and the stage.
PUBLISHED_HOURS = {
    ("zephyr-7b-alpha", ALIGN): _ON_16_A100,
    ("zephyr-7b-beta", SFT): _ON_16_A100,
    ("zephyr-7b-beta", ALIGN): _ON_16_A100,
    ("zephyr-7b-beta-handbook", SFT): _ON_16_A100._replace(source="arXiv 2310.16944, for its own settings"),
    ("zephyr-7b-beta-handbook", ALIGN): _ON_16_A100._replace(source="arXiv 2310.16944, for its three epochs"),
    ("zephyr-141b-a39b-orpo", ALIGN): PublishedRun(1.3, 1.3, 32, "h100-80g", "the model's card"),
}


def duration_of(workload: Workload, cluster: Cluster, *, as_usual: bool = False) -> Duration:
    """How long the stage takes; `as_usual` as in `stage_flops`."""
    arithmetic = stage_flops(workload, as_usual=as_usual) / cluster.flops
    return Duration(
        arithmetic, workload.num_steps * num_micro_batches(workload, cluster.num_devices) * _traffic(workload, cluster)
    )


def measured_seconds(workload: Workload, step_seconds: float, seconds_per_row: float) -> float:
    """Seconds of the stage where a step takes `step_seconds`, and tokenizing one row `seconds_per_row`.

    Steps, tokenizing, evaluations, and one forward pass of the reference.
    """
    rows = workload.rows
    forward = FORWARD_SHARE * step_seconds / workload.examples_per_step
    evaluations = workload.num_evaluations * rows.held_out * forward
    reference = (rows.num_rows + rows.held_out) * forward if workload.needs_reference else 0.0
    # The last batch of an epoch is smaller.
    steps = workload.num_epochs * rows.num_rows / workload.examples_per_step
    return steps * step_seconds + evaluations + reference + (rows.num_rows + rows.held_out) * seconds_per_row


def _traffic(workload: Workload, cluster: Cluster) -> float:
    """Seconds in which one micro-batch's weights are gathered twice, and its gradients reduced once."""
    devices, precision = cluster.num_devices, workload.train.precision
    if devices == 1:
        return 0.0
    sent = 2 * COMPUTE_BYTES[precision] * workload.shape.parameters
    sent += reduced_bytes(workload.train) * workload.trained_parameters
    nodes = math.ceil(devices / GPUS_A_NODE)
    inside = sent * (devices - 1) / devices / (cluster.device.link * LINK_SHARE)
    if nodes == 1:
        return inside
    between = sent * (nodes - 1) / nodes / (GPUS_A_NODE * cluster.device.network * LINK_SHARE)
    return max(inside, between)
