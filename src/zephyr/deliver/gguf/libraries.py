"""What is used of the packages `gguf` and `llama_cpp`, typed; both come with the extra `export`."""

import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from zephyr.errors import ResourceError

Scores: TypeAlias = npt.NDArray[np.float32]
Array: TypeAlias = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Numbers: TypeAlias = np.dtype[np.float16] | np.dtype[np.float32]
GGUF, LLAMA_CPP = "gguf", "llama_cpp"
F32_CACHE = 0  # GGML_TYPE_F32


class Enum(Protocol):
    """A member of one of gguf's enumerations."""

    name: str
    value: int


class TensorNames(Protocol):
    """A gguf.TensorNameMap."""

    def get_name(self, key: str, try_suffixes: Sequence[str]) -> str | None: ...


class Writer(Protocol):
    """What is used of a gguf.GGUFWriter."""

    def add_string(self, key: str, val: str) -> None: ...
    def add_uint32(self, key: str, val: int) -> None: ...
    def add_float32(self, key: str, val: float) -> None: ...
    def add_bool(self, key: str, val: bool) -> None: ...
    def add_array(self, key: str, val: Sequence[str] | Sequence[int] | Sequence[float] | Sequence[bool]) -> None: ...
    def add_tensor_info(
        self, name: str, tensor_shape: Sequence[int], tensor_dtype: Numbers, tensor_nbytes: int
    ) -> None: ...
    def write_header_to_file(self, path: Path | None = None) -> None: ...
    def write_kv_data_to_file(self) -> None: ...
    def write_ti_data_to_file(self) -> None: ...
    def write_tensor_data(self, tensor: Array) -> None: ...
    def close(self) -> None: ...


class MakeWriter(Protocol):
    """How a gguf.GGUFWriter is made."""

    def __call__(self, path: Path, arch: str) -> Writer: ...


class Tensor(Protocol):
    """What is used of a gguf.ReaderTensor. `data` is laid out as numpy does, the fastest dimension last."""

    name: str
    tensor_type: Enum
    n_elements: int
    n_bytes: int
    data: Array


class Field(Protocol):
    """What is used of a gguf.ReaderField."""

    def contents(self) -> object: ...


class Reader(Protocol):
    """What is used of a gguf.GGUFReader."""

    tensors: Sequence[Tensor]
    fields: Mapping[str, Field]


class Gguf(Protocol):
    """What is used of the module gguf."""

    GGUFWriter: MakeWriter
    MODEL_ARCH_NAMES: Mapping[Enum, str]

    def GGUFReader(self, path: Path) -> Reader: ...  # noqa: N802  # a class there
    def get_tensor_name_map(self, arch: Enum, n_blocks: int) -> TensorNames: ...


class Rendered(Protocol):
    """A llama_cpp.llama_chat_format.ChatFormatterResponse."""

    prompt: str


class Formatter(Protocol):
    """A llama_cpp.llama_chat_format.Jinja2ChatFormatter."""

    def __call__(self, *, messages: Sequence[Mapping[str, str]]) -> Rendered: ...


class OpenedLlama(Protocol):
    """What is used of a llama_cpp.Llama, opened with `logits_all`."""

    metadata: Mapping[str, str]
    scores: Scores  # (n_ctx, V)

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]: ...
    def detokenize(self, tokens: list[int]) -> bytes: ...
    def reset(self) -> None: ...
    def eval(self, tokens: Sequence[int]) -> None: ...
    def n_vocab(self) -> int: ...
    def token_bos(self) -> int: ...
    def token_eos(self) -> int: ...
    def close(self) -> None: ...


class QuantizeParams(Protocol):
    """What is used of a llama_cpp.llama_model_quantize_params."""

    nthread: int
    ftype: int


class ModelParams(Protocol):
    """What is used of a llama_cpp.llama_model_params."""

    use_extra_bufts: bool


class Bindings(Protocol):
    """What is used of the module llama_cpp.llama_cpp."""

    llama_model_default_params: Callable[[], ModelParams]


class OpenLlama(Protocol):
    """How a llama_cpp.Llama is made."""

    def __call__(  # noqa: PLR0913 - the interface of llama_cpp
        self,
        model_path: str,
        *,
        n_ctx: int,
        n_batch: int,
        n_ubatch: int,
        n_threads: int,
        n_threads_batch: int,
        logits_all: bool,
        type_k: int,
        type_v: int,
        verbose: bool,
    ) -> OpenedLlama: ...


class MakeFormatter(Protocol):
    """How a llama_cpp.llama_chat_format.Jinja2ChatFormatter is made."""

    def __call__(self, *, template: str, eos_token: str, bos_token: str) -> Formatter: ...


class ChatFormat(Protocol):
    """What is used of the module llama_cpp.llama_chat_format."""

    Jinja2ChatFormatter: MakeFormatter


class LlamaCpp(Protocol):
    """What is used of the module llama_cpp."""

    __version__: str
    Llama: OpenLlama
    llama_cpp: Bindings
    llama_chat_format: ChatFormat

    def llama_model_quantize_default_params(self) -> QuantizeParams: ...
    def llama_model_quantize(self, source: bytes, target: bytes, params: object, /) -> int: ...


def load_gguf() -> Gguf:
    """The package gguf. Raises ResourceError where it is not installed."""
    return cast("Gguf", _load(GGUF))


def tensor_names(architecture: str, num_layers: int) -> TensorNames:
    """The names of a model's tensors in llama.cpp's architecture of that name."""
    gguf = load_gguf()
    (member,) = (member for member, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    return gguf.get_tensor_name_map(member, num_layers)


def load_llama_cpp() -> LlamaCpp:
    """The package llama_cpp, silenced. Raises ResourceError where it is not installed."""
    # It prints what its logger takes, and (0.3.36) takes llama.cpp's warnings for errors.
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
    return cast("LlamaCpp", _load(LLAMA_CPP))


def open_llama(path: Path, length: int, *, num_threads: int, extra_buffers: bool) -> OpenedLlama:
    """The file at `path` in llama.cpp, for up to `length` tokens, with the logits of all of them.

    The cache is float32 where people run float16, so that only the file itself is judged. `extra_buffers`: llama.cpp
    may keep weights in another layout too, for the instructions of this processor; without, for the whole process.
    It says what it does on the terminal. Raises ValueError for a file that it cannot load.
    """
    llama_cpp = load_llama_cpp()
    if not extra_buffers:
        _leave_out_extra_buffers(llama_cpp.llama_cpp)
    return llama_cpp.Llama(
        str(path),
        n_ctx=length,
        n_batch=length,
        n_ubatch=length,
        n_threads=num_threads,
        n_threads_batch=num_threads,
        logits_all=True,
        type_k=F32_CACHE,
        type_v=F32_CACHE,
        verbose=True,
    )


def _leave_out_extra_buffers(bindings: Bindings) -> None:
    """Change the parameters that every model is opened with: Llama (0.3.36) has no argument for it."""
    make = bindings.llama_model_default_params

    def changed() -> ModelParams:
        params = make()
        params.use_extra_bufts = False
        return params

    bindings.llama_model_default_params = changed


def are_installed() -> bool:
    """Whether both packages are there."""
    return all(importlib.util.find_spec(name) is not None for name in (GGUF, LLAMA_CPP))


def _load(name: str) -> object:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        # llama_cpp raises the others where its compiled library is not beside it, or does not load.
        what = f"needs {error.name}" if isinstance(error, ImportError) else f"cannot load {name} ({error})"
        remedy = 'pip install "zephyr-align[export]" (llama-cpp-python is compiled, which takes many minutes)'
        raise ResourceError("zephyr export", what, remedy) from error
