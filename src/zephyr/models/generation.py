"""Batched generation: every shared prefix of the prompts is computed once, and every sample has its own seed.

The prompts of a batch are prefilled as a prefix tree; then all samples decode together, and finished rows
leave. Models whose layers carry state cannot share: their prompts are computed one by one, and only the
samples of one prompt decode together. Chat templates, and turning ids into text, are left to others.
"""

import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from zephyr.errors import ModelError
from zephyr.models.attention import IMPLEMENTATION, shares_prefixes
from zephyr.models.loading import check_token_ids, num_embeddings, plain_attention
from zephyr.models.prefill import IdTuple, lay_out, prefill, root_path, select_rows
from zephyr.models.sampling import NEVER, Ending, Stopping, draw
from zephyr.recipe.teacher_section import SamplingSection

# Above this share of rows that have not ended, moving the keys and values of those costs more than it saves.
MAX_LIVE_SHARE = 0.85


class Completion(NamedTuple):
    """One sample of one prompt."""

    prompt_index: int
    sample_index: int
    ids: IdTuple  # what ended it included
    finish_reason: Literal["stop", "length"]
    logprob: float  # sum over `ids` under the model itself, before temperature and filters


class Group(NamedTuple):
    """Prompts that are prefilled together, and the blocks of their samples that decode together."""

    prompts: tuple[int, ...]
    blocks: tuple[range, ...]


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSection,
    *,
    stop: Stopping = NEVER,
    num_samples: int = 1,
    seed: int | Sequence[int] = 0,
    max_cache_tokens: int = 65_536,
) -> list[Completion]:
    """`num_samples` completions of every prompt, ordered by prompt and then sample.

    A sample's draws depend on (`seed`, prompt index, sample index) alone, or, where `seed` holds one for every prompt,
    on that and the sample index, never on what it is batched with; batches change logits in the last bits only. No
    batch decodes with more than `max_cache_tokens` tokens of keys and values, room for `max_new_tokens` included; its
    distinct prompts' are held once besides. The model's mode and attention are restored afterwards.

    Raises ValueError for another number of seeds than of prompts, ModelError for a prompt that is empty, leaves no
    room for an answer, or has ids outside of the vocabulary.
    """
    # peft's wrapper: the model inside it has the adapters in its layers.
    decoder: PreTrainedModel = getattr(model, "get_base_model", lambda: model)()
    all_ids = [tuple(int(token) for token in prompt) for prompt in prompts]
    seeds = [(seed, index) for index in range(len(prompts))] if isinstance(seed, int) else [(one,) for one in seed]
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    _check_prompts(decoder, all_ids, sampling)
    groups = cut_groups(all_ids, sampling.max_new_tokens, num_samples, max_cache_tokens=max_cache_tokens)
    completions: list[Completion] = []
    with torch.no_grad(), ready_to_generate(decoder):
        for owners, cache in _starts(decoder, all_ids, groups, sampling.max_new_tokens):
            rows = _start_rows(decoder, all_ids, owners, sampling, seeds)
            completions += _decode(decoder, cache, rows, sampling, stop)
    return sorted(completions, key=lambda completion: completion[:2])


def stop_ids_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that end a completion: those of the generation config and the tokenizer's end of sequence."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = {int(token) for token in (named if isinstance(named, list) else [named]) if token is not None}
    eos = tokenizer.eos_token_id
    return tuple(sorted(ids | ({eos} if isinstance(eos, int) else set())))


def cut_groups(
    prompts: Sequence[IdTuple], max_new_tokens: int, num_samples: int, *, max_cache_tokens: int
) -> list[Group]:
    """Groups in lexical order of the prompts, so that neighbours share; no block of rows exceeds the budget.

    A prompt whose samples do not fit together is a group alone, with several blocks. Raises ModelError for a
    prompt of which not even one sample fits.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    groups: list[Group] = []
    waiting: list[int] = []
    widest = 0
    for index in sorted(range(len(prompts)), key=lambda index: prompts[index]):
        width = len(prompts[index]) + max_new_tokens
        if width > max_cache_tokens:
            raise ModelError(
                f"prompt {index}",
                f"needs {width} tokens of cache, more than max_cache_tokens={max_cache_tokens}",
                "raise max_cache_tokens, or lower max_new_tokens",
            )
        widest = max(width, widest)
        if waiting and (len(waiting) + 1) * num_samples * widest > max_cache_tokens:
            groups.append(Group(tuple(waiting), (range(num_samples),)))
            waiting, widest = [], width
        rows = max_cache_tokens // width
        if rows < num_samples:
            starts = range(0, num_samples, rows)
            groups.append(Group((index,), tuple(range(s, min(s + rows, num_samples)) for s in starts)))
        else:
            waiting.append(index)
    return [*groups, Group(tuple(waiting), (range(num_samples),))] if waiting else groups


def _check_prompts(model: PreTrainedModel, prompts: Sequence[IdTuple], sampling: SamplingSection) -> None:
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


@contextmanager
def ready_to_generate(model: PreTrainedModel) -> Iterator[None]:
    """The model in eval mode, with an attention that knows caches; both are put back."""
    training = [module for module in model.modules() if module.training]
    attention = model.config._attn_implementation  # noqa: SLF001 - there is no public way to read it
    switches = attention == IMPLEMENTATION or plain_attention(model) == "eager"
    module: nn.Module = model
    module.eval()
    try:
        if switches:
            model.set_attn_implementation(plain_attention(model))
        yield
    finally:
        if switches:
            model.set_attn_implementation(attention)
        for module in training:
            module.training = True


def _starts(
    model: PreTrainedModel, prompts: Sequence[IdTuple], groups: Sequence[Group], max_new_tokens: int
) -> Iterator[tuple[list[tuple[int, int]], Cache | None]]:
    """The (prompt, sample) pairs of every batch, and a cache with a row for each; None is an empty cache.

    The caches hold all of the prompts but their last tokens.
    """
    if not shares_prefixes(model):
        for index, block in [(i, block) for group in groups for i in group.prompts for block in group.blocks]:
            alone = prefill_alone(model, prompts[index][:-1])
            yield [(index, sample) for sample in block], _repeat(alone, len(block))
        return
    bodies = [ids[:-1] for ids in prompts]
    root = root_path(model, bodies)
    for group in groups:
        paths = prefill(model, sorted({bodies[index] for index in group.prompts}), root)
        for block in group.blocks:
            owners = [(index, sample) for index in group.prompts for sample in block]
            yield owners, lay_out([paths[bodies[index]] for index, _ in owners], max_new_tokens)


def prefill_alone(model: PreTrainedModel, body: IdTuple) -> Cache | None:
    """The state of a stateful model after `body`, one row; None where the prompt is a single token."""
    if not body:
        return None
    output = model(input_ids=torch.tensor([body], device=model.device), use_cache=True, logits_to_keep=1)
    return _cache_of(model, output)


def _repeat(cache: Cache | None, num_rows: int) -> Cache | None:
    """The one-row cache, grown in place to `num_rows` equal rows."""
    if cache is not None:
        select_rows(cache, [0] * num_rows)
    return cache


@dataclass
class _Rows:
    """What decodes together: R rows, the tokens they continue, and where those stand."""

    owners: list[tuple[int, int]]
    last_ids: Tensor  # (R,)
    positions: Tensor  # (R,) of `last_ids`
    attends: Tensor | None  # (R, width + max_new_tokens): 0 on the padding; None: there is none
    width: int  # tokens before `last_ids`, padding included
    uniforms: Tensor  # (R, max_new_tokens), on the CPU

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        self.owners = [self.owners[row] for row in rows]
        self.uniforms = self.uniforms[rows]
        kept = torch.tensor(rows, device=self.last_ids.device)
        self.last_ids, self.positions = self.last_ids[kept], self.positions[kept]
        self.attends = None if self.attends is None else self.attends[kept]


def _start_rows(
    model: PreTrainedModel,
    prompts: Sequence[IdTuple],
    owners: list[tuple[int, int]],
    sampling: SamplingSection,
    seeds: Sequence[tuple[int, ...]],
) -> _Rows:
    device, num_new = model.device, sampling.max_new_tokens
    before = torch.tensor([len(prompts[prompt]) - 1 for prompt, _ in owners], device=device)
    width = int(before.max())
    padding = width - before
    attends = None
    if bool(padding.any()):
        attends = (torch.arange(width + num_new, device=device) >= padding[:, None]).long()
    uniforms = [np.random.default_rng((*seeds[prompt], sample)).random(num_new) for prompt, sample in owners]
    return _Rows(
        owners=list(owners),
        last_ids=torch.tensor([prompts[prompt][-1] for prompt, _ in owners], device=device),
        positions=before,
        attends=attends,
        width=width,
        uniforms=torch.from_numpy(np.stack(uniforms)),
    )


def _decode(
    model: PreTrainedModel, cache: Cache | None, rows: _Rows, sampling: SamplingSection, stop: Stopping
) -> list[Completion]:
    """One completion for every row.

    Rows that end leave the batch, several together: until then they decode on, and nobody looks at what they draw.
    """
    written: dict[tuple[int, int], list[tuple[int, float]]] = {owner: [] for owner in rows.owners}
    done: list[Completion] = []
    stops = set(stop.ids)
    for step in range(sampling.max_new_tokens):
        attends = None if rows.attends is None else rows.attends[:, : rows.width + step + 1]
        logits, cache = next_logits(model, cache, rows.last_ids, rows.positions, attends)
        drawn, logps = draw(logits, sampling, rows.uniforms[:, step])
        ends: list[tuple[int, int]] = []
        for owner, token, logp in zip(rows.owners, drawn.tolist(), logps.tolist(), strict=True):
            if owner not in written:
                continue
            if not math.isfinite(logp):
                raise ModelError(
                    f"prompt {owner[0]}, new token {step}",
                    f"the model's logits are not finite (log-prob {logp})",
                    "load the model in a wider dtype, or check its weights",
                )
            written[owner].append((token, logp))
            if token in stops or _has_ended(written[owner], stop.ending):
                ends.append(owner)
        done += [_completion(owner, written.pop(owner), "stop") for owner in ends]
        if not written:
            break
        rows.last_ids, rows.positions = drawn, rows.positions + 1
        if len(written) <= MAX_LIVE_SHARE * len(rows.owners):
            left = [row for row, owner in enumerate(rows.owners) if owner in written]
            select_rows(cache, left)
            rows.keep(left)
    return done + [_completion(owner, tokens_of, "length") for owner, tokens_of in written.items()]


def _has_ended(tokens: Sequence[tuple[int, float]], ending: Ending | None) -> bool:
    if ending is None or not ending.reached([token for token, _ in tokens[-ending.lookback :]]):
        return False
    return ending.is_over([token for token, _ in tokens])


def _completion(
    owner: tuple[int, int], tokens: Iterable[tuple[int, float]], reason: Literal["stop", "length"]
) -> Completion:
    ids, logps = zip(*tokens, strict=True)
    return Completion(owner[0], owner[1], tuple(ids), reason, math.fsum(logps))


def next_logits(
    model: PreTrainedModel, cache: Cache | None, last_ids: Tensor, positions: Tensor, attends: Tensor | None
) -> tuple[Tensor, Cache]:
    """The logits (R, V) after `last_ids` (R,) at `positions` (R,), and the cache that now holds these too.

    `attends`: 0 on the padding of the cache, these ids included (R, width + 1); None where there is none.
    """
    keywords: dict[str, Tensor] = {} if attends is None else {"attention_mask": attends}
    if _cache_name(model) == "past_key_values":
        output = model(
            input_ids=last_ids[:, None],
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
            **keywords,
        )
    else:
        output = model(input_ids=last_ids[:, None], cache_params=cache, use_cache=True, **keywords)
    logits: Tensor = output.logits[:, -1]
    return logits, _cache_of(model, output)


def _cache_name(model: PreTrainedModel) -> Literal["past_key_values", "cache_params"]:
    """What the architecture calls its cache; state-space models have a name of their own."""
    return "cache_params" if "cache_params" in inspect.signature(model.forward).parameters else "past_key_values"


def _cache_of(model: PreTrainedModel, output: object) -> Cache:
    cache = getattr(output, _cache_name(model), None)
    if not isinstance(cache, Cache):
        raise ModelError(
            type(model).__name__,
            "its forward gives no cache to go on from",
            "leave sampling out (generations, chat), or sample from it with transformers' own generate",
        )
    return cache
