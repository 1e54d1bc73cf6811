"""The tokenizer of Mistral-7B-v0.1, read from the SentencePiece model that the package mistral-common carries."""

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import LlamaTokenizer
from transformers.tokenization_utils_base import generate_merges


def varint(content: bytes, start: int) -> tuple[int, int]:
    """The number that begins at `start`, and where it ends."""
    value = shift = 0
    while True:
        byte = content[start]
        start += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, start


def fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message, by their number."""
    position = 0
    while position < len(content):
        key, position = varint(content, position)
        match key & 7:
            case 0:
                _, position = varint(content, position)
            case 2:
                size, position = varint(content, position)
                yield key >> 3, content[position : position + size]
                position += size
            case 5:
                position += 4
            case kind:
                raise AssertionError(f"wire type {kind} at {position}")


@functools.cache
def load() -> LlamaTokenizer:
    """The tokenizer for tests that do not change it."""
    return new()


def new() -> LlamaTokenizer:
    """The tokenizer as transformers 5 builds it: a dummy space before the text, none after control tokens."""
    vocab, merges = read_model()
    return LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)


@functools.cache
def read_model() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges; skips the test where the package is missing."""
    found = importlib.util.find_spec("mistral_common")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package mistral-common, which carries Mistral's tokenizer, is not installed")
    model = Path(found.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"
    pieces = [
        next(text for number, text in fields(piece) if number == 1).decode()
        for number, piece in fields(model.read_bytes())
        if number == 1
    ]
    vocab = {piece: token for token, piece in enumerate(pieces)}
    return vocab, generate_merges(vocab)
