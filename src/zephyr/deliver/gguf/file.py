"""GGUF files: written from a model, quantized by llama.cpp itself, and read back."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zephyr.deliver.gguf.architectures import Setting, Sizes
from zephyr.deliver.gguf.libraries import Writer, load_gguf, load_llama_cpp
from zephyr.deliver.gguf.vocabulary import Vocabulary
from zephyr.errors import ModelError

if TYPE_CHECKING:
    from zephyr.deliver.gguf.tensors import NamedTensor  # with torch, which quantizing has no use for


class Format(NamedTuple):
    """How the weights of a file are kept: llama.cpp's number for it, and the types its matrices are meant to have."""

    number: int
    types: tuple[str, ...]


# Source: llama.h's llama_ftype. The K formats give some matrices more bits than the others on purpose.
FORMATS = {
    "f16": Format(1, ("F16",)),
    "q8_0": Format(7, ("Q8_0",)),
    "q6_k": Format(18, ("Q6_K",)),
    "q5_k_m": Format(17, ("Q5_K", "Q6_K")),
    "q4_k_m": Format(15, ("Q4_K", "Q5_K", "Q6_K")),
}
_FILE_TYPE, _QUANTIZATION_VERSION = 1, 2


@dataclass(frozen=True)
class Header:
    """What a file holds besides its weights.

    `leading_space`: the template renders one before a conversation, as the tokenizer does and llama.cpp does not.
    `sampling`: the default sampling, by llama.cpp's names.
    """

    name: str
    sizes: Sizes
    vocabulary: Vocabulary
    template: str
    sampling: dict[str, int | float]
    leading_space: bool = False


@dataclass(frozen=True)
class ReadBack:
    """What a file holds: its matrices by type, those whose type is not the format's, and its size."""

    num_bytes: int
    bits_per_weight: float
    types: dict[str, int]
    fallbacks: dict[str, str]  # tensor name -> type


def write_gguf(path: Path, header: Header, tensors: "Sequence[NamedTensor]") -> None:
    """Write the model in float16 to `path`. Tensors are loaded one by one; raises ModelError as loading them does."""
    writer = load_gguf().GGUFWriter(path, header.sizes.architecture.name)
    try:
        _add_header(writer, header)
        for tensor in tensors:
            writer.add_tensor_info(tensor.name, tensor.shape, tensor.dtype, tensor.num_bytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(tensor.load())
    finally:
        writer.close()


def quantize(source: Path, target: Path, form: str, *, num_threads: int) -> None:
    """Write `source` in another format to `target`, by llama.cpp's own quantizer. Raises ModelError where it fails."""
    llama_cpp = load_llama_cpp()
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype = num_threads, FORMATS[form].number
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise ModelError(str(target), f"llama.cpp cannot quantize the model to {form}", "leave that format out")


def read_back(path: Path, form: str) -> ReadBack:
    """What the file at `path` holds; `fallbacks` are matrices that llama.cpp gave another type than the format's."""
    tensors = load_gguf().GGUFReader(path).tensors
    # A matrix in the file is one that every format shrinks: vectors, routers and rope factors stay float32.
    matrices = {tensor.name: tensor.tensor_type.name for tensor in tensors if tensor.tensor_type.name != "F32"}
    bits = 8 * sum(tensor.n_bytes for tensor in tensors) / sum(tensor.n_elements for tensor in tensors)
    return ReadBack(
        num_bytes=path.stat().st_size,
        bits_per_weight=round(bits, 3),
        types=dict(Counter(tensor.tensor_type.name for tensor in tensors)),
        fallbacks={name: kind for name, kind in matrices.items() if kind not in FORMATS[form].types},
    )


def _add_header(writer: Writer, header: Header) -> None:
    writer.add_string("general.type", "model")
    writer.add_string("general.name", header.name)
    writer.add_uint32("general.file_type", _FILE_TYPE)
    writer.add_uint32("general.quantization_version", _QUANTIZATION_VERSION)
    for key, setting in header.sizes.settings.items():
        _add(writer, f"{header.sizes.architecture.name}.{key}", setting)
    for key, value in header.sampling.items():
        _add(writer, f"general.sampling.{key}", value)
    vocabulary = header.vocabulary
    writer.add_string("tokenizer.ggml.model", vocabulary.model)
    writer.add_string("tokenizer.ggml.pre", vocabulary.pre)
    writer.add_array("tokenizer.ggml.tokens", vocabulary.tokens)
    writer.add_array("tokenizer.ggml.token_type", vocabulary.kinds)
    writer.add_array("tokenizer.ggml.scores", vocabulary.scores)
    writer.add_array("tokenizer.ggml.merges", vocabulary.merges)
    for name, token in vocabulary.specials.items():
        if token is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    writer.add_bool("tokenizer.ggml.add_bos_token", vocabulary.adds_bos)
    writer.add_bool("tokenizer.ggml.add_eos_token", vocabulary.adds_eos)
    writer.add_bool("tokenizer.ggml.add_space_prefix", vocabulary.space_prefix)
    writer.add_string("tokenizer.chat_template", header.template)


def _add(writer: Writer, key: str, setting: Setting) -> None:
    match setting:
        case bool():
            writer.add_bool(key, setting)
        case int():
            writer.add_uint32(key, setting)
        case float():
            writer.add_float32(key, setting)
        case str():
            writer.add_string(key, setting)
        case tuple():
            writer.add_array(key, setting)
