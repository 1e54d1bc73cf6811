"""A causal language model as a function from forests to the scores of their sequences: the only training forward."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.models.adapters import adapters_add_nothing, adapters_disabled
from zephyr.models.attention import IMPLEMENTATION, chain_hidden_states, forest_hidden_states, shares_prefixes
from zephyr.models.head import output_head
from zephyr.trees.attention import ForestAttention, forest_attention
from zephyr.trees.forest import Forest, all_scored, build_forest
from zephyr.trees.score import SequenceScores, score

CausalLM: TypeAlias = PreTrainedModel | PeftModel

logger = logging.getLogger(__name__)


class Kernels(NamedTuple):
    """What computes on forests. The defaults suit the device that the tensors are on.

    ``chunk_bytes``: the logits that exist at a time; None: by the device.
    """

    attention: ForestAttention = forest_attention
    chunk_bytes: int | None = None


class ForestScorer(nn.Module):
    """Scores forests with ``causal_lm``; FSDP2 shards this module, whose forward touches every parameter.

    A model whose layers carry state runs one sequence a row and says so once. Dropout is set to 0, as in the
    published recipes, because a shared prefix has one random mask where separate rows would have several.
    ``autocast``: compute in this dtype with the weights as they are. ``kernels``: others than those of the device.
    After a forward, ``router_logits`` holds each MoE layer's (T, experts) logits if ``keep_router_logits`` is set.
    """

    def __init__(
        self,
        causal_lm: CausalLM,
        *,
        autocast: torch.dtype | None = None,
        keep_router_logits: bool = False,
        kernels: Kernels = Kernels(),  # noqa: B008  # a frozen record
    ) -> None:
        super().__init__()
        if isinstance(causal_lm, PeftModel) and causal_lm.active_peft_config.is_prompt_learning:
            raise ModelError(
                "adapters", "prompt and prefix tuning prepend virtual tokens, which is not supported", "use LoRA"
            )
        self.causal_lm = causal_lm
        self.autocast = autocast
        self.keep_router_logits = keep_router_logits
        self.kernels = kernels
        self.router_logits: tuple[Tensor, ...] = ()
        model = self.transformers_model
        config = model.config.get_text_config()
        self.experts_per_token = int(getattr(config, "num_experts_per_tok", None) or 0)
        num_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
        self.num_experts = int(num_experts or 0)
        self.shares_prefixes = shares_prefixes(model)
        # Fresh adapters add nothing, so that training starts at its own reference.
        self.starts_as_reference = not self.has_adapters or adapters_add_nothing(causal_lm)
        self._longest = _longest_sequence(model)
        _switch_noise_off(causal_lm)
        if self.shares_prefixes:
            model.set_attn_implementation(IMPLEMENTATION)
        else:
            logger.warning("%s: one sequence a row, its layers cannot share prefixes", type(model).__name__)

    @property
    def transformers_model(self) -> PreTrainedModel:
        """The transformers model, also inside a peft wrapper."""
        return plain_model(self.causal_lm)

    @property
    def has_adapters(self) -> bool:
        """Whether training changes adapters only, so that the model without them is the reference."""
        return isinstance(self.causal_lm, PeftModel)

    def checkpoint_activations(self) -> None:
        """Keep each layer's input alone for the backward pass, and compute the rest again."""
        model = self.transformers_model
        # Renamed in transformers 5.23; 5.17 has the old name only.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Inside, the scorer is the reference of its own training: adapters off, if there are any."""
        with adapters_disabled(self.causal_lm) if self.has_adapters else nullcontext():
            yield

    def forward(self, forest: Forest, *, with_entropy: bool = False) -> SequenceScores:
        """Scores of the forest's N sequences; see ``zephyr.trees.score.SequenceScores``."""
        if not forest.num_tokens:
            return self._score_nothing(forest, with_entropy=with_entropy)
        kind = forest.ids.device.type
        with torch.autocast(kind, dtype=self.autocast) if self.autocast is not None else nullcontext():
            hidden, head = self.hidden_states(forest), output_head(self.transformers_model)
            return score(hidden, head, forest, with_entropy=with_entropy, chunk_bytes=self.kernels.chunk_bytes)

    def hidden_states(self, forest: Forest) -> Tensor:
        """The last hidden states (T, H) of a forest that holds at least one token."""
        self._check_positions(forest)
        decoder, keep = self.transformers_model.base_model, self.keep_router_logits
        if self.shares_prefixes:
            attend = self.kernels.attention
            found = forest_hidden_states(decoder, forest, attend=attend, output_router_logits=keep)
        else:
            found = chain_hidden_states(decoder, forest, output_router_logits=keep)
        hidden, self.router_logits = found
        return hidden

    def _score_nothing(self, forest: Forest, *, with_entropy: bool) -> SequenceScores:
        """Scores of a forest without tokens, with gradients of 0: sharded over ranks, every forward must happen."""
        stand_in = build_forest([all_scored([0, 0])]).to(forest.ids.device)
        # Not self(...): FSDP2's hooks around this forward run already.
        scores = self.forward(stand_in, with_entropy=with_entropy)
        self.router_logits = tuple(layer[:0] for layer in self.router_logits)
        zeros = scores.mean_logits.new_zeros(forest.num_sequences)
        return SequenceScores(
            # A sum, no view of one: FSDP2 hooks into what a forward gives back.
            logps=scores.logps.new_zeros(forest.num_sequences) + scores.logps.sum() * 0.0,
            num_tokens=zeros.long(),
            mean_logits=zeros,
            entropies=zeros if with_entropy else None,
        )

    def _check_positions(self, forest: Forest) -> None:
        limit, why = self._longest
        if limit is not None and any(chain.depth > limit for chain in forest.chains):
            name = type(self.transformers_model).__name__
            raise ModelError(name, f"{why} {limit} tokens", f"set max_length to at most {limit}")


def plain_model(causal_lm: CausalLM) -> PreTrainedModel:
    """The transformers model, also inside a peft wrapper. Raises TypeError for anything else."""
    model = causal_lm.get_base_model() if isinstance(causal_lm, PeftModel) else causal_lm
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"expected a causal language model of transformers, got {type(model).__name__}")
    return model


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The transformer's blocks, by the classes that transformers marks as not to be split."""
    names = {
        name
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        for name in module._no_split_modules or ()  # noqa: SLF001  # the library's own mark for sharding
    }
    return [module for module in model.modules() if type(module).__name__ in names]


def _longest_sequence(model: PreTrainedModel) -> tuple[int | None, str]:
    """The length up to which positions mean the same in every layout, None if there is no limit, and why."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        limit = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        return int(limit), "its rotary embedding changes for a whole batch once one sequence is longer than"
    tables = [
        module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in ("wpe", "embed_positions")
    ]
    return min(tables, default=None), "its table of positions holds"


def _switch_noise_off(model: nn.Module) -> None:
    """Set dropout, layer drop and router jitter to 0 in place, and say so if any was on."""
    found = set()
    for module in model.modules():
        numbers = {name: value for name, value in vars(module).items() if isinstance(value, float) and value}
        noisy = [name for name in numbers if any(word in name for word in ("dropout", "layerdrop", "jitter_noise"))]
        noisy += ["p"] if isinstance(module, nn.Dropout) and module.p else []
        for name in noisy:
            setattr(module, name, 0.0)
            found.add("dropout" if name == "p" else name)
    if found:
        logger.info("%s: switched off for training on shared prefixes", ", ".join(sorted(found)))
