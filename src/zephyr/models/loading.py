"""Causal language models from a hub id or a folder, and back into a plain Hugging Face folder.

Only safetensors are read, and no code that comes with a model is run unless its repository and revision are
named. What would train or generate nonsense in silence is an error here: weights that are missing or not
finite, and a tokenizer that does not fit. Adapters and quantised loading are in `adapters`.
"""

import copy
import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar
from transformers.utils.quantization_config import QuantizationConfigMixin

from zephyr.atomic import sync
from zephyr.errors import ModelError, ResourceError, did_you_mean
from zephyr.models.matmul_speed import matmul_speed
from zephyr.models.source import Source, check_source, check_weight_files, load_config, reading
from zephyr.models.tokenizers import Tokenizer, load_tokenizer
from zephyr.records.fields import printable

_log = logging.getLogger(__name__)
# Its report on weights lists every name as it stands in the file; ours says the first, and how many.
logging.getLogger("transformers.modeling_utils").addFilter(lambda record: "LOAD REPORT" not in str(record.msg))
# A bar for every file that is read or written drowns what a run has to say.
disable_progress_bar()  # type: ignore[no-untyped-call]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
# Numbers that a model computes when it is loaded, such as tables of positions.
MOST_COMPUTED = 1 << 28
# Weights that may be missing without being refused for that here: what is missing is said by name later.
SLACK = 1 << 24
AutoClass: TypeAlias = type[AutoModelForCausalLM] | type[AutoModelForSequenceClassification]
# Formats that run code, or may, when they are read.
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


class Loaded(NamedTuple):
    """A model in eval mode and its tokenizer, checked against each other."""

    model: PreTrainedModel
    tokenizer: Tokenizer


def load(source: Source, *, dtype: str = "bfloat16", device: str = "cpu") -> Loaded:
    """The model and the tokenizer of `source`, which fit each other. Raises ModelError."""
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype=dtype, device=device)
    check_tokenizer(model, tokenizer, source.name)
    return Loaded(model, tokenizer)


def load_model(
    source: Source,
    *,
    dtype: str = "bfloat16",
    device: str = "cpu",
    quantization: QuantizationConfigMixin | None = None,
    auto: AutoClass = AutoModelForCausalLM,
) -> PreTrainedModel:
    """The causal language model of `source` in eval mode, with all its weights present and finite.

    `auto`: the class to load it by, where it is to be another kind of model. Raises ModelError; nothing is ever
    initialised at random in place of a missing weight.
    """
    if dtype not in DTYPES:
        raise ModelError("dtype", f"unknown name '{dtype}'{did_you_mean(dtype, DTYPES)}", "name one of them")
    check_source(source)
    _check_weight_files(source)
    config = load_config(source, what="model")
    _check_size(source, config, check_weight_files(source), auto)
    with reading(source, "model"):
        loaded: object = auto.from_pretrained(
            source.name,
            config=config,
            revision=source.revision or "main",
            local_files_only=source.offline,
            trust_remote_code=source.runs_own_code,
            use_safetensors=True,
            dtype=DTYPES[dtype],
            device_map={"": device},
            attn_implementation="eager" if caps_scores(config) else None,
            quantization_config=quantization,
            output_loading_info=True,
        )
    assert isinstance(loaded, tuple)
    model, report = loaded
    assert isinstance(model, PreTrainedModel)
    _check_report(source, sorted(report["missing_keys"]), sorted(report["unexpected_keys"]))
    check_finite_weights(model.state_dict(), source.name)
    module: nn.Module = model
    module.eval()
    return model


def empty_model(source: Source, *, dtype: str = "bfloat16") -> PreTrainedModel:
    """The architecture of `source` on the meta device, as `load_model` gives it; no weight is read.

    Raises ModelError.
    """
    return _empty(source, load_config(source), dtype)


def _empty(
    source: Source, config: PretrainedConfig, dtype: str, auto: AutoClass = AutoModelForCausalLM
) -> PreTrainedModel:
    with reading(source, "model"), torch.device("meta"):
        model: PreTrainedModel = auto.from_config(  # type: ignore[no-untyped-call]
            config,
            dtype=DTYPES[dtype],
            attn_implementation="eager" if caps_scores(config) else None,
            trust_remote_code=source.runs_own_code,
        )
    module: nn.Module = model
    module.eval()
    return model


class Placement(NamedTuple):
    """A device and a dtype, by the names that `load` takes."""

    device: str
    dtype: str


def placement(dtype: str | None = None) -> Placement:
    """The accelerator that is there, with bfloat16, else the CPU with float32; with `dtype` where one is asked for."""
    # Unchecked, a torch that was built for CUDA names a GPU also where there is none.
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    usual = Placement("cpu", "float32") if accelerator is None else Placement(str(accelerator), "bfloat16")
    return usual if dtype is None else usual._replace(dtype=dtype)


def load_to_score(source: Source, dtype: str | None = None) -> PreTrainedModel:
    """A model that answers and scores, placed as `placement` says. Raises ModelError."""
    placed = placement(dtype)
    return load_model(source, dtype=placed.dtype, device=placed.device)


def fastest_placement() -> Placement:
    """The same, but bfloat16 on a CPU that is measured to be much faster in it.

    For text that no run stores, and for a run whose recipe asks for it: that keeps what was measured when it began, or
    its scores and answers would hang on which machine it is resumed.
    """
    found = placement()
    return found._replace(dtype=matmul_speed().dtype) if found.device == "cpu" else found


def plain_attention(model: PreTrainedModel) -> str:
    """The attention of transformers that is right for this model and knows caches: `sdpa` or `eager`."""
    supported = bool(getattr(model, "_supports_sdpa", False))
    return "sdpa" if supported and not caps_scores(model.config) else "eager"


def caps_scores(config: PretrainedConfig) -> bool:
    """Whether the architecture soft-caps its attention scores, as Gemma 2 does: only `eager` is right then.

    sdpa has no soft cap; transformers 5.17 leaves it out without a word, 5.23 refuses.
    """
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


# ---- checks ----


def check_token_ids(ids: Sequence[int] | npt.NDArray[np.int64] | Tensor, vocab_size: int, where: str) -> None:
    """Check that all ids (n,) are in [0, vocab_size). Raises ModelError with the first that is not."""
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids, dtype=np.int64)
    outside = np.flatnonzero((array < 0) | (array >= vocab_size))
    if outside.size:
        first = int(outside[0])
        raise ModelError(
            where,
            f"token id {int(array.flat[first])} at position {first} is not in the vocabulary of {vocab_size}",
            "use the tokenizer that belongs to the model",
        )


def num_embeddings(model: PreTrainedModel) -> int:
    """How many ids the model has an embedding for, and a logit."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    known = unpadded_vocabulary(model)
    return weight.shape[0] if known is None else min(known, weight.shape[0])


def unpadded_vocabulary(model: PreTrainedModel) -> int | None:
    """How many rows of the output layer stand for tokens; None where all do."""
    known = getattr(model.config.get_text_config(), "unpadded_vocab_size", None)  # Inkling
    return None if known is None else int(known)


def check_tokenizer(model: PreTrainedModel, tokenizer: Tokenizer, where: str) -> None:
    """Check that the model has an embedding for every id the tokenizer can make. Raises ModelError."""
    num_rows = num_embeddings(model)
    vocabulary = tokenizer.get_vocab()
    if not vocabulary:
        raise ModelError(where, "its tokenizer has an empty vocabulary", "use the tokenizer that belongs to the model")
    token, highest = max(vocabulary.items(), key=lambda item: item[1])
    if highest >= num_rows:
        raise ModelError(
            where,
            f"the tokenizer makes ids up to {highest} ({token!r}), but the model has {num_rows} embeddings",
            "use the tokenizer that belongs to the model, or resize the model's embeddings",
        )


def check_finite_weights(weights: Mapping[str, Tensor], where: str) -> None:
    """Check that no weight, of any shape, is NaN or infinite. Raises ModelError with the first one by name."""
    for name, tensor in sorted(weights.items()):
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
            continue
        # The extremes carry NaN and infinity along, and unlike isfinite they need no copy of the tensor.
        low, high = torch.aminmax(tensor.detach())
        if not (bool(torch.isfinite(low)) and bool(torch.isfinite(high))):
            kind = "NaN" if bool(torch.isnan(low)) else "infinity"
            raise ModelError(
                where,
                f"its weight {name} contains {kind}",
                "fetch the file again, or use an earlier checkpoint",
            )


def _check_weight_files(source: Source) -> None:
    folder = Path(source.name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            source.name,
            f"holds {pickled[0]} but no safetensors; such files can run code when they are read",
            "convert it with save_pretrained on an isolated machine, or get the safetensors of the model",
        )
    raise ModelError(
        source.name, "holds no *.safetensors file", "check that the model was saved or downloaded completely"
    )


def _check_size(source: Source, config: PretrainedConfig, stored: int | None, auto: AutoClass) -> None:
    """Check that the architecture is no larger than the weights that are there. Raises ModelError."""
    if stored is None:
        return
    # Tied weights are stored once; of quantised ones up to 16 in one number.
    share = 2 if getattr(config, "quantization_config", None) is None else 32
    empty = _empty(source, copy.deepcopy(config), "float32", auto)
    described = sum(parameter.numel() for parameter in empty.parameters())
    computed = sum(buffer.numel() for buffer in empty.buffers())
    if described > share * stored + SLACK or computed > MOST_COMPUTED:
        what = f"its config.json describes {described + computed:,} numbers, but its files hold {stored:,}"
        raise ModelError(source.name, what, "fetch it again, or check that config.json belongs to these weights")


def _check_report(source: Source, missing: list[str], unexpected: list[str]) -> None:
    if missing:
        raise ModelError(
            source.name,
            f"lacks {len(missing)} weights of its architecture, the first is {printable(missing[0])}",
            "fetch it again, or check that config.json belongs to these weights",
        )
    if unexpected:
        _log.warning(
            "%s: %d weights are not used, the first is %s", source.name, len(unexpected), printable(unexpected[0])
        )


# ---- saving ----


def save_model(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a plain Hugging Face model folder, whole, that was not there before.

    It is written under another name and renamed, so an interrupted save leaves no folder of this name. `weights`: the
    unsharded state dict of a model whose own weights are sharded; each tensor has the shape of its parameter. Raises
    ModelError if the folder exists, ResourceError if the disk is full, ValueError for a model with adapters.
    """
    if hasattr(model, "peft_config"):
        raise ValueError("the model has adapters: merge them first, or save them as an adapter folder")
    refuse_existing(folder)
    check_tokenizer(model, tokenizer, str(folder))
    with new_folder(folder) as partial:
        model.save_pretrained(partial, state_dict=None if weights is None else dict(weights))
        tokenizer.save_pretrained(partial)


def save_settings(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write to `folder` all that `save_model` writes but the weights."""
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
    model.config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def refuse_existing(folder: Path) -> None:
    """Check that the name is free. Raises ModelError."""
    if folder.exists() or folder.is_symlink():
        raise ModelError(str(folder), "already exists, and is not overwritten", "choose a new name")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` when all went well and vanishes when not.

    Raises ResourceError when the disk is full.
    """
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a dead process that had the same id
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        if not full:
            raise
        name = getattr(error, "filename", None) or folder
        raise ResourceError(str(name), "the disk is full; nothing was saved", "make room, then save again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
