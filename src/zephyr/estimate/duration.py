"""How long a stage trains on accelerators: its operations, and the weights that travel between them meanwhile."""

import math
from typing import NamedTuple

from zephyr.estimate.devices import GPUS_A_NODE, LINK_SHARE, UTILISATION, Device
from zephyr.estimate.memory import COMPUTE_BYTES, WEIGHT_BYTES, micro_batch_tokens
from zephyr.estimate.work import Training, stage_flops

HOUR = 3600


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
    """Seconds of a stage's arithmetic, and of its weights' and gradients' travels."""

    arithmetic: float
    traffic: float

    @property
    def least(self) -> float:
        """Seconds where the two run side by side."""
        return max(self)

    @property
    def most(self) -> float:
        """Seconds where one waits for the other."""
        return sum(self)


def duration_of(training: Training, cluster: Cluster, *, as_usual: bool = False) -> Duration:
    """How long the stage takes; `as_usual` as in `stage_flops`."""
    arithmetic = stage_flops(training, as_usual=as_usual) / cluster.flops
    return Duration(arithmetic, training.num_steps * _passes(training, cluster) * _traffic(training, cluster))


def _passes(training: Training, cluster: Cluster) -> int:
    """Micro-batches of a step on each device."""
    step_tokens = training.train_batch_size * training.rows.tokens / cluster.num_devices
    return max(1, math.ceil(step_tokens / micro_batch_tokens(training, cluster.num_devices)))


def _traffic(training: Training, cluster: Cluster) -> float:
    """Seconds in which one micro-batch's weights go round twice, and its gradients once."""
    devices = cluster.num_devices
    if devices == 1:
        return 0.0
    weights, gradients = COMPUTE_BYTES[training.precision], WEIGHT_BYTES[training.precision]
    travelling = 2 * weights * training.shape.parameters + gradients * training.trained_parameters
    nodes = math.ceil(devices / GPUS_A_NODE)
    inside = travelling * (devices - 1) / devices / (cluster.device.link * LINK_SHARE)
    if nodes == 1:
        return inside
    between = travelling * (nodes - 1) / nodes / (GPUS_A_NODE * cluster.device.network * LINK_SHARE)
    return max(inside, between)
