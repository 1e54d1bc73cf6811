"""A causal language model as a function from forests to the scores of their sequences: the only training forward."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.models.adapters import adapters_add_nothing, adapters_disabled
from zephyr.models.attention import IMPLEMENTATION, chain_hidden_states, forest_hidden_states, shares_prefixes
from zephyr.models.head import output_head
from zephyr.trees.forest import Forest
from zephyr.trees.score import SequenceScores, score

CausalLM: TypeAlias = PreTrainedModel | PeftModel

logger = logging.getLogger(__name__)


class ForestScorer(nn.Module):
    """Scores forests with ``causal_lm``; FSDP2 shards this module, whose forward touches every parameter.

    A model whose layers carry state runs one sequence a row and says so once. Dropout is set to 0, as in the
    published recipes, because a shared prefix has one random mask where separate rows would have several.
    ``autocast``: compute in this dtype with the weights as they are. After a forward, ``router_logits`` holds
    each MoE layer's (T, experts) logits if ``keep_router_logits`` is set.
    """

    def __init__(
        self, causal_lm: CausalLM, *, autocast: torch.dtype | None = None, keep_router_logits: bool = False
    ) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.autocast = autocast
        self.keep_router_logits = keep_router_logits
        self.router_logits: tuple[Tensor, ...] = ()
        model = self.transformers_model
        config = model.config.get_text_config()
        self.experts_per_token = int(getattr(config, "num_experts_per_tok", None) or 0)
        num_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
        self.num_experts = int(num_experts or 0)
        self.shares_prefixes = shares_prefixes(model)
        # Fresh adapters add nothing, so that training starts at its own reference.
        self.starts_as_reference = not self.has_adapters or adapters_add_nothing(causal_lm)
        self._longest_rope = _rope_limit(model)
        _switch_dropout_off(model)
        if self.shares_prefixes:
            model.set_attn_implementation(IMPLEMENTATION)
        else:
            logger.warning("%s: one sequence a row, its layers cannot share prefixes", type(model).__name__)

    @property
    def transformers_model(self) -> PreTrainedModel:
        """The transformers model, also inside a peft wrapper."""
        causal_lm = self.causal_lm
        model = causal_lm.get_base_model() if isinstance(causal_lm, PeftModel) else causal_lm
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"a causal language model of transformers is wanted, got {type(model).__name__}")
        return model

    @property
    def has_adapters(self) -> bool:
        """Whether training changes adapters only, so that the model without them is the reference."""
        return isinstance(self.causal_lm, PeftModel)

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Inside, the scorer is the reference of its own training: adapters off, if there are any."""
        with adapters_disabled(self.causal_lm) if self.has_adapters else nullcontext():
            yield

    def forward(self, forest: Forest, *, with_entropy: bool = False) -> SequenceScores:
        """Scores of the forest's N sequences; see ``zephyr.trees.score.SequenceScores``."""
        model = self.transformers_model
        self._check_positions(forest)
        run = forest_hidden_states if self.shares_prefixes else chain_hidden_states
        kind = forest.ids.device.type
        with torch.autocast(kind, dtype=self.autocast) if self.autocast is not None else nullcontext():
            decoder = model.base_model
            hidden, self.router_logits = run(decoder, forest, output_router_logits=self.keep_router_logits)
            return score(hidden, output_head(model), forest, with_entropy=with_entropy)

    def _check_positions(self, forest: Forest) -> None:
        limit = self._longest_rope
        if limit is not None and any(chain.depth > limit for chain in forest.chains):
            raise ModelError(
                type(self.transformers_model).__name__,
                f"its rotary embedding changes for a whole batch once one sequence is longer than {limit}",
                f"set max_length to at most {limit}",
            )


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The transformer's blocks, by the classes that transformers marks as not to be split."""
    names = {
        name
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        for name in module._no_split_modules or ()  # noqa: SLF001  # the library's own mark for sharding
    }
    return [module for module in model.modules() if type(module).__name__ in names]


def _rope_limit(model: PreTrainedModel) -> int | None:
    """Length beyond which a rotary embedding depends on a batch's longest sequence; None if it never does."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in ("dynamic", "longrope"):
        return None
    return int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)


def _switch_dropout_off(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
