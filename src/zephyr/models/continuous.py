"""Continuous batching: samples join and leave the batch while others are written, in one thread of this process.

Each sample has its own prompt, settings and seed. A long prompt is computed in chunks between the steps of the others,
a sample that nobody wants any more leaves at the next step, and an error of one sample is told to it alone. Where the
cache is full, the newest samples wait and are computed again.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.models.attention import shares_prefixes
from zephyr.models.decoding_batch import DecodingBatch
from zephyr.models.generation import next_logits, prefill_alone, ready_to_generate
from zephyr.models.prefill import IdTuple, Path, compute_segments, path_length
from zephyr.models.sampling import draw
from zephyr.recipe.teacher_section import SamplingSection

# Tokens of prompts that are computed between two steps of the samples at work: bounds how long those wait.
CHUNK_TOKENS = 512
MAX_ROWS = 64
MAX_WAITING = 256
MAX_CACHE_TOKENS = 65_536
# What OpenAI's bounds of a bias stand for: a token that is never drawn, or always.
FULL_BIAS, DECISIVE = 100.0, 1e4

EndReason = Literal["stop", "length"]


class DrawnToken(NamedTuple):
    """A token, its log-prob under the model itself, and the likeliest tokens in its place with theirs, best first."""

    id: int
    logp: float
    top: tuple[tuple[int, float], ...] = ()


class Listener(Protocol):
    """Whoever a sample is written for; called in the thread of the model."""

    def took(self, token: DrawnToken) -> bool:
        """Take the next token, which is no stop token; whether the sample ends with it."""

    def ended(self, reason: EndReason, num_tokens: int) -> None:
        """Hear that no token follows those, the one that stopped it included."""

    def failed(self, error: Exception) -> None:
        """Hear that no token follows, for an error."""


class Grammar(Protocol):
    """What a sample must be, such as JSON of a schema."""

    def allow(self, logits: Tensor) -> None:
        """Set the logits (V,) of tokens that may not come next to -inf, in place."""

    def advance(self, token: int) -> None:
        """Take the token that came."""


@dataclass(frozen=True)
class DrawRules:
    """How tokens are drawn: `sampling`, and what is done to the logits before. `num_top`: likeliest tokens to tell."""

    sampling: SamplingSection
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    num_top: int = 0


class Sample:
    """A completion that is to be written: its prompt, its rules, its own draws, and who listens."""

    def __init__(
        self,
        prompt: Sequence[int],
        rules: DrawRules,
        listener: Listener,
        *,
        seed: Sequence[int],
        grammar: Grammar | None = None,
    ) -> None:
        self.prompt: IdTuple = tuple(int(token) for token in prompt)
        self.rules = rules
        self.listener = listener
        self.grammar = grammar
        self.written: list[int] = []
        #: Set by anyone, in any thread: nobody listens any more.
        self.is_unwanted = False
        #: One number from the whole seed, for engines that take no more.
        self.seed = int(np.random.SeedSequence(tuple(seed)).generate_state(1, np.uint64)[0] >> 1)
        self._random = np.random.default_rng(tuple(seed))

    @property
    def ids(self) -> IdTuple:
        """The prompt and what is written so far."""
        return (*self.prompt, *self.written)

    def adjust(self, logits: Tensor) -> None:
        """Apply penalties, biases and the grammar to logits (V,), in place. Source: OpenAI's API reference."""
        rules = self.rules
        if self.written and (rules.frequency_penalty or rules.presence_penalty):
            for token, times in Counter(self.written).items():
                logits[token] -= rules.frequency_penalty * times + rules.presence_penalty
        for token, bias in rules.logit_bias.items():
            logits[token] += bias if abs(bias) < FULL_BIAS else DECISIVE * bias / FULL_BIAS
        if self.grammar is not None:
            self.grammar.allow(logits)

    def uniform(self) -> float:
        """The next of the sample's own uniform numbers in [0, 1)."""
        return float(self._random.random())


class QueueFullError(Exception):
    """So many samples wait already that no more are taken."""


class ClosedError(Exception):
    """Nothing is written any more: the writer was closed."""


@dataclass
class _Prefill:
    """Samples whose prompts are computed next: several short ones together, or one in chunks, `path` of it done."""

    samples: list[Sample]
    path: Path = ()

    @property
    def bodies(self) -> list[IdTuple]:
        """All of each prompt but its last token, which the first step computes."""
        return [sample.ids[:-1] for sample in self.samples]


class ContinuousWriter:
    """Writes samples with one model in a thread of its own, until closed; the model must not be used meanwhile."""

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: Collection[int],
        *,
        max_rows: int = MAX_ROWS,
        max_waiting: int = MAX_WAITING,
        max_cache_tokens: int = MAX_CACHE_TOKENS,
    ) -> None:
        self._model = model
        self._stops = frozenset(stop_ids)
        self._shares = shares_prefixes(model)
        self._max_rows, self._max_waiting, self._max_cache = max_rows, max_waiting, max_cache_tokens
        self._changed = Condition()
        self._waiting: deque[Sample] = deque()
        self._is_closed = False
        self._prefill: _Prefill | None = None
        self._batches: list[DecodingBatch[Sample]] = []
        self._thread = Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether samples are written."""
        return self._thread.is_alive() and not self._is_closed

    def submit(self, samples: Sequence[Sample]) -> None:
        """Queue the samples, all or none. Raises QueueFullError, and ClosedError after `close`."""
        with self._changed:
            if self._is_closed:
                raise ClosedError
            if len(self._waiting) + len(samples) > self._max_waiting:
                raise QueueFullError
            self._waiting.extend(samples)
            self._changed.notify()

    def close(self, seconds: float | None = None) -> None:
        """End the thread within a step, waiting at most so long; whoever still listens hears a ClosedError."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(seconds)

    # ---- the thread ----

    def _work(self) -> None:
        with torch.no_grad(), ready_to_generate(self._model):
            while self._has_work():
                self._step()
        self._fail([*self._at_work(), *self._waiting], ClosedError())

    def _has_work(self) -> bool:
        """Whether there is something to write, once there is; false when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._waiting or self._prefill or self._batches)
            return not self._is_closed

    def _at_work(self) -> list[Sample]:
        rows = [sample for batch in self._batches for sample in batch.owners]
        return [*rows, *(self._prefill.samples if self._prefill else [])]

    @staticmethod
    def _fail(samples: Sequence[Sample], error: Exception) -> None:
        for sample in samples:
            sample.is_unwanted = True
            sample.listener.failed(error)

    def _try(self, samples: Sequence[Sample], work: Callable[[], None]) -> None:
        """Do the work for these samples; an error in it ends them and no others."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the boundary between the samples of different requests
            self._fail(samples, error)

    def _step(self) -> None:
        self._drop_unwanted()
        prefill = self._prefill = self._prefill or self._next_prefill()
        if prefill is not None:
            self._try(prefill.samples, lambda: self._compute(prefill))
        for batch in self._batches:
            self._try(list(batch.owners), lambda batch=batch: self._decode(batch))  # type: ignore[misc]
        self._drop_unwanted()
        self._make_room()

    def _drop_unwanted(self) -> None:
        with self._changed:
            self._waiting = deque(sample for sample in self._waiting if not sample.is_unwanted)
        if self._prefill is not None and all(sample.is_unwanted for sample in self._prefill.samples):
            self._prefill = None
        for batch in self._batches:
            batch.drop([sample.is_unwanted for sample in batch.owners])
        self._batches = [batch for batch in self._batches if batch.owners]

    # ---- prompts ----

    def _next_prefill(self) -> _Prefill | None:
        """The prompts that come next, in the order they came in, as far as there is room for them."""
        chosen: list[Sample] = []
        rows, tokens = self._num_rows(), self._cache_tokens()
        with self._changed:
            while self._waiting and rows + len(chosen) < self._max_rows:
                together = [*chosen, self._waiting[0]]
                longest = max(len(sample.ids) for sample in together)
                if (chosen or self._batches) and tokens + longest * len(together) > self._max_cache:
                    break
                distinct = {sample.ids for sample in together}
                if chosen and (not self._shares or (len(distinct) > 1 and longest * len(distinct) > CHUNK_TOKENS)):
                    break
                chosen.append(self._waiting.popleft())
        return _Prefill(chosen) if chosen else None

    def _compute(self, prefill: _Prefill) -> None:
        """Compute the prompts, or the next chunk of one; those that are whole become rows."""
        samples, bodies = prefill.samples, prefill.bodies
        if not self._shares:
            cache = prefill_alone(self._model, bodies[0])
            self._batches.append(DecodingBatch.of_one(samples[0], len(bodies[0]), cache))
        elif len(set(bodies)) > 1:
            distinct = sorted({body for body in bodies if body})
            found = dict(zip(distinct, compute_segments(self._model, (), distinct), strict=True))
            for sample, body in zip(samples, bodies, strict=True):
                self._join(sample, (found[body],) if body else self._empty_path(sample))
        else:
            done = path_length(prefill.path)
            chunk = bodies[0][done : done + CHUNK_TOKENS]
            if chunk:
                prefill.path = (*prefill.path, compute_segments(self._model, prefill.path, [chunk])[0])
            if done + len(chunk) < len(bodies[0]):
                return
            for sample in samples:
                self._join(sample, prefill.path or self._empty_path(sample))
        self._prefill = None

    def _empty_path(self, sample: Sample) -> Path:
        """Keys and values of no token; their sizes are learnt from those of one."""
        (segment,) = compute_segments(self._model, (), [sample.ids[:1]])
        return ([(keys[:, :0], values[:, :0]) for keys, values in segment],)

    def _join(self, sample: Sample, path: Path) -> None:
        length = path_length(path)
        batch = next((batch for batch in self._batches if batch.suits(length)), None)
        if batch is None:
            self._batches.append(DecodingBatch.empty())
            batch = self._batches[-1]
        batch.join(sample, path)

    # ---- steps ----

    def _num_rows(self) -> int:
        return sum(len(batch.owners) for batch in self._batches)

    def _cache_tokens(self) -> int:
        return sum(len(batch.owners) * (batch.width + 1) for batch in self._batches)

    def _make_room(self) -> None:
        """Put the newest samples back into the queue, first in it, until the cache keeps to its size."""
        while self._cache_tokens() > self._max_cache and self._num_rows() > 1:
            batch = self._batches[-1]
            with self._changed:
                self._waiting.appendleft(batch.owners[-1])
            batch.drop([row == len(batch.owners) - 1 for row in range(len(batch.owners))])
            self._batches = [one for one in self._batches if one.owners]

    def _decode(self, batch: DecodingBatch[Sample]) -> None:
        """One more token for every sample of the batch."""
        last_ids = torch.tensor([sample.ids[-1] for sample in batch.owners], device=self._model.device)
        logits, cache = next_logits(self._model, batch.cache, last_ids, *batch.next_place(self._model.device))
        batch.grew(cache)
        logits = logits.float()
        # Under the model itself, before anything is done to its logits.
        logps = logits.log_softmax(dim=-1)
        for row, sample in enumerate(batch.owners):
            self._try([sample], partial(sample.adjust, logits[row]))
        for sample, token, of_all in zip(batch.owners, _drawn(batch.owners, logits), logps, strict=True):
            self._try([sample], partial(self._tell, sample, token, of_all))

    def _tell(self, sample: Sample, token: int, logps: Tensor) -> None:
        """Give the sample its token, and end it where that ends it. Raises whatever its listener raises."""
        if sample.is_unwanted:
            return
        logp = float(logps[token])
        if not math.isfinite(logp):
            what = f"the model's logits are not finite at new token {len(sample.written)}"
            raise ModelError("the model", what, "load the model in a wider dtype, or check its weights")
        sample.written.append(token)
        ends = token in self._stops
        if not ends:
            if sample.grammar is not None:
                sample.grammar.advance(token)
            best = logps.topk(min(sample.rules.num_top, len(logps)))
            top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            ends = sample.listener.took(DrawnToken(token, logp, top))
        if ends or len(sample.written) >= sample.rules.sampling.max_new_tokens:
            sample.is_unwanted = True
            sample.listener.ended("stop" if ends else "length", len(sample.written))


def _drawn(samples: Sequence[Sample], logits: Tensor) -> list[int]:
    """The id that each sample draws from its logits (R, V)."""
    alike: dict[tuple[float, int, float], list[int]] = {}
    for row, sample in enumerate(samples):
        sampling = sample.rules.sampling
        alike.setdefault((sampling.temperature, sampling.top_k, sampling.top_p), []).append(row)
    ids = torch.zeros(len(samples), dtype=torch.long, device=logits.device)
    for rows in alike.values():
        uniforms = torch.tensor([samples[row].uniform() for row in rows], dtype=torch.float64)
        ids[rows] = draw(logits[rows], samples[rows[0]].rules.sampling, uniforms)[0]
    found: list[int] = ids.tolist()
    return found
