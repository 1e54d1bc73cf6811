"""Reward models: a decoder with a head of one row, as transformers' ForSequenceClassification of its family has it.

The reward of a dialogue is what the head makes of its last token. transformers looks for the last token that is not the
padding token, so that token must end no dialogue.
"""

import copy
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from zephyr.errors import ModelError
from zephyr.models.head import decoder_of, reward_layer
from zephyr.models.loading import caps_scores, empty_model, load_model
from zephyr.models.source import Source, load_config
from zephyr.models.stored_weights import EmptyModel, fill_buffers, stored_weights
from zephyr.models.tokenizers import Tokenizer
from zephyr.trees.forest import Ids

_CLASS = "ForSequenceClassification"
_HEAD = "score.weight"


def is_reward_model(source: Source) -> bool:
    """Whether the source holds a sequence classifier, by its configuration. Raises ModelError."""
    return _is_classifier(load_config(source))


def check_reward_model(source: Source) -> None:
    """Check that the source is a reward model, by its configuration. Raises ModelError."""
    config = load_config(source)
    if not _is_classifier(config):
        remedy = "name the folder of a reward model, or train one: docs/how-to/reward-model.md"
        raise ModelError(source.name, f"is not a reward model (no {_CLASS})", remedy)
    if config.num_labels != 1:
        raise ModelError(source.name, f"gives {config.num_labels} numbers, and a reward is one", "name another model")


def load_reward_model(source: Source, *, dtype: str = "bfloat16", device: str = "cpu") -> PreTrainedModel:
    """The reward model of `source` in eval mode, as `load_model` gives others. Raises ModelError for another model."""
    check_reward_model(source)
    model = load_model(source, dtype=dtype, device=device, auto=AutoModelForSequenceClassification)
    layer = reward_layer(model)
    if layer is None or getattr(layer, "bias", None) is not None:
        what = f"{type(model).__name__} has no linear head 'score' without a bias behind a decoder"
        raise ModelError(source.name, what, "name a reward model of a decoder, such as LlamaForSequenceClassification")
    return model


class NewHead(NamedTuple):
    """What makes a reward model of a language model.

    `ends`: the ids that dialogues end in, none of which may be padding; `seed`: of the weights of the head.
    """

    tokenizer: Tokenizer
    ends: Collection[int]
    seed: int


def load_start(source: Source, head: NewHead | None, *, dtype: str) -> PreTrainedModel:
    """The model of `source`, which becomes a reward model with a `head`; one that is a reward model keeps its own.

    Raises ModelError.
    """
    if head is None or not is_reward_model(source):
        return with_head(load_model(source, dtype=dtype), head)
    model = load_reward_model(source, dtype=dtype)
    set_padding(model, head.tokenizer, head.ends)
    return model


def empty_start(source: Source, head: NewHead | None, *, dtype: str) -> EmptyModel:
    """What `load_start` gives, on the meta device, for ranks to read their parts of its weights; a new head is drawn.

    Raises ModelError.
    """
    is_stored = head is not None and is_reward_model(source)
    if is_stored:
        check_reward_model(source)
    empty = empty_model(source, dtype=dtype)
    model = with_head(empty, head)
    weights = stored_weights(source, model if is_stored else empty)
    if weights is None:
        return EmptyModel(model, None)
    if head is not None and not is_stored:
        model.score = drawn_head(model, seed=head.seed, device=torch.device("cpu"))
    fill_buffers(model)
    absent = any(one.is_meta and name not in weights.pieces for name, one in model.state_dict().items())
    return EmptyModel(model, None if absent else weights)


def with_head(model: PreTrainedModel, head: NewHead | None) -> PreTrainedModel:
    """The model itself, or with a `head` the reward model of its decoder. Raises ModelError as `reward_model_of`."""
    if head is None:
        return model
    made = reward_model_of(model, seed=head.seed)
    set_padding(made, head.tokenizer, head.ends)
    return made


def reward_model_of(model: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """The reward model of a language model's decoder, which is taken and not copied, and of a new head.

    The weights of the head are drawn as transformers draws them. Raises ModelError for an architecture that has no such
    class.
    """
    made, decoder = _empty_classifier(model), decoder_of(model)
    prefix, layer = made.base_model_prefix, reward_layer(made)
    others = {name for name, _ in made.named_parameters() if not name.startswith(f"{prefix}.")}
    if layer is None or others != {_HEAD} or type(getattr(made, prefix)) is not type(decoder):
        what = f"{type(made).__name__} is not its decoder with a linear head 'score'"
        raise ModelError(type(model).__name__, what, "start from another architecture")
    setattr(made, prefix, decoder)
    made.config = model.config
    made.config.num_labels = 1
    beside = next(iter(model.parameters()))
    made.score = _head(made, beside.device) if beside.is_meta else drawn_head(made, seed=seed, device=beside.device)
    module: nn.Module = made
    module.eval()
    return made


def _empty_classifier(model: PreTrainedModel) -> PreTrainedModel:
    """The reward model of the model's family on the meta device."""
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):
            made: PreTrainedModel = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
                config, attn_implementation="eager" if caps_scores(config) else None
            )
    except ValueError as error:
        remedy = "start from a model whose family has one, such as Llama, Mistral, Qwen, Gemma or Phi"
        raise ModelError(type(model).__name__, f"transformers has no {_CLASS} for it", remedy) from error
    return made


def drawn_head(made: PreTrainedModel, *, seed: int, device: torch.device) -> nn.Linear:
    """A new head for a reward model, drawn the same on every device."""
    config, head = made.config.get_text_config(), _head(made, device)
    spread = float(getattr(config, "initializer_range", None) or 1 / math.sqrt(config.hidden_size))
    drawn = torch.randn(1, config.hidden_size, generator=torch.Generator().manual_seed(seed))
    head.weight.data.copy_(spread * drawn)
    return head


def _head(made: PreTrainedModel, device: torch.device) -> nn.Linear:
    return nn.Linear(made.config.get_text_config().hidden_size, 1, bias=False, device=device, dtype=made.dtype)


def _is_classifier(config: PretrainedConfig) -> bool:
    return any(name.endswith(_CLASS) for name in config.architectures or ())


def pad_token(tokenizer: Tokenizer, ends: Collection[int]) -> int:
    """The id to pad dialogues with, which is none of those that they end in. Raises ModelError where there is none."""
    known = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids)
    found = next((token for token in known if token is not None and token not in ends), None)
    if found is None:
        what = "its tokenizer has no special token that ends no answer, so none to pad with"
        raise ModelError("reward model", what, "add a pad token to the tokenizer")
    return int(found)


def set_padding(model: PreTrainedModel, tokenizer: Tokenizer, ends: Collection[int]) -> None:
    """Make model and tokenizer, once saved, pad with a token that moves no reward. Raises ModelError."""
    pad = pad_token(tokenizer, ends)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = pad


def read_ids(ids: Ids, pad: int | None) -> Ids:
    """The ids (n,) up to the last that is not padding: where transformers reads the reward."""
    kept = (ids != pad).nonzero()[0] if pad is not None else []
    return ids[: int(kept[-1]) + 1] if len(kept) else ids


def own_rewards(model: PreTrainedModel, sequences: Sequence[Ids]) -> Tensor:
    """(n,) float64 rewards of token sequences by the model's own forward, padded into one batch; no gradients."""
    pad = model.config.get_text_config().pad_token_id
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad or 0, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence)
        mask[row, : len(sequence)] = 1
    with torch.no_grad():
        logits: Tensor = model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).logits
    return logits[:, 0].double().cpu()
