"""Decoding of models whose layers only attend: all new tokens of all samples in one forward, prompts in chunks.

Prompts are computed beside the steps of the samples at work, as many tokens at a time as those can wait for. What
prompts share is a segment that is computed and held once. Where there is no room, the newest samples wait.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zephyr.models.attention import CannotShareError, why_not_shared
from zephyr.models.cached_attention import CACHED, Step, Stretch
from zephyr.models.key_values import CacheRow, CacheSegment, KeyValues, RowPool
from zephyr.models.loading import num_embeddings, plain_attention
from zephyr.models.lookahead import step_width
from zephyr.models.own_cache import NextLogits, takes
from zephyr.models.samples import DrawRules, Sample
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.trees.forest import Ids

# Tokens of prompts that are computed between two steps of the samples at work: bounds how long those wait.
CHUNK_TOKENS = 512
# A shared stretch is computed by calls of its own, so it must be as long, and save as many tokens.
MIN_SHARED_TOKENS, MIN_SAVED_TOKENS = 16, 32
# It is read where it stands, by a call of its own in every layer and step, if its readers' copies would be larger.
MIN_COPIED_BYTES = 1 << 21
# How many samples in the queue are looked at for what they share with the one whose turn it is.
LOOKAHEAD = 128
# Room that every sample is left to grow in before another one joins.
SPARE_TOKENS = 16

_log = logging.getLogger(__name__)
_NOTHING: Mapping[CacheRow, Sequence[int]] = MappingProxyType({})

Fail = Callable[[Sequence[Sample], Exception], None]


class PackedDecoder:
    """Samples at work, and their keys and values; `fail` is told of samples that an error ends."""

    def __init__(self, model: PreTrainedModel, fail: Fail, *, max_rows: int, max_cache_tokens: int) -> None:
        self._model, self._fail = model, fail
        self._max_rows, self._max_cache = max_rows, max_cache_tokens
        self._held = KeyValues()
        #: In the order they came.
        self._rows: list[CacheRow] = []
        self._keeps = takes(model, "logits_to_keep")
        self._token_bytes = bytes_per_token(model)
        self._width = step_width(model)

    @property
    def samples(self) -> list[Sample]:
        """The samples at work."""
        return [row.sample for row in self._rows]

    def drop_unwanted(self) -> None:
        """Let go of the samples that nobody wants, and count the guesses that came true in the others."""
        for row in self._rows:
            if row.guessed_behind is not None:
                row.length += max(0, len(row.sample.written) - row.guessed_behind - 1)
                row.guessed_behind = None
        # Backwards, for a pool's last row leaves without another that must take its place.
        for row in [row for row in reversed(self._rows) if row.sample.is_unwanted]:
            self._drop(row)

    def admit(self, waiting: deque[Sample]) -> None:
        """Take from the queue whose turn it is, as far as there is room and time for it in this step."""
        if not waiting or len(self._rows) >= self._max_rows:
            return
        num_left, num_held = self._num_left(), self._num_tokens()
        while waiting and len(self._rows) < self._max_rows and num_left < CHUNK_TOKENS:
            row = self._planned(waiting[0], islice(waiting, 1, LOOKAHEAD))
            self._held.use(row)
            added = [segment for segment in row.path if segment not in self._held.segments]
            needed = row.num_tokens + sum(len(segment.ids) for segment in added)
            spare = SPARE_TOKENS * (len(self._rows) + 1)
            while (is_full := num_held + needed + spare > self._max_cache) and self._held.forget():
                num_held = self._num_tokens()
            if is_full and self._rows:
                self._held.drop(row)
                return
            self._held.segments += added
            self._rows.append(row)
            waiting.popleft()
            num_held += needed
            num_left += sum(one.num_left for one in (*added, *row.to_compute[len(row.path) :]))

    def step(self) -> list[NextLogits]:
        """The samples whose next token can be drawn, and the logits for it."""
        for row in self._rows:
            if row.is_covered and not any(segment.num_left for segment in row.path):
                self._held.place(row)
        self._held.make_room()
        pools, stretches = list(self._held.pools.values()), self._stretches()
        try:
            return [self._compute(pools, stretches, self._guesses(pools))]
        except Exception as error:  # noqa: BLE001 - the boundary between the samples of different requests
            parts: list[tuple[list[RowPool], list[Stretch]]] = [(pools, [])] if pools else []
            parts += [([], [stretch]) for stretch in stretches]
            return self._one_by_one(parts) if len(parts) > 1 else self._fails(pools, stretches, error)

    def put_back(self) -> list[Sample]:
        """The newest samples, the very newest first, taken off the work until the cache keeps to its size."""
        samples = []
        while self._num_tokens() > self._max_cache and (len(self._rows) > 1 or self._held.num_unused):
            if not self._held.forget():
                samples.append(self._rows[-1].sample)
                self._drop(self._rows[-1])
        return samples

    def _num_tokens(self) -> int:
        return self._held.num_tokens + sum(row.num_tokens for row in self._rows if row.rest is not None)

    def _num_left(self) -> int:
        """Tokens of prompts that are not computed yet."""
        return sum(segment.num_left for segment in {one for row in self._rows for one in row.to_compute})

    def _drop(self, row: CacheRow) -> None:
        self._rows.remove(row)
        self._held.drop(row)

    def _planned(self, sample: Sample, others: Iterable[Sample]) -> CacheRow:
        """A row for the sample: its prompt cut where it begins to differ from those of others."""
        ids = np.array(sample.ids, dtype=np.int64)
        path = self._held.match(ids[:-1])
        depth = sum(len(segment.ids) for segment in path)
        beginning = sample.ids[: depth + MIN_SHARED_TOKENS]
        is_long = depth + MIN_SHARED_TOKENS < len(ids)
        # Most others share too little, which is told at once.
        alike = [one for one in others if one.prompt[: len(beginning)] == beginning] if is_long else []
        shared = [_num_common(ids[:-1], other.body) for other in alike]
        for cut in sorted(set(shared)):
            num_others = sum(length >= cut for length in shared)
            if cut - depth >= MIN_SHARED_TOKENS and (cut - depth) * num_others >= MIN_SAVED_TOKENS:
                segment = CacheSegment(ids[depth:cut], path)
                segment.num_expected += num_others
                path, depth = (*path, segment), cut
        return CacheRow(sample, path, CacheSegment(ids[depth:], path), self._num_read(path))

    def _num_read(self, path: Sequence[CacheSegment]) -> int:
        """How many segments of a path one more sample reads where they stand, rather than have a copy of its own."""
        copies = [len(one.ids) * max(one.num_users + 1, min(one.num_expected, self._max_rows)) for one in path]
        worth = [depth for depth, tokens in enumerate(copies, 1) if tokens * self._token_bytes >= MIN_COPIED_BYTES]
        return max(worth, default=0)

    def _stretches(self) -> list[Stretch]:
        """The next tokens of the prompts that came first."""
        chosen: dict[CacheSegment, Stretch] = {}
        budget = CHUNK_TOKENS
        for row in self._rows:
            for segment in row.to_compute:
                if segment.num_left and segment not in chosen and budget:
                    count = min(budget, segment.num_left)
                    is_last = segment is row.rest and count == segment.num_left
                    chosen[segment] = Stretch(segment, count, row if is_last else None)
                    budget -= count
                if segment.num_left and (segment not in chosen or chosen[segment].num_tokens < segment.num_left):
                    break
        return list(chosen.values())

    def _guesses(self, pools: list[RowPool]) -> dict[CacheRow, list[int]]:
        """What is guessed of the rows' next tokens, as far as it costs little and there is room for it."""
        room = self._width - sum(len(pool.rows) for pool in pools)
        if room <= 0:
            return {}
        found = {row: row.guess()[: pool.capacity - row.length - 1] for pool in pools for row in pool.rows}
        guesses = {row: guess for row, guess in found.items() if guess}
        most = room // max(1, len(guesses))
        return {row: guess[:most] for row, guess in guesses.items() if most}

    def _compute(
        self, pools: list[RowPool], stretches: list[Stretch], guesses: Mapping[CacheRow, Sequence[int]] = _NOTHING
    ) -> NextLogits:
        step = Step(pools, stretches, self._model.device, guesses)
        num_new = sum(map(step.num_new, step.rows))
        ends = np.cumsum([num_new, *(count for _, count, _ in stretches)])[1:] - 1
        kept = [*range(num_new), *(int(end) for end, one in zip(ends, stretches, strict=True) if one.row)]
        logits = step.forward_through(self._model, kept, keeps=self._keeps)
        whole = [stretch.row for stretch in stretches if stretch.row is not None]
        for row in whole:
            self._held.place(row)
        # Behind all that can fail, for then the step is computed again.
        step.advance()
        for row in guesses:
            row.guessed_behind = len(row.sample.written)
        samples = [row.sample for row in (*step.rows, *whole)]
        return NextLogits(samples, logits, {row.sample: guess for row, guess in guesses.items()})

    def _one_by_one(self, parts: Sequence[tuple[list[RowPool], list[Stretch]]]) -> list[NextLogits]:
        """The same part by part, to end those samples alone that cannot be computed."""
        found = []
        for pools, stretches in parts:
            if any(sample.is_unwanted for sample in self._concerned(pools, stretches)):
                continue
            try:
                found.append(self._compute(pools, stretches))
            except Exception as error:  # noqa: BLE001 - the boundary between the samples of different requests
                self._fails(pools, stretches, error)
        return found

    def _fails(self, pools: list[RowPool], stretches: list[Stretch], error: Exception) -> list[NextLogits]:
        self._fail(self._concerned(pools, stretches), error)
        return []

    def _concerned(self, pools: list[RowPool], stretches: list[Stretch]) -> list[Sample]:
        segments = {stretch.segment for stretch in stretches}
        prompts = [row for row in self._rows if row.rest is not None and segments & {*row.path, row.rest}]
        return [row.sample for row in (*(row for pool in pools for row in pool.rows), *prompts)]


def bytes_per_token(model: PreTrainedModel) -> int:
    """About how much the keys and values of a token take in one layer."""
    config = model.config.get_text_config()
    num_heads = getattr(config, "num_attention_heads", 1)
    size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return 2 * int((getattr(config, "num_key_value_heads", None) or num_heads) * size) * model.dtype.itemsize


def _num_common(first: Ids, second: Ids) -> int:
    """How many tokens two prompts share at the start."""
    length = min(len(first), len(second))
    differing = np.flatnonzero(first[:length] != second[:length])
    return int(differing[0]) if len(differing) else length


# ---- which models can ----

# Ids of the trial: a shared segment, the rest of a prompt behind it, and a token of an answer.
_SHARED, _REST = 4, 2
_reasons: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def why_not_packed(model: PreTrainedModel) -> str | None:
    """Why samples of the model cannot be decoded together; None where they can, as a trial of seven tokens showed.

    The first time it is said in the log.
    """
    if model not in _reasons:
        _reasons[model] = why_not_shared(model) or _tried(model)
        if _reasons[model] is not None:
            name = type(model).__name__
            _log.warning(
                "%s writes the samples of one prompt at a time: its layers cannot share: %s", name, _reasons[model]
            )
    return _reasons[model]


@torch.no_grad()
def _tried(model: PreTrainedModel) -> str | None:
    ids = (np.arange(_SHARED + _REST + 1) * 7 + 3) % num_embeddings(model)
    try:
        model.set_attn_implementation(CACHED)
        ours = _logits_of_trial(model, ids)
    except (CannotShareError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as told:
        return str(told).partition("\n")[0]
    finally:
        model.set_attn_implementation(plain_attention(model))
    own = model(input_ids=torch.from_numpy(ids)[None].to(model.device), use_cache=False).logits[
        0, _SHARED + _REST - 1 :
    ]
    tolerance = 0.1 if own.dtype.itemsize == 2 else 1e-2
    # A NaN on both sides is told where it is drawn from.
    off = (ours.float() - own.float()).nan_to_num().square().mean().sqrt() > tolerance * own.float().nan_to_num().std()
    return "they attend, or count positions, in another way" if bool(off) else None


def _logits_of_trial(model: PreTrainedModel, ids: Ids) -> Tensor:
    """The logits (2, V) after the last two of the ids, the last of which is decoded."""
    shared = CacheSegment(ids[:_SHARED], ())
    rest = CacheSegment(ids[_SHARED:-1], (shared,))
    sample = Sample(ids[:-1].tolist(), DrawRules(SamplingSection()), _Nobody(), seed=(0,))
    row, held, keeps = CacheRow(sample, (shared,), rest, 1), KeyValues(), takes(model, "logits_to_keep")
    first = Step([], [Stretch(shared, _SHARED), Stretch(rest, _REST, row)], model.device)
    of_prompt = first.forward_through(model, [_SHARED + _REST - 1], keeps=keeps)
    first.advance()
    held.place(row)
    sample.written.append(int(ids[-1]))
    second = Step(list(held.pools.values()), [], model.device)
    return torch.cat([of_prompt, second.forward_through(model, [0], keeps=keeps)])


class _Nobody:
    """Listens to the trial."""

    def took(self, _token: object) -> bool:
        return False

    def ended(self, _reason: object, _num_tokens: int) -> None:
        pass

    def failed(self, _error: Exception) -> None:
        pass
