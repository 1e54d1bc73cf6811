"""Completions of a set of prompts; every sample has its own seed.

Chat templates, and turning ids into text, are left to others; how samples are computed, to the engine.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from zephyr.errors import ModelError
from zephyr.models.engine import MAX_CACHE_TOKENS, DecodingEngine, cache_budget, ready_to_generate
from zephyr.models.loading import check_token_ids, num_embeddings
from zephyr.models.samples import DrawnToken, DrawRules, EndReason, IdTuple, Sample
from zephyr.models.sampling import NEVER, Ending, Stopping
from zephyr.recipe.teacher_section import SamplingSection

# Samples that are written together: what a step costs whatever its rows is more than half of it in a small model.
MAX_TOGETHER = 256
# Logits of a step, which are held a few times over: 128 MiB in float32.
MAX_LOGITS = 1 << 25


class Completion(NamedTuple):
    """One sample of one prompt."""

    prompt_index: int
    sample_index: int
    ids: IdTuple  # what ended it included
    finish_reason: EndReason
    logprob: float  # sum over `ids` under the model itself, before temperature and filters


class _Collected:
    """Listens to one sample, and puts its completion behind those that have ended."""

    sample: Sample

    def __init__(self, owner: tuple[int, int], ending: Ending | None, ended: deque[Completion]) -> None:
        self._owner, self._ending, self._ended = owner, ending, ended

    def took(self, _token: DrawnToken) -> bool:
        ending, ids = self._ending, self.sample.written
        return ending is not None and ending.reached(ids[-ending.lookback :]) and ending.is_over(ids)

    def ended(self, reason: EndReason, _num_tokens: int) -> None:
        logprob = math.fsum(self.sample.logps)
        self._ended.append(Completion(*self._owner, tuple(self.sample.written), reason, logprob))

    def failed(self, error: Exception) -> None:
        """Raise the error."""
        raise error


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSection,
    *,
    stop: Stopping = NEVER,
    num_samples: int = 1,
    seed: int | Sequence[int] = 0,
    max_cache_tokens: int | None = MAX_CACHE_TOKENS,
) -> list[Completion]:
    """`num_samples` completions of every prompt, ordered by prompt and then sample.

    A sample's draws depend on (`seed`, prompt index, sample index) alone, or, where `seed` holds one for every prompt,
    on that and the sample index, never on what it is batched with; batches change logits in the last bits only. Never
    more than `max_cache_tokens` tokens of keys and values are held; None: by the device, and no answer is too long
    (ranks that share a model must have one budget). The model's mode and attention are restored afterwards.

    Raises ValueError for another number of seeds than of prompts, ModelError for a prompt that is empty, leaves no
    room for an answer, or has ids outside of the vocabulary.
    """
    found = generated(
        model, prompts, sampling, stop=stop, num_samples=num_samples, seed=seed, max_cache_tokens=max_cache_tokens
    )
    return sorted(found, key=lambda completion: completion[:2])


def generated(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSection,
    *,
    stop: Stopping = NEVER,
    num_samples: int = 1,
    seed: int | Sequence[int] = 0,
    max_cache_tokens: int | None = MAX_CACHE_TOKENS,
) -> Iterator[Completion]:
    """The same completions, each as soon as it has ended; the model is given back after the last. Raises the same."""
    # peft's wrapper: the model inside it has the adapters in its layers.
    decoder: PreTrainedModel = getattr(model, "get_base_model", lambda: model)()
    all_ids = [tuple(int(token) for token in prompt) for prompt in prompts]
    seeds = [(seed, index) for index in range(len(prompts))] if isinstance(seed, int) else [(one,) for one in seed]
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    longest = max(map(len, all_ids), default=0) + sampling.max_new_tokens
    max_cache_tokens = cache_budget(decoder, max_cache_tokens, at_least=longest)
    _check_prompts(decoder, all_ids, sampling, max_cache_tokens)
    if not all_ids:
        return
    ended: deque[Completion] = deque()
    waiting: deque[Sample] = deque()
    # In lexical order, so that neighbours in the queue share.
    rules = DrawRules(sampling)
    for index in sorted(range(len(all_ids)), key=lambda index: all_ids[index]):
        for number in range(num_samples):
            listener = _Collected((index, number), stop.ending, ended)
            where, own_seed = f"prompt {index}", (*seeds[index], number)
            listener.sample = Sample(all_ids[index], rules, listener, seed=own_seed, where=where)
            waiting.append(listener.sample)
    max_rows = min(MAX_TOGETHER, max(1, MAX_LOGITS // num_embeddings(decoder)))
    with ready_to_generate(decoder):
        engine = DecodingEngine(decoder, stop.ids, waiting, max_rows=max_rows, max_cache_tokens=max_cache_tokens)
        while engine.samples:
            engine.step()
            while ended:
                yield ended.popleft()


def stop_ids_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that end a completion: those of the generation config and the tokenizer's end of sequence."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = {int(token) for token in (named if isinstance(named, list) else [named]) if token is not None}
    eos = tokenizer.eos_token_id
    return tuple(sorted(ids | ({eos} if isinstance(eos, int) else set())))


def _check_prompts(
    model: PreTrainedModel, prompts: Sequence[IdTuple], sampling: SamplingSection, max_cache_tokens: int
) -> None:
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    for index, ids in enumerate(prompts):
        if not ids:
            raise ModelError(f"prompt {index}", "holds no tokens", "begin it with a token, such as bos")
        check_token_ids(ids, num_embeddings(model), f"prompt {index}")
        if longest is not None and len(ids) + sampling.max_new_tokens > longest:
            raise ModelError(
                f"prompt {index}",
                f"{len(ids)} tokens and {sampling.max_new_tokens} new ones exceed the {longest} positions",
                "shorten the prompt or lower max_new_tokens",
            )
        if len(ids) + sampling.max_new_tokens > max_cache_tokens:
            raise ModelError(
                f"prompt {index}",
                f"needs {len(ids) + sampling.max_new_tokens} tokens of cache, more than "
                f"max_cache_tokens={max_cache_tokens}",
                "raise max_cache_tokens, or lower max_new_tokens",
            )
