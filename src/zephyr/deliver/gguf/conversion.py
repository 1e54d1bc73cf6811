"""A model folder, adapters merged, as the header and tensors of a GGUF file; what llama.cpp cannot run is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import torch

from zephyr.deliver.gguf.architectures import read_sizes
from zephyr.deliver.gguf.file import Header
from zephyr.deliver.gguf.libraries import tensor_names
from zephyr.deliver.gguf.reference import CONVERSATIONS, ids_of, render
from zephyr.deliver.gguf.tensors import NamedTensor, named_tensors
from zephyr.deliver.gguf.vocabulary import CONTROL, TokenizerParts, read_vocabulary
from zephyr.errors import ModelError
from zephyr.models.adapters import SETTINGS, load_adapter
from zephyr.models.generation import stop_ids_of
from zephyr.models.loading import Loaded, check_tokenizer, load, load_model, num_embeddings
from zephyr.models.merging import merge_adapters
from zephyr.models.source import Source
from zephyr.models.tokenizers import Tokenizer, load_tokenizer

_MERGE_PROBE = "The quick brown fox jumps over the lazy dog. 0123456789"


class MergedModel(NamedTuple):
    """A model without adapters, and how far a logit moved when they were merged; None if there were none."""

    loaded: Loaded
    max_logit_difference: float | None


class Converted(NamedTuple):
    """The content of a file, and notes for the user."""

    header: Header
    tensors: list[NamedTensor]
    notes: tuple[str, ...]
    writes_bos: bool  # the template does


def load_merged(source: Source, *, dtype: str) -> MergedModel:
    """The model with its tokenizer; LoRA adapters are merged, and the merge checked. Raises ModelError."""
    folder = Path(source.name)
    if not (folder / SETTINGS).is_file():
        return MergedModel(load(source, dtype=dtype), None)
    base_source = Source(_base_of(folder), offline=source.offline)
    # The tokenizer that the adapters were trained with, where it was saved beside them.
    tokenizer = load_tokenizer(source if (folder / "config.json").is_file() else base_source)
    adapted = load_adapter(load_model(base_source, dtype=dtype), folder)
    plain, difference = merge_adapters(adapted, torch.tensor([ids_of(tokenizer, _MERGE_PROBE)]))
    check_tokenizer(plain, tokenizer, source.name)
    return MergedModel(Loaded(plain, tokenizer), difference)


def _base_of(folder: Path) -> str:
    """The model that the adapters of a folder belong to."""
    try:
        settings = json.loads((folder / SETTINGS).read_bytes())
    except ValueError:
        settings = None
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if not isinstance(base, str) or not base:
        raise ModelError(str(folder), "does not say which model its adapters belong to", f"fix its {SETTINGS}")
    return base


def convert(loaded: Loaded, name: str, where: str) -> Converted:
    """The content of a file called `name`. Raises ModelError for what llama.cpp cannot run or tokenizes otherwise."""
    model, tokenizer = loaded
    sizes = read_sizes(model.config.to_dict(), where)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(where, "its tokenizer has no tokenizer.json", "save it as a fast tokenizer")
    template = tokenizer.chat_template or ""
    if not isinstance(template, str):
        raise ModelError(where, "has several chat templates", "keep the one it was trained with")
    vocabulary = read_vocabulary(cast("TokenizerParts", tokenizer), num_embeddings(model), where)
    # llama.cpp ends an answer at eos and at one more token, its eot.
    stops = [token for token in stop_ids_of(model, tokenizer) if token != tokenizer.eos_token_id]
    if stops:
        vocabulary = replace(vocabulary, specials={**vocabulary.specials, "eot": stops[0]})
    names = tensor_names(sizes.architecture.name, sizes.num_layers)
    tensors = list(named_tensors(dict(model.state_dict()), sizes, names, where))
    first = _first_token(tokenizer)
    leading = first is not None and vocabulary.leading_space and vocabulary.kinds[first] != CONTROL
    writes_bos = first is not None and first == tokenizer.bos_token_id
    header = Header(
        name=name,
        sizes=sizes,
        vocabulary=vocabulary,
        template="{{ ' ' }}" * leading + template,
        sampling=sampling_settings(loaded),
        leading_space=leading,
    )
    return Converted(header, tensors, (*sizes.notes, *_notes(header, writes_bos=writes_bos)), writes_bos)


def sampling_settings(loaded: Loaded) -> dict[str, int | float]:
    """How the model's generation config samples, by llama.cpp's names."""
    config = loaded.model.generation_config
    if not config.do_sample:
        return {"temp": 0.0} if config.do_sample is False else {}
    found = {"temp": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
    return {name: value for name, value in found.items() if value is not None}


def stops_of(loaded: Loaded) -> list[str]:
    """The texts of the tokens that end an answer."""
    texts = loaded.tokenizer.convert_ids_to_tokens(list(stop_ids_of(loaded.model, loaded.tokenizer)))
    return [str(text) for text in texts]


def _first_token(tokenizer: Tokenizer) -> int | None:
    """The id with which the chat template begins a conversation; None without a template."""
    text = render(tokenizer, CONVERSATIONS[0])
    return ids_of(tokenizer, text)[0] if text else None


def _notes(header: Header, *, writes_bos: bool) -> Iterator[str]:
    if not header.template:
        yield "the model has no chat template: texts alone are compared"
    elif header.vocabulary.adds_bos and not writes_bos:
        yield (
            "the template writes no bos and the tokenizer adds one: llama.cpp's server and Ollama put it before a "
            "conversation, transformers' apply_chat_template does not"
        )
    if header.vocabulary.composes:
        yield "llama.cpp does not compose letters and marks (NFC) as the tokenizer does: compose such texts first"
    if header.leading_space:
        yield "llama.cpp puts no space before a text, as the tokenizer does: the template in the file begins with one"
    elif header.vocabulary.leading_space:
        yield "llama.cpp puts no space before a text that follows no template: begin such a text with one"
