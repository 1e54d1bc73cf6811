"""A causal language model as a function from forests to the scores of their sequences: the only training forward.

A reward model is one with another head: transformers' class ForSequenceClassification of its family.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.models.adapters import adapter_dropouts, adapters_add_nothing, adapters_disabled
from zephyr.models.attention import (
    IMPLEMENTATION,
    CannotShareError,
    chain_hidden_states,
    forest_hidden_states,
    why_not_shared,
)
from zephyr.models.carried_state import can_carry_state, stretch_hidden_states, stretches
from zephyr.models.collectives import on_every_rank
from zephyr.models.head import decoder_of, effective_weight, has_transform, head_input, output_head, reward_layer
from zephyr.models.loading import num_embeddings, plain_attention
from zephyr.models.token_noise import TokenNoise, is_jittering, path_hashes, row_hashes, switch_noise_off
from zephyr.trees.attention import ForestAttention, forest_attention
from zephyr.trees.forest import Forest, all_scored, build_forest
from zephyr.trees.score import Head, SequenceScores, score, score_ends

CausalLM: TypeAlias = PreTrainedModel | PeftModel

logger = logging.getLogger(__name__)

_POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "positions_embed", "pos_encoding")


class Kernels(NamedTuple):
    """What computes on forests. The defaults suit the device that the tensors are on.

    ``chunk_bytes``: the logits that exist at a time; None: by the device.
    """

    attention: ForestAttention = forest_attention
    chunk_bytes: int | None = None


class ForestScorer(nn.Module):
    """Scores forests with ``causal_lm``; FSDP2 shards this module, whose forward touches every parameter.

    Layers with a state carry it over forks (``carries_state``). Where a model cannot, or attends as forests cannot,
    it runs one sequence a row, and says so once. Dropout is set to 0, as in the published recipes, because a shared
    prefix has one random mask where separate rows would have several, but for that on adapters, which training draws
    token by token (``noisy``). Routers that jitter stay in eval mode.
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
        _refuse_unfit(self.transformers_model)
        self.autocast = autocast
        self.keep_router_logits = keep_router_logits
        self.kernels = kernels
        self.router_logits: tuple[Tensor, ...] = ()
        model = self.transformers_model
        config = model.config.get_text_config()
        self.experts_per_token = experts_per_token(model)
        num_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
        self.num_experts = int(num_experts or 0)
        self._reason = why_not_shared(model)
        self.shares_prefixes = self._reason is None
        # Whether prefixes are shared by handing on a state: known once it was tried, on fewer tokens than a chunk has.
        self.carries_state: bool | None = False if "chunked_attention" in (self._reason or "") else None
        # Fresh adapters add nothing, so that training starts at its own reference.
        self.starts_as_reference = not self.has_adapters or adapters_add_nothing(causal_lm)
        self._has_transform = has_transform(model)
        self._longest = _longest_sequence(model)
        self._jittering = [module for module in causal_lm.modules() if is_jittering(module)]
        adapted = causal_lm.active_peft_config if isinstance(causal_lm, PeftModel) else None
        self.adapter_dropout = float(getattr(adapted, "lora_dropout", 0.0))
        self.noise = switch_noise_off(causal_lm)
        self._path_hashes: Tensor | None = None
        self._is_noisy = False
        for module in self._jittering:
            module.training = False
        if self.shares_prefixes:
            model.set_attn_implementation(IMPLEMENTATION)

    def train(self, mode: bool = True) -> ForestScorer:
        """Set the mode of all modules but the routers that would draw at random in training."""
        super().train(mode)
        for module in self._jittering:
            module.training = False
        return self

    @property
    def transformers_model(self) -> PreTrainedModel:
        """The transformers model, also inside a peft wrapper."""
        return plain_model(self.causal_lm)

    @property
    def gives_rewards(self) -> bool:
        """Whether it is a reward model's, so that a sequence has a reward in place of a log-prob."""
        return reward_layer(self.transformers_model) is not None

    @property
    def has_adapters(self) -> bool:
        """Whether training changes adapters only, so that the model without them is the reference."""
        return isinstance(self.causal_lm, PeftModel)

    def checkpoint_activations(self, *, keep_products: bool = False, every: int = 1) -> None:
        """Keep each layer's input alone for the backward pass, and compute the rest again.

        ``keep_products``: keep what matrix products and attention give, too, and compute again what costs little.
        ``every``: do so in the layers of this number and its multiples, from 1; the others keep all. Raises ModelError
        where there is no such layer.
        """
        model = self.transformers_model
        # Renamed in transformers 5.23; 5.17 has the old name only.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        kept = {"context_fn": partial(create_selective_checkpoint_contexts, _kept_or_again)} if keep_products else {}
        enable({"use_reentrant": False, **kept})
        if every > 1:
            _recompute_only(model, every)
        self.carries_state = False  # what is computed again would be without its state

    def compile_layers(self) -> None:
        """Compile each decoder layer by itself."""
        for layer in decoder_layers(self):
            layer.compile(dynamic=True)
        self.carries_state = False  # a cache is nothing to compile

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Inside, the scorer is the reference of its own training: adapters off, if there are any."""
        with adapters_disabled(self.causal_lm) if self.has_adapters else nullcontext():
            yield

    @contextmanager
    def noisy(self, noise: TokenNoise | None) -> Iterator[None]:
        """Inside, embeddings have this noise added, and what adapters are given its dropout, if any.

        Raises ModelError where the dropout cannot be that of the tokens.
        """
        if noise is None:
            yield
            return
        drawn: TokenNoise = noise

        def add(_module: nn.Module, given: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
            if not self.shares_prefixes:
                self._path_hashes = row_hashes(given[0][0])
            assert self._path_hashes is not None
            return drawn.on(self._path_hashes, embedded)

        embedding: nn.Module = self.transformers_model.get_input_embeddings()
        handles, self._is_noisy = [embedding.register_forward_hook(add)], True
        handles += self._dropping(drawn) if drawn.dropout else []
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._is_noisy, self._path_hashes = False, None

    def _dropping(self, noise: TokenNoise) -> list[RemovableHandle]:
        """Hooks that drop a share of what each adapter is given."""
        name = type(self.transformers_model).__name__
        if not self.shares_prefixes:
            what = "runs one sequence a row, and its activations may be computed again when another row is at work"
            raise ModelError(name, f"lora_dropout: {what}", "set lora_dropout to 0")

        def drop(_module: nn.Module, given: tuple[Tensor, ...], _kept: Tensor, number: int) -> Tensor:
            hashes = self._path_hashes
            if hashes is None or given[0].shape[-2] != len(hashes):
                what = "lora_dropout: an adapter is given some of the tokens alone, in an order of its own"
                raise ModelError(name, what, "set lora_dropout to 0, or leave experts out of target_modules")
            return noise.dropped(hashes, given[0], number)

        return [
            module.register_forward_hook(partial(drop, number=number))
            for number, module in enumerate(adapter_dropouts(self.causal_lm))
        ]

    @contextmanager
    def as_published(self) -> Iterator[None]:
        """Inside, the model computes as transformers runs it: its own attention, eval mode, no setting switched off."""
        model, training = self.transformers_model, [module for module in self.modules() if module.training]
        for setting in self.noise:
            setattr(setting.module, setting.name, setting.value)
        for module in training:
            module.training = False
        if self.shares_prefixes:
            model.set_attn_implementation(plain_attention(model))
        try:
            yield
        finally:
            for setting in self.noise:
                setattr(setting.module, setting.name, 0.0)
            for module in training:
                module.training = True
            if self.shares_prefixes:
                model.set_attn_implementation(IMPLEMENTATION)

    def forward(self, forest: Forest, *, with_entropy: bool = False) -> SequenceScores:
        """Scores of the forest's N sequences; see ``zephyr.trees.score.SequenceScores``."""
        if not forest.num_tokens:
            return self._score_nothing(forest, with_entropy=with_entropy)
        kind = forest.ids.device.type
        with torch.autocast(kind, dtype=self.autocast) if self.autocast is not None else nullcontext():
            hidden, rewards = self.hidden_states(forest), reward_layer(self.transformers_model)
            if rewards is not None:
                return score_ends(hidden, Head(*effective_weight(rewards)), forest)
            head = output_head(self.transformers_model)
            return score(hidden, head, forest, with_entropy=with_entropy, chunk_bytes=self.kernels.chunk_bytes)

    def hidden_states(self, forest: Forest) -> Tensor:
        """The last hidden states (T, H) of a forest that holds at least one token."""
        self._check_positions(forest)
        model, keep = self.transformers_model, self.keep_router_logits
        decoder = decoder_of(model)
        if self.shares_prefixes:
            attend = self.kernels.attention
            self._path_hashes = path_hashes(forest) if self._is_noisy else None
            try:
                found = forest_hidden_states(decoder, forest, attend=attend, output_router_logits=keep)
            except CannotShareError as error:
                logger.warning("%s: one sequence a row; %s: %s", type(model).__name__, error.where, error.what)
                self.shares_prefixes, self._path_hashes = False, None
                model.set_attn_implementation(plain_attention(model))
        if not self.shares_prefixes:
            found = self._without_trees(decoder, forest)
        hidden, self.router_logits = found
        return self.handed_over(hidden)

    def _without_trees(self, decoder: nn.Module, forest: Forest) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What a decoder gives that does not compute on forests: from fork to fork, or one sequence a row."""
        sharded, keep = isinstance(self, FSDPModule), self.keep_router_logits
        if self._reason is not None:
            self._try_carried_state(decoder, forest.ids.device)
        # Noise is drawn for a token from all tokens up to it, which a row has and a part of one has not.
        by_stretch = bool(self.carries_state) and not self._is_noisy
        mine = len(stretches(forest) if by_stretch else forest.chains)
        num_passes = max(on_every_rank(lambda: mine)) if sharded else 0
        compute = stretch_hidden_states if by_stretch else chain_hidden_states
        return compute(decoder, forest, output_router_logits=keep, num_passes=num_passes)

    def _try_carried_state(self, decoder: nn.Module, device: torch.device) -> None:
        """Test whether states can be carried over forks, and log the choice once."""
        model, reason, self._reason = self.transformers_model, self._reason, None
        if self.carries_state is None:
            tried = can_carry_state(decoder, num_embeddings(model), self._longest[0], device)
            self.carries_state = all(on_every_rank(lambda: tried)) if isinstance(self, FSDPModule) else tried
        if self.carries_state:
            logger.info("%s: prefixes are shared by handing on its state: %s", type(model).__name__, reason)
        else:
            logger.warning("%s: one sequence a row, its layers cannot share prefixes: %s", type(model).__name__, reason)

    def handed_over(self, hidden: Tensor) -> Tensor:
        """What the output layer is given (T, H') where the decoder gives ``hidden`` (T, H)."""
        return head_input(self.transformers_model, hidden) if self._has_transform else hidden

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
            collisions=zeros if with_entropy else None,
        )

    def _check_positions(self, forest: Forest) -> None:
        limit, why = self._longest
        if limit is not None and any(chain.depth > limit for chain in forest.chains):
            name = type(self.transformers_model).__name__
            raise ModelError(name, f"{why} {limit} tokens", f"set max_length to at most {limit}")


# Operations whose results are kept by selective checkpointing: matrix products and attention.
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "grouped_mm_fallback", "_varlen_attn")


def _kept_or_again(_context: object, operation: object, *_arguments: object, **_keywords: object) -> CheckpointPolicy:
    """Whether a layer keeps an operation's result for its backward pass, or computes it again."""
    name = f"{operation}".removesuffix(".default").rpartition(".")[2]
    is_kept = name in _PRODUCTS or name.startswith("_scaled_dot_product")
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


def _recompute_only(model: PreTrainedModel, every: int) -> None:
    """Of layers that are all computed again, leave those of the number ``every`` and its multiples, from 1."""
    layers = [layer for layer in decoder_layers(model) if hasattr(layer, "gradient_checkpointing")]
    if len(layers) < every:
        what = f"activation_checkpointing {every} computes every layer of that number again, and it has {len(layers)}"
        raise ModelError(type(model).__name__, what, "choose a smaller number, true or selective")
    for number, layer in enumerate(layers, start=1):
        setattr(layer, "gradient_checkpointing", number % every == 0)  # noqa: B010  # of transformers' own layers


def plain_model(causal_lm: CausalLM) -> PreTrainedModel:
    """The transformers model, also inside a peft wrapper. Raises TypeError for anything else."""
    model = causal_lm.get_base_model() if isinstance(causal_lm, PeftModel) else causal_lm
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"expected a causal language model of transformers, got {type(model).__name__}")
    return model


def experts_per_token(model: PreTrainedModel) -> int:
    """How many experts a layer chooses for each token; 0 for a dense model."""
    return int(getattr(model.config.get_text_config(), "num_experts_per_tok", None) or 0)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The transformer's blocks, by the classes that transformers marks as not to be split."""
    names = {
        name
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        for name in module._no_split_modules or ()  # noqa: SLF001  # the library's own mark for sharding
    }
    return [module for module in model.modules() if type(module).__name__ in names]


# What an architecture, by its model type, needs that a sequence of tokens does not say.
_UNFIT = {
    "gemma4_assistant": "reads the keys and values of the model that it drafts for",
    "gemma4_unified_assistant": "reads the keys and values of the model that it drafts for",
    "reformer": "trains on sequences of one length alone",
}


def _refuse_unfit(model: PreTrainedModel) -> None:
    why = _UNFIT.get(model.config.model_type)
    if why is not None:
        raise ModelError(type(model).__name__, why, "use another architecture")


def _longest_sequence(model: PreTrainedModel) -> tuple[int | None, str]:
    """The length up to which positions mean the same in every layout, None if there is no limit, and why."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        limit = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        return int(limit), "its rotary embedding changes for a whole batch once one sequence is longer than"
    tables = [_num_positions(module) for name, module in model.named_modules() if _ends_in(name, _POSITION_TABLES)]
    tables += [len(buffer) for name, buffer in model.named_buffers() if _ends_in(name, _POSITION_TABLES)]
    return min(filter(None, tables), default=None), "its table of positions holds"


def _num_positions(module: nn.Module) -> int | None:
    """How many positions a table holds, None for another kind of module."""
    if not isinstance(module, nn.Embedding):
        return None
    # Some tables begin with rows of no position: two in OPT and BioGPT, up to the padding's in RoBERTa.
    before = -1 if module.padding_idx is None else module.padding_idx
    return module.num_embeddings - int(getattr(module, "offset", before + 1))


def _ends_in(path: str, names: Collection[str]) -> bool:
    return path.rpartition(".")[2] in names
