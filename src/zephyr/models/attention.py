"""Registers attention over forests with transformers, so that its decoders run unpatched on prefix trees.

The forest travels as an extra keyword of the forward, which transformers hands down to the attention function. The
experts of mixtures are registered too, so that they compute in autocast's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.moe import ExpertsInterface, grouped_mm_experts_forward

from zephyr.errors import ModelError
from zephyr.trees.attention import ForestAttention, forest_attention
from zephyr.trees.forest import Forest
from zephyr.trees.sdpa import sink_attention

IMPLEMENTATION = "zephyr_forest"


class CannotShareError(ModelError, ValueError):
    """An architecture whose attention, as its layers call it, cannot be computed on a forest."""


# Score terms that some architectures hand to their attention function and that the rule does not know.
_FOREIGN_TERMS = ("position_bias", "head_mask", "indices")


def foreign_terms(keywords: Mapping[str, object], dropout: float) -> list[str]:
    """What of an attention call's other keywords would change its scores, and no attention here knows."""
    foreign = [name for name in _FOREIGN_TERMS if keywords.get(name) is not None]
    return [*foreign, f"dropout {dropout}"] if dropout else foreign


# A forest's layout is new in every micro-batch, and a compiler would compile it anew each time.
@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch 2.13 leaves it without types
def _attend(  # noqa: PLR0913 - the interface of transformers
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    forest: Forest | None = None,
    attend: ForestAttention = forest_attention,
    **others: Any,  # the interface of transformers: every model adds keywords of its own
) -> tuple[Tensor, None]:
    foreign = foreign_terms(others, dropout)
    foreign += ["a soft cap beside sinks"] if s_aux is not None and softcap is not None else []
    # Some models have their window in the mask alone, and the rule has no mask.
    foreign += ["a window that only its mask knows"] if attention_mask is not None and sliding_window is None else []
    name = type(module).__name__
    if foreign:
        problem = f"its attention uses {', '.join(foreign)}, which forests of shared prefixes do not know"
        raise CannotShareError(name, problem, "run one sequence a row")
    if forest is None:
        remedy = "run one sequence a row where its layers hand no keyword on"
        problem = "computes on forests: pass forest= to forward, which hands it down to every layer"
        raise CannotShareError(name, problem, remedy)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if s_aux is None:
        attended = attend(query, key, value, forest, scaling=scaling, window=sliding_window, softcap=softcap)
    else:
        query, key = query.to(value.dtype), key.to(value.dtype)
        attended = sink_attention(query, key, value, forest, scaling=scaling, window=sliding_window, sinks=s_aux)
    return attended.transpose(1, 2).contiguous(), None


def no_mask(*_arguments: Any, local_size: int | None = None, **_keywords: Any) -> Tensor | None:
    """No mask, for the rule needs none; where a mask has a window, its size, for those who attend to see."""
    # Of as many dimensions as a mask has, for some models cut it to the length of their keys.
    return None if local_size is None else torch.full((1, 1, 1, 1), local_size)


class _Lowered:
    """A layer's experts as they are, but for their weights, which are read in another dtype."""

    def __init__(self, experts: nn.Module, dtype: torch.dtype) -> None:
        self._experts = experts
        self._dtype = dtype

    def __getattr__(self, name: str) -> object:
        value = getattr(self._experts, name)
        # With adapters on it, a weight is a parameter no more, but the sum of one and an update.
        return value.to(self._dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _experts(experts: nn.Module, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """What transformers' grouped products give (T, H) for ``hidden`` (T, H), in autocast's dtype where that is on.

    Autocast knows no grouped product (torch 2.13), and would leave nearly all of a mixture's work in float32.
    ``chosen``, ``weights`` (T, k): the experts of each token, and how much each counts.
    """
    kind, layer = hidden.device.type, experts
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, layer = hidden.to(dtype), _Lowered(experts, dtype)  # type: ignore[assignment]
    computed: Tensor = grouped_mm_experts_forward(layer, hidden, chosen, weights)
    return computed


AttentionInterface.register(IMPLEMENTATION, _attend)
AttentionMaskInterface.register(IMPLEMENTATION, no_mask)
# Under the name of what it calls, so that configurations stay as they are.
ExpertsInterface.register("grouped_mm", _experts)


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether the model's layers only attend, so that its sequences can share prefixes."""
    return why_not_shared(model) is None


def counts_from_padding(model: PreTrainedModel) -> bool:
    """Whether the model's first token has the position behind the padding's id, as in RoBERTa's family."""
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    return any(getattr(table, "padding_idx", None) is not None for table in tables)


def why_not_shared(model: PreTrainedModel) -> str | None:
    """Why the model's sequences cannot share prefixes, as far as its configuration says; None where they can."""
    layer_types = getattr(model.config.get_text_config(), "layer_types", None) or ()
    others = sorted({str(kind) for kind in layer_types} - {"full_attention", "sliding_attention", "attention"})
    if getattr(model, "_is_stateful", False):
        return "they carry a state from token to token"
    if others:
        return f"some are {', '.join(others)}"
    if not getattr(model, "_supports_attention_backend", False):
        return "they do not attend through transformers' attention interface"
    if counts_from_padding(model):
        return "positions are counted from the padding's id"  # RoBERTa
    return None


def forest_hidden_states(
    decoder: nn.Module,
    forest: Forest,
    *,
    attend: ForestAttention = forest_attention,
    output_router_logits: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Last hidden states (T, H) of a forest, and each MoE layer's router logits (T, experts) if asked."""
    keywords: dict[str, Any] = {"output_router_logits": True} if output_router_logits else {}
    output = decoder(
        input_ids=forest.ids[None],
        position_ids=forest.position[None],
        use_cache=False,
        forest=forest,
        attend=attend,
        **keywords,
    )
    return output.last_hidden_state[0], tuple(getattr(output, "router_logits", None) or ())


def chain_hidden_states(
    decoder: nn.Module, forest: Forest, *, output_router_logits: bool = False, num_passes: int = 0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same for a model that cannot share: one row a leaf, its path computed again before its own tokens.

    The decoder is run ``num_passes`` times, where that is more often than there are leaves: ranks that share a sharded
    model must run it equally often.
    """
    keywords: dict[str, Any] = {"output_router_logits": True} if output_router_logits else {}
    hidden, routers = [], []
    for chain in forest.chains:
        ranges = [*chain.path, (chain.start, chain.end)]
        ids = torch.cat([forest.ids[start:end] for start, end in ranges])
        output = decoder(input_ids=ids[None], use_cache=False, **keywords)
        hidden.append(output.last_hidden_state[0, chain.path_length :])
        layers = getattr(output, "router_logits", None) or ()
        routers.append([layer.view(len(ids), -1)[chain.path_length :] for layer in layers])
    together = torch.cat(hidden)
    for _ in range(num_passes - len(hidden)):
        output = decoder(input_ids=forest.ids[None, :1], use_cache=False, **keywords)
        together = together + output.last_hidden_state.sum() * 0.0
    return together, tuple(torch.cat(layer) for layer in zip(*routers, strict=True))
