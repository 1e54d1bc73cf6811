"""An estimate in words: the lines that `zephyr plan` prints."""

from collections.abc import Iterable, Iterator, Mapping

import psutil

from zephyr.estimate.duration import HOUR, PUBLISHED_HOURS, Cluster, Duration, duration_of
from zephyr.estimate.memory import Memory, advice, memory_of
from zephyr.estimate.model_shape import ModelShape
from zephyr.estimate.workload import Workload, stage_flops

GIB = 2**30


def training_lines(
    workload: Workload, cluster: Cluster | None, *, recipe_name: str, notes: Iterable[str] = ()
) -> Iterator[str]:
    """Lines about a training stage: work, `notes` on its rows, time and memory on the cluster, and whether it fits.

    Without a cluster: work, notes and memory on this machine.
    """
    yield work_line(workload)
    yield from notes
    if cluster is None:
        memory = memory_of(workload, 1)
        yield memory_line(memory, "this machine", workload)
        yield machine_line(memory, psutil.virtual_memory().total)
        return
    duration = duration_of(workload, cluster)
    slow = ", limited by sending weights, which takes longer than computing" * (duration.traffic > duration.arithmetic)
    yield (
        f"{_range(duration)} on {cluster.num_devices} {cluster.device.name} at {cluster.utilisation:.0%} of peak, "
        f"{duration.least / HOUR * cluster.num_devices:,.1f} GPU hours or more{slow}"
    )
    published = PUBLISHED_HOURS.get((recipe_name, workload.stage))
    if published is not None:
        usual = duration_of(workload, cluster, as_usual=True)
        yield f"{published.line()}; with prompts and reference computed as often as then: {_range(usual)}"
    memory = memory_of(workload, cluster.num_devices)
    yield memory_line(memory, "a GPU", workload)
    changes = advice(workload, cluster.device, cluster.num_devices)
    room = f"{memory.total / GIB:,.1f} of {cluster.device.memory_bytes / GIB:,.0f} GiB"
    yield f"fits: {room}" if not changes else f"does not fit: {room}; change {'; or '.join(changes)}"


def model_line(shape: ModelShape) -> str:
    """Weights of the model, and the cache of a token."""
    active = f", {shape.active_parameters:,} of them for a token" if shape.num_experts > 1 else ""
    return f"{shape.parameters:,} weights{active}, {shape.cache_bytes_per_token:,} bytes of cache a token in bfloat16"


def work_line(workload: Workload) -> str:
    """Rows, steps, tokens and operations of a stage."""
    rows = workload.rows
    saved = 1 - rows.tokens / rows.repeated_tokens if rows.num_completions > 1 else 0.0
    shared = f", {saved:.0%} fewer by shared prompts" if saved else ""
    epoch_tokens = round(rows.num_rows * rows.tokens)
    return (
        f"{rows.num_rows:,} rows, {workload.num_steps:,} steps, {epoch_tokens:,} tokens an epoch, "
        f"{workload.trained_tokens / 1e6:,.2f} M in all{shared}, "
        f"{stage_flops(workload):.2e} operations"
    )


def memory_line(memory: Memory, holder: str, workload: Workload) -> str:
    """The parts of the memory in GiB, without those below a hundredth."""
    named = {name: size for name, size in memory._asdict().items() if name != "logits_avoided"}
    parts = ", ".join(f"{name} {size / GIB:,.2f}" for name, size in named.items() if size >= GIB / 100)
    precomputed = workload.needs_reference and not memory.reference
    absent = "; no reference: its log-probs are computed before" if precomputed else ""
    return f"{holder} holds, in GiB: {parts}; no logits, which would take {memory.logits_avoided / GIB:,.2f}{absent}"


def machine_line(memory: Memory, total_bytes: int) -> str:
    """Whether a machine without accelerator has room."""
    room = f"{memory.total / GIB:,.1f} of {total_bytes / GIB:,.0f} GiB"
    return f"fits: {room}" if memory.total <= total_bytes else f"does not fit: {room}; name --gpu and --gpus"


def comparison_lines(
    estimated: Mapping[str, float], actual: Mapping[str, float], calibration_seconds: float
) -> Iterator[str]:
    """Estimated seconds by stage, with those that a run took beside them."""
    if not estimated:
        yield "not known for this machine: name --gpu, and --gpus for several"
        return
    yield f"by a calibration of about {calibration_seconds:.0f} s on this machine as busy as it is now"
    for stage, seconds in estimated.items():
        yield f"{stage:<10}{in_time(seconds):>8}{_beside(seconds, actual.get(stage))}"
    both = [stage for stage in estimated if stage in actual]
    beside = _beside(sum(estimated[one] for one in both), sum(actual[one] for one in both)) if both else ""
    yield f"{'in all':<10}{in_time(sum(estimated.values())):>8}{beside}"


def in_time(seconds: float) -> str:
    """Seconds with the unit that suits their size: s, min or h."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < HOUR else f"{seconds / HOUR:.1f} h"


def _range(duration: Duration) -> str:
    """The time where traffic overlaps with arithmetic, and the time where it does not."""
    least, most = in_time(duration.least), in_time(duration.most)
    return least if least == most else f"{least} to {most}"


def _beside(seconds: float, actual: float | None) -> str:
    if not actual:
        return ""
    return f"   took {in_time(actual):>8}   {seconds / actual - 1:+.0%}"
