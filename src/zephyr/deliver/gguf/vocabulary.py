"""A tokenizer as llama.cpp's files hold it: byte-level BPE, or SentencePiece's kind with byte fallback.

A tokenizer that llama.cpp is known to split otherwise is refused here, before any work; `proof` compares the ids.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol, TypeAlias

from zephyr.errors import ModelError
from zephyr.records.fields import Json

_Fields: TypeAlias = Mapping[str, Json]

# llama.cpp's kinds of tokens (gguf.TokenType)
NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
SPACE = "▁"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_LETTERS}|\p{{N}}{{1,3}}|{_OTHERS}"
_QWEN2 = rf"{_LETTERS}|\p{{N}}|{_OTHERS}"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's names for regular expressions before byte-level BPE. Source: llama-vocab.cpp
_NAMES_OF_PATTERNS = {_LLAMA3: "llama-bpe", _QWEN2: "qwen2", _TEKKEN: "tekken"}
_WHOLE_WORDS_FIRST = ("llama-bpe", "tekken")


@dataclass(frozen=True)
class Vocabulary:
    """What a file holds of a tokenizer."""

    model: str  # gpt2: byte-level BPE; llama: SentencePiece's kind
    pre: str  # how a text is split before BPE
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...] = ()  # of gpt2
    scores: tuple[float, ...] = ()  # of llama
    specials: Mapping[str, int | None] = field(default_factory=dict)  # bos, eos, eot, unknown, padding
    adds_bos: bool = False
    adds_eos: bool = False
    space_prefix: bool = False  # llama.cpp then puts a space before every text, after control tokens too
    leading_space: bool = False  # the tokenizer puts one before a text, and none after a control token
    composes: bool = False  # the tokenizer composes letters and their marks first (NFC); llama.cpp does not


class BackendTokenizer(Protocol):
    """What is used of a tokenizers.Tokenizer."""

    def to_str(self) -> str: ...


class TokenizerParts(Protocol):
    """What is used of transformers' fast tokenizers, named as there."""

    @property
    def backend_tokenizer(self) -> BackendTokenizer: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def unk_token_id(self) -> int | None: ...
    @property
    def pad_token_id(self) -> int | None: ...
    @property
    def bos_token(self) -> str | None: ...
    @property
    def eos_token(self) -> str | None: ...
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


def read_vocabulary(tokenizer: TokenizerParts, num_rows: int, where: str) -> Vocabulary:
    """The vocabulary, padded to the model's `num_rows` embeddings. Raises ModelError for what llama.cpp lacks."""
    content: _Fields = json.loads(tokenizer.backend_tokenizer.to_str())
    model = _fields(content["model"])
    if model.get("type") != "BPE":
        raise _refused(where, f"its tokenizer is of the kind {model.get('type')}")
    merges = [_pair(merge) for merge in _list(model["merges"])]
    has_bytes = bool(model.get("byte_fallback"))
    tokens, kinds = _tokens(content, _fields(model["vocab"]), num_rows, has_bytes=has_bytes)
    shared = _with_specials(Vocabulary("", "", tokens, kinds), tokenizer, where)
    if not has_bytes:
        joined = tuple(" ".join(pair) for pair in merges)
        composes = content["normalizer"] == {"type": "NFC"}
        if content["normalizer"] is not None and not composes:
            raise _refused(where, "its tokenizer changes a text before it splits it")
        pre = _splitting(content, model, where)
        return replace(shared, model="gpt2", pre=pre, merges=joined, composes=composes)
    _check_sentencepiece(content, where)
    at_start, after_control = _puts_spaces(tokenizer)
    return replace(
        shared,
        model="llama",
        pre="default",
        scores=_scores(tokens, merges, where),
        space_prefix=after_control,
        leading_space=at_start and not after_control,
    )


def _tokens(
    content: _Fields, vocab: _Fields, num_rows: int, *, has_bytes: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Text and kind of every id; ids without a token are named as llama.cpp's converter names them."""
    tokens = [f"[PAD{index}]" for index in range(num_rows)]
    kinds = [UNUSED] * num_rows
    for text, index in vocab.items():
        assert isinstance(index, int)
        tokens[index] = text
        kinds[index] = BYTE if has_bytes and _BYTE.fullmatch(text) else NORMAL
    for entry in map(_fields, _list(content["added_tokens"])):
        number, written = entry["id"], entry["content"]
        assert isinstance(number, int)
        assert isinstance(written, str)
        tokens[number], kinds[number] = written, CONTROL if entry["special"] else USER_DEFINED
    return tuple(tokens), tuple(kinds)


def _with_specials(vocabulary: Vocabulary, tokenizer: TokenizerParts, where: str) -> Vocabulary:
    bare, added = (tokenizer.encode("a", add_special_tokens=add) for add in (False, True))
    adds_bos = len(added) > len(bare) and added[0] == tokenizer.bos_token_id
    adds_eos = len(added) > len(bare) and added[-1] == tokenizer.eos_token_id
    if len(added) - len(bare) != adds_bos + adds_eos:
        raise _refused(where, "its tokenizer adds other tokens than bos and eos")
    if tokenizer.eos_token_id is None:
        raise ModelError(where, "its tokenizer has no eos token, so that no answer would end", "set its eos_token")
    specials = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    return replace(vocabulary, specials=specials, adds_bos=adds_bos, adds_eos=adds_eos)


def _splitting(content: _Fields, model: _Fields, where: str) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits a text before BPE."""
    steps = _steps(content["pre_tokenizer"], "pretokenizers")
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            name = "gpt-2"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]:
            name = "smollm"
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            name = _NAMES_OF_PATTERNS.get(pattern, "")
        case _:
            name = ""
    if not name:
        kinds = ", ".join(str(step.get("type")) for step in steps) or "nothing"
        raise _refused(where, f"its tokenizer splits a text in a way that is not known here ({kinds})")
    if bool(model.get("ignore_merges")) != (name in _WHOLE_WORDS_FIRST):
        raise _refused(where, f"its tokenizer splits like {name}, but looks up whole words otherwise")
    return name


def _check_sentencepiece(content: _Fields, where: str) -> None:
    """Check that only spaces are changed, into the mark that SentencePiece has for them. Raises ModelError."""
    before = _steps(content["normalizer"], "normalizers")
    split = _steps(content["pre_tokenizer"], "pretokenizers")
    to_mark: list[_Fields] = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    # Gemma's splits at spaces, of which its normalizer has left none.
    idle = split == [{"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}]
    by_normalizer = all(step in to_mark for step in before) and (not split or (idle and to_mark[1] in before))
    by_metaspace = not before and len(split) == 1 and split[0].get("type") == "Metaspace" and not split[0].get("split")
    if not (by_normalizer or by_metaspace):
        raise _refused(where, "its tokenizer changes or splits a text in a way that is not known here")


def _puts_spaces(tokenizer: TokenizerParts) -> tuple[bool, bool]:
    """Whether a space is put before a text where it begins, and after a control token."""
    inside = tokenizer.encode("\na", add_special_tokens=False)[-1:]
    at_start = tokenizer.encode("a", add_special_tokens=False) != inside
    control = tokenizer.bos_token or tokenizer.eos_token
    after = tokenizer.encode(f"{control}a", add_special_tokens=False)[1:] if control else inside
    return at_start, after != inside


def _scores(tokens: Sequence[str], merges: Sequence[tuple[str, str]], where: str) -> tuple[float, ...]:
    """A score for every token, such that merging the best first is merging in the order of `merges`.

    llama.cpp ranks what a merge makes, transformers the merge: the same if merges into one token stand together.
    """
    made = [left + right for left, right in merges]
    order = {text: rank for rank, (text, _) in enumerate(groupby(made))}
    if len(order) != sum(1 for _ in groupby(made)):
        raise _refused(where, "its merges are not in the order of their tokens")
    return tuple(-float(order.get(token, len(made))) for token in tokens)


def _steps(step: Json, name: str) -> list[_Fields]:
    if step is None:
        return []
    fields = _fields(step)
    return [_fields(one) for one in _list(fields[name])] if fields["type"] == "Sequence" else [fields]


def _pair(merge: Json) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else _list(merge)
    return str(left), str(right)


def _fields(value: Json) -> _Fields:
    assert isinstance(value, dict)
    return value


def _list(value: Json) -> Sequence[Json]:
    assert isinstance(value, list)
    return value


def _refused(where: str, what: str) -> ModelError:
    return ModelError(where, f"{what}, so llama.cpp would tokenize texts differently", "export another model")
