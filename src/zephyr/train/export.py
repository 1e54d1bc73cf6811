"""The trained model as a folder that others read, from one process or gathered from all ranks."""

from __future__ import annotations

from pathlib import Path

from zephyr.models.adapters import save
from zephyr.models.collectives import from_rank_zero, is_distributed
from zephyr.models.loading import Tokenizer
from zephyr.models.scorer import CausalLM
from zephyr.train.distributed import whole_state_dict


def save_trained(model: CausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Nothing; afterwards `folder`, new and whole, is a plain model folder, or an adapter folder for LoRA.

    A collective call: the weights are gathered one by one on the CPU of rank 0, which writes. Its failure, as for a
    folder that is there already or a full disk, is raised on every rank.
    """
    has_adapters = hasattr(model, "peft_config")
    weights = whole_state_dict(model, trained_only=has_adapters) if is_distributed() else None
    from_rank_zero(lambda: save(model, tokenizer, folder, weights=weights))
