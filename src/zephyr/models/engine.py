"""One engine for all that is written: samples join the batch as others end, each with its own rules and draws.

A sample's text depends on its prompt, rules and seed alone; what it is batched with changes logits in the last bits
only. An error of one sample is told to it and to no other.
"""

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.models.attention import IMPLEMENTATION
from zephyr.models.cached_attention import CACHED
from zephyr.models.few_rows import fast_for_few_rows
from zephyr.models.host_memory import keep_freed_memory
from zephyr.models.loading import plain_attention
from zephyr.models.own_cache import NextLogits, OwnCacheDecoder
from zephyr.models.packed_decoding import PackedDecoder, bytes_per_token, why_not_packed
from zephyr.models.samples import DrawnToken, Sample
from zephyr.models.sampling import draw
from zephyr.trees.forest import sent

MAX_ROWS = 64
MAX_CACHE_TOKENS = 65_536
# Of a CUDA device's free memory: rows have room to grow in, and a step holds its logits a few times over.
CACHE_SHARE = 0.4


def cache_budget(model: PreTrainedModel, wanted: int | None, *, at_least: int) -> int:
    """How many tokens of keys and values may be held: as many as wanted, or, if None, by the model's device.

    On a CUDA device that follows from its free memory.
    """
    if wanted is not None:
        return wanted
    device, budget = model.device, MAX_CACHE_TOKENS
    if device.type == "cuda":
        free, _ = torch.accelerator.get_memory_info(device)
        free += torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
        num_layers = int(getattr(model.config.get_text_config(), "num_hidden_layers", 1))
        budget = int(CACHE_SHARE * free / (num_layers * bytes_per_token(model)))
    return max(budget, at_least)


class DecodingEngine:
    """Writes the samples that wait in a queue, a token of each that is at work a step, with a model that is ready."""

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: Collection[int],
        waiting: deque[Sample],
        *,
        max_rows: int,
        max_cache_tokens: int,
    ) -> None:
        self._waiting = waiting
        self._stops = frozenset(stop_ids)
        kind = PackedDecoder if model.config._attn_implementation == CACHED else OwnCacheDecoder  # noqa: SLF001 - as below
        self._decoder = kind(model, self.fail, max_rows=max_rows, max_cache_tokens=max_cache_tokens)

    @property
    def samples(self) -> list[Sample]:
        """The samples at work, and those that wait."""
        return [*self._decoder.samples, *self._waiting]

    @torch.inference_mode()
    def step(self) -> None:
        """Write one more token of every sample at work, and compute some of the prompts that wait."""
        if any(sample.is_unwanted for sample in self._waiting):
            kept = [sample for sample in self._waiting if not sample.is_unwanted]
            self._waiting.clear()
            self._waiting.extend(kept)
        self._decoder.drop_unwanted()
        self._decoder.admit(self._waiting)
        for found in self._decoder.step():
            if found.samples:
                self._draw(found)
        self._decoder.drop_unwanted()
        self._waiting.extendleft(self._decoder.put_back())

    @staticmethod
    def fail(samples: Sequence[Sample], error: Exception) -> None:
        """End the samples with an error."""
        for sample in samples:
            sample.is_unwanted = True
            sample.listener.failed(error)

    def _draw(self, found: NextLogits) -> None:
        """Draw the next token of every sample, and what is behind guesses that come true, and tell of them."""
        logits, behind = found.logits, [found.guesses.get(sample, ()) for sample in found.samples]
        samples = [sample for sample, guesses in zip(found.samples, behind, strict=True) for _ in (0, *guesses)]
        # Log-probs are those under the model itself, before anything is done to its logits.
        own = logits if logits.dtype == torch.float64 else logits.float()
        adjusted = [(row, sample) for row, sample in enumerate(samples) if sample.is_adjusted]
        changed = own.clone() if adjusted else own
        for row, sample in adjusted:
            try:
                sample.adjust(changed[row])
            except Exception as error:  # noqa: BLE001 - the boundary between the samples of different requests
                self.fail([sample], error)
        ids = _drawn(samples, changed)
        logps = own.log_softmax(dim=-1)
        chosen = logps.gather(1, ids[:, None])[:, 0]
        # Both in one wait for the device; no id is too large for a double.
        numbers = torch.stack([ids.double(), chosen.double()]).tolist()
        row = 0
        for sample, guesses in zip(found.samples, behind, strict=True):
            try:
                for place, guess in enumerate((*guesses, None), row):
                    token = int(numbers[0][place])
                    self._tell(sample, token, numbers[1][place], logps[place])
                    if token != guess:
                        break
            except Exception as error:  # noqa: BLE001 - the boundary between the samples of different requests
                self.fail([sample], error)
            row += 1 + len(guesses)

    def _tell(self, sample: Sample, token: int, logp: float, logps: Tensor) -> None:
        """Give the sample its token, and end it where that ends it. Raises whatever its listener raises."""
        if sample.is_unwanted:
            return
        if not math.isfinite(logp):
            where = f"{sample.where}, new token {len(sample.written)}"
            what = f"the model's logits are not finite (log-prob {logp})"
            raise ModelError(where, what, "load the model in a wider dtype, or check its weights")
        sample.written.append(token)
        sample.logps.append(logp)
        ends = token in self._stops
        if not ends:
            if sample.grammar is not None:
                sample.grammar.advance(token)
            top: tuple[tuple[int, float], ...] = ()
            if sample.rules.num_top:
                best = logps.topk(min(sample.rules.num_top, len(logps)))
                top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            ends = sample.listener.took(DrawnToken(token, logp, top))
        if ends or len(sample.written) >= sample.rules.sampling.max_new_tokens:
            sample.is_unwanted = True
            sample.listener.ended("stop" if ends else "length", len(sample.written))


def _drawn(samples: Sequence[Sample], logits: Tensor) -> Tensor:
    """The id (n,) that each sample draws from its logits (n, V)."""
    alike: dict[tuple[float, int, float], list[int]] = {}
    for row, sample in enumerate(samples):
        sampling = sample.rules.sampling
        alike.setdefault((sampling.temperature, sampling.top_k, sampling.top_p), []).append(row)
    if len(alike) == 1:
        return _drawn_alike(samples, logits)
    ids = torch.zeros(len(samples), dtype=torch.long, device=logits.device)
    for rows in alike.values():
        ids[rows] = _drawn_alike([samples[row] for row in rows], logits[rows])
    return ids


def _drawn_alike(samples: Sequence[Sample], logits: Tensor) -> Tensor:
    uniforms = torch.tensor([sample.uniform() for sample in samples], dtype=torch.float64)
    return draw(logits, samples[0].rules.sampling, sent(uniforms, logits.device))


@contextmanager
def ready_to_generate(model: PreTrainedModel) -> Iterator[None]:
    """The model in eval mode, with the attention and products that suit an engine; all are put back.

    Where it is on a CPU, the process keeps its freed memory from now on.
    """
    training = [module for module in model.modules() if module.training]
    attention = model.config._attn_implementation  # noqa: SLF001 - there is no public way to read it
    module: nn.Module = model
    module.eval()
    if model.device.type == "cpu":
        keep_freed_memory()
    try:
        if why_not_packed(model) is None:
            model.set_attn_implementation(CACHED)
        elif attention == IMPLEMENTATION or plain_attention(model) == "eager":
            model.set_attn_implementation(plain_attention(model))
        with fast_for_few_rows(model):
            yield
    finally:
        model.set_attn_implementation(attention)
        for one in training:
            one.training = True
