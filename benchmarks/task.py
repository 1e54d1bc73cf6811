"""Input and output of a measured process, as JSON files: the contract between driver and sides."""

import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

# The SimPO paper's, the margin divided by beta.
SIMPO_BETA, SIMPO_MARGIN = 2.0, 0.8


class Pair(NamedTuple):
    """Token ids of one preference pair; the first prompt token is BOS, whole completions end in EOS."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class LabelledAnswer(NamedTuple):
    """One answer of a pair, as KTO learns it."""

    prompt: list[int]
    answer: list[int]
    is_chosen: bool


def labelled_answers(pairs: list[Pair], pairs_per_step: int) -> list[LabelledAnswer]:
    """Both answers of every pair; in a step the chosen ones first, so that no answer stands beside its own prompt's.

    KTO's mismatched answers are those of neighbours.
    """
    found = []
    for start in range(0, len(pairs), pairs_per_step):
        step = pairs[start : start + pairs_per_step]
        found += [LabelledAnswer(pair.prompt, pair.chosen, True) for pair in step]
        found += [LabelledAnswer(pair.prompt, pair.rejected, False) for pair in step]
    return found


@dataclass(frozen=True)
class Task:
    """Everything that must be equal on both sides of a comparison, and the peer's own switches."""

    objective: str  # sft, dpo, orpo, simpo or kto
    model_folder: str  # config and random safetensors weights, loaded by both
    pairs_file: str  # JSON list of [prompt, chosen, rejected] ids, in the order of training
    pairs_per_step: int
    max_length: int  # the pairs are already cut to it
    max_unique_tokens: int  # the token budget of one of our micro-batches
    self_checks: bool  # whether our loop proves itself before and at the first step, as it does by default
    threads: int
    learning_rate: float
    beta: float = 0.1
    device: str = "cpu"
    dtype: str = "float32"
    autocast: bool = False  # float32 weights, products in bfloat16
    adapter_folder: str = ""  # LoRA adapters that both sides start from; empty: all weights are trained
    peer_attention: str = "sdpa"
    peer_liger: bool = False  # liger-kernel's norms, SwiGLU and RoPE
    peer_checkpointing: bool = False
    peer_padding_free: bool = False  # SFT alone: the batch as one row without padding
    peer_micro_batch: int = 0  # pairs a forward pass of the peer holds; 0: all pairs of the step
    warm_up_steps: int = 0  # trained beforehand on a model that is then thrown away

    def for_peer(self) -> Self:
        """The same task without what only our side reads, so that tuning ours keeps the peer's results."""
        return replace(self, max_unique_tokens=0, self_checks=False)

    def save(self, path: Path) -> None:
        """Write the task as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str) -> Self:
        """The task that ``save`` wrote."""
        return cls(**json.loads(Path(path).read_text()))

    def pairs(self) -> list[Pair]:
        """The pairs, in the order of training."""
        return [Pair(*row) for row in json.loads(Path(self.pairs_file).read_text())]


@dataclass(frozen=True)
class Run:
    """One side's measurement.

    A step lasts from the end of the one before to the end of its own update, the first one from the call of the
    training function; so ours holds the reference pass, the hashes and the self-checks.
    """

    losses: list[float]
    step_seconds: list[float]
    peak_rss_bytes: int
    peak_device_bytes: int
    settings: dict[str, object]  # what the process actually ran with, for the record
    reused: bool = False  # whether it was taken from an earlier run of the same task

    @property
    def seconds(self) -> float:
        """All the training there was: reference, forward, backward, optimizer, data loading, logging."""
        return sum(self.step_seconds)

    @property
    def median_step_seconds(self) -> float:
        """The median step but the first, which holds what precedes it."""
        return statistics.median(self.step_seconds[1:] or self.step_seconds)

    def save(self, path: str) -> None:
        """Write the measurement as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Self:
        """The measurement that ``save`` wrote."""
        return cls(**json.loads(path.read_text()))
