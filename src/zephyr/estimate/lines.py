"""A plan in words: a block of lines a stage."""

from collections.abc import Iterator, Mapping

from zephyr.estimate.advice import advice
from zephyr.estimate.duration import HOUR, Cluster, Duration, duration_of
from zephyr.estimate.memory import Memory, memory_of
from zephyr.estimate.published import PUBLISHED
from zephyr.estimate.work import Training, stage_flops

GIB = 2**30


def training_lines(training: Training, cluster: Cluster, *, recipe_name: str) -> Iterator[str]:
    """Lines on a training stage on these accelerators: work, time, memory, and what to change if it does not fit."""
    yield work_line(training)
    yield from training.notes
    duration = duration_of(training, cluster)
    slow = ", for weights travel longer than it takes to compute with them" * (duration.traffic > duration.arithmetic)
    yield (
        f"{_range(duration)} on {cluster.num_devices} {cluster.device.name} at {cluster.utilisation:.0%} of peak, "
        f"{duration.least / HOUR * cluster.num_devices:,.1f} GPU hours or more{slow}"
    )
    published = PUBLISHED.get((recipe_name, training.stage))
    if published is not None:
        usual = duration_of(training, cluster, as_usual=True)
        yield f"{published.line()}; with prompts and reference computed as often as then: {_range(usual)}"
    memory = memory_of(training, cluster.num_devices)
    yield memory_line(memory, "a GPU", training)
    changes = advice(training, cluster.device, cluster.num_devices)
    room = f"{memory.total / GIB:,.1f} of {cluster.device.memory_bytes / GIB:,.0f} GiB"
    yield f"fits: {room}" if not changes else f"does not fit: {room}; change {'; or '.join(changes)}"


def work_line(training: Training) -> str:
    """Rows, steps, tokens and operations of a stage."""
    rows = training.rows
    saved = 1 - rows.tokens / rows.repeated_tokens if rows.num_completions > 1 else 0.0
    shared = f", {saved:.0%} fewer by shared prompts" if saved else ""
    return (
        f"{rows.num_rows:,} rows, {training.num_steps:,} steps, {training.trained_tokens / 1e6:,.2f} M tokens{shared}, "
        f"{stage_flops(training):.2e} operations"
    )


def memory_line(memory: Memory, holder: str, training: Training) -> str:
    """The parts of the memory, in GiB; those below a hundredth are left out."""
    named = {name: size for name, size in memory._asdict().items() if name != "logits_avoided"}
    parts = ", ".join(f"{name} {size / GIB:,.2f}" for name, size in named.items() if size >= GIB / 100)
    absent = (
        "; no reference: its log-probs are computed before" if training.has_reference and not memory.reference else ""
    )
    return f"{holder} holds, in GiB: {parts}; no logits, which would take {memory.logits_avoided / GIB:,.2f}{absent}"


def machine_line(memory: Memory, total_bytes: int) -> str:
    """Whether a machine without accelerator has room."""
    room = f"{memory.total / GIB:,.1f} of {total_bytes / GIB:,.0f} GiB"
    return f"fits: {room}" if memory.total <= total_bytes else f"does not fit: {room}; name --gpu and --gpus"


def comparison_lines(
    predicted: Mapping[str, float], taken: Mapping[str, float], calibration_seconds: float
) -> Iterator[str]:
    """Predicted seconds by stage, with those that a run took beside them."""
    if not predicted:
        yield "not known for this machine: name --gpu, and --gpus for several"
    else:
        yield f"by a calibration of about {calibration_seconds:.0f} s on this machine as busy as it is now"
    for stage, seconds in predicted.items():
        yield f"{stage:<10}{in_time(seconds):>8}{_beside(seconds, taken.get(stage))}"
    both = [stage for stage in predicted if stage in taken]
    if predicted:
        total = sum(predicted.values())
        beside = _beside(sum(predicted[one] for one in both), sum(taken[one] for one in both)) if both else ""
        yield f"{'in all':<10}{in_time(total):>8}{beside}"


def _range(duration: Duration) -> str:
    """The time where traffic hides behind arithmetic, and the time where it does not."""
    least, most = in_time(duration.least), in_time(duration.most)
    return least if least == most else f"{least} to {most}"


def _beside(seconds: float, taken: float | None) -> str:
    if not taken:
        return ""
    return f"   took {in_time(taken):>8}   {seconds / taken - 1:+.0%}"


def in_time(seconds: float) -> str:
    """Seconds as one reads them."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < HOUR else f"{seconds / HOUR:.1f} h"
