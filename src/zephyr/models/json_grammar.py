"""Answers that must be JSON of a schema: which tokens may come next, by the library llguidance (extra `serve`)."""

from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from zephyr.errors import ModelError
from zephyr.models.tokenizers import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from llguidance._lib import JsonCompileOptions


def has_grammars() -> bool:
    """Whether the library is installed."""
    return find_spec("llguidance") is not None


class JsonGrammar:
    """The state of one answer."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    def allow(self, logits: Tensor) -> None:
        """Set the logits (V,) of tokens that may not come next to -inf, in place. Raises ValueError where none may."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.zeros(len(logits), dtype=torch.bool)
        known = min(len(bits), len(logits))
        allowed[:known] = torch.from_numpy(bits[:known].astype(bool))
        self._check()
        logits.masked_fill_(~allowed.to(logits.device), -torch.inf)

    def advance(self, token: int) -> None:
        """Take the token that came. Raises ValueError where it may not come."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error().partition("\n")[0])


def json_grammars(tokenizer: Tokenizer, *, vocab_size: int, stop_ids: Collection[int]) -> Callable[[str], JsonGrammar]:
    """What makes the grammar of a JSON schema's text; it raises ValueError for one that cannot be honoured."""
    import llguidance.hf
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError("the tokenizer", "is none of the library tokenizers", "serve it without llguidance")
    known = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=sorted(stop_ids))

    # Free white space would let a small model write nothing else; what a schema says about this is not taken.
    layout: JsonCompileOptions = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "lenient": False,
    }

    def grammar(schema: str) -> JsonGrammar:
        text = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=layout)
        matcher = llguidance.LLMatcher(known, text, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error().partition("\n")[0])
        return JsonGrammar(matcher)

    return grammar
