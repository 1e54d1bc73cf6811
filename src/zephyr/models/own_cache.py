"""Decoding through the model's own cache, for layers that carry more than keys and values: prompt by prompt.

The samples of one prompt decode together; different prompts do not, for states of different lengths cannot be padded.
"""

import inspect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from zephyr.errors import ModelError
from zephyr.models.attention import counts_from_padding
from zephyr.models.samples import Sample


class NextLogits(NamedTuple):
    """Samples whose next token can be drawn, and the logits (n, V) for it: a row each.

    A sample with `guesses` has a row more for each of them, for the token behind it if it comes true.
    """

    samples: list[Sample]
    logits: Tensor
    guesses: Mapping[Sample, Sequence[int]] = MappingProxyType({})


@dataclass
class _Batch:
    """Samples of one prompt, and the state after `length` tokens of each; None before the first."""

    samples: list[Sample]
    cache: Cache | None = None
    length: int = 0


class OwnCacheDecoder:
    """Samples at work, a batch for each prompt; `fail` is told of samples that an error ends."""

    def __init__(
        self,
        model: PreTrainedModel,
        fail: Callable[[Sequence[Sample], Exception], None],
        *,
        max_rows: int,
        max_cache_tokens: int,
    ) -> None:
        self._model, self._fail = model, fail
        self._max_rows, self._max_cache = max_rows, max_cache_tokens
        self._name = "cache_params" if takes(model, "cache_params") else "past_key_values"
        # Models that count positions from their padding do so from the length of the cache, and rightly.
        self._tells_positions = self._name == "past_key_values" and not counts_from_padding(model)
        self._batches: list[_Batch] = []

    @property
    def samples(self) -> list[Sample]:
        """The samples at work."""
        return [sample for batch in self._batches for sample in batch.samples]

    def drop_unwanted(self) -> None:
        """Let go of the samples that nobody wants."""
        for batch in self._batches:
            kept = [row for row, sample in enumerate(batch.samples) if not sample.is_unwanted]
            if len(kept) < len(batch.samples):
                batch.samples = [batch.samples[row] for row in kept]
                if kept and batch.cache is not None:
                    select_rows(batch.cache, kept)
        self._batches = [batch for batch in self._batches if batch.samples]

    def admit(self, waiting: deque[Sample]) -> None:
        """Take the next prompt from the queue, with those of its samples that follow and that there is room for."""
        if not waiting or len(self.samples) >= self._max_rows:
            return
        ids = waiting[0].ids
        room = (self._max_cache - self._num_tokens()) // (len(ids) + 1)
        room = min(self._max_rows - len(self.samples), max(room, 0 if self._batches else 1))
        taken: list[Sample] = []
        while waiting and len(taken) < room and waiting[0].ids == ids:
            taken.append(waiting.popleft())
        if taken:
            self._batches.append(_Batch(taken))

    def step(self) -> list[NextLogits]:
        """The samples whose next token can be drawn, and the logits for it."""
        found = []
        for batch in self._batches:
            try:
                found.append(NextLogits(list(batch.samples), self._logits(batch)))
            except Exception as error:  # noqa: BLE001 - the boundary between the samples of different requests
                self._fail(batch.samples, error)
        return found

    def put_back(self) -> list[Sample]:
        """The newest samples, the very newest first, taken off the work until the cache keeps to its size."""
        samples: list[Sample] = []
        while self._num_tokens() > self._max_cache and len(self.samples) > 1:
            batch = self._batches[-1]
            samples.append(batch.samples.pop())
            if batch.samples and batch.cache is not None:
                select_rows(batch.cache, list(range(len(batch.samples))))
            self._batches = [one for one in self._batches if one.samples]
        return samples

    def _num_tokens(self) -> int:
        return sum(len(batch.samples) * (batch.length + 1) for batch in self._batches)

    def _logits(self, batch: _Batch) -> Tensor:
        """The logits (R, V) for the next token of every sample of a batch, whose prompt is computed the first time."""
        device, ids = self._model.device, batch.samples[0].ids
        if not batch.length and len(ids) > 1:
            _, batch.cache = self._forward(torch.tensor([ids[:-1]], device=device), None, None)
            select_rows(batch.cache, [0] * len(batch.samples))
            batch.length = len(ids) - 1
        last = torch.tensor([[sample.newest] for sample in batch.samples], device=device)
        logits, batch.cache = self._forward(last, torch.full_like(last, batch.length), batch.cache)
        batch.length += 1
        return logits

    def _forward(self, ids: Tensor, positions: Tensor | None, cache: Cache | None) -> tuple[Tensor, Cache]:
        """The logits (R, V) after the last ids, and the cache that holds them too."""
        keywords: dict[str, object] = {self._name: cache, "use_cache": True}
        if positions is not None and self._tells_positions:
            keywords["position_ids"] = positions
        if takes(self._model, "logits_to_keep"):
            keywords["logits_to_keep"] = 1
        output = self._model(input_ids=ids, **keywords)
        filled = getattr(output, self._name, None)
        if not isinstance(filled, Cache):
            raise ModelError(
                type(self._model).__name__,
                "its forward gives no cache to go on from",
                "leave sampling out (generations, chat), or sample from it with transformers' own generate",
            )
        logits: Tensor = output.logits[:, -1]
        return logits, filled


def takes(model: nn.Module, keyword: str) -> bool:
    """Whether the model's forward has a parameter of this name."""
    return keyword in inspect.signature(model.forward).parameters


def select_rows(cache: Cache, rows: list[int]) -> None:
    """Keep the cache's rows with these indices, in this order."""
    cache.reorder_cache(torch.tensor(rows))  # type: ignore[arg-type]
    # MiniMax's linear attention, which its own reorder_cache leaves as it was (transformers 5.23).
    states = getattr(cache, "linear_cache", None)
    if states is not None:
        cache.linear_cache = [state[rows] if isinstance(state, Tensor) else state for state in states]  # type: ignore[attr-defined]
