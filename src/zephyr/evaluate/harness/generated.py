"""Answers to lm-eval's generation requests: their settings translated, their prompts batched by what they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from lm_eval.models.utils import normalize_gen_kwargs  # type: ignore[import-untyped]

from zephyr.errors import DataError
from zephyr.evaluate.harness.finished import Answer
from zephyr.evaluate.harness.stop_texts import StopTexts
from zephyr.models.generation import cut_groups, generate, stop_ids_of
from zephyr.models.loading import Loaded
from zephyr.models.sampling import Sampling

# lm-eval's own default, for a task that does not say how long its answers may be.
DEFAULT_MAX_NEW_TOKENS = 256
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}


class Wish(NamedTuple):
    """A prompt to continue; `key` names it in what comes back."""

    key: str
    prompt: tuple[int, ...]
    sampling: Sampling


def sampling_of(options: Mapping[str, object], *, loaded: Loaded) -> Sampling:
    """The settings of a request, of which lm-eval's `generation_kwargs` are the options. Raises DataError."""
    wanted = normalize_gen_kwargs(dict(options), DEFAULT_MAX_NEW_TOKENS)
    foreign = sorted(name for name in wanted if name not in _KNOWN and wanted[name] is not None)
    if foreign:
        raise DataError("generation_kwargs", f"unknown setting {', '.join(foreign)}", f"known are {sorted(_KNOWN)}")
    eos = loaded.tokenizer.eos_token
    texts = [*wanted["until"], *([eos] if isinstance(eos, str) else [])]
    return Sampling(
        max_new_tokens=int(wanted["max_gen_toks"]),
        temperature=float(wanted["temperature"]) if wanted["do_sample"] else 0.0,
        top_k=int(wanted["top_k"]) if wanted.get("top_k") else None,
        top_p=float(wanted.get("top_p") or 1.0),
        stop_ids=stop_ids_of(loaded.model, loaded.tokenizer),
        ending=StopTexts(loaded.tokenizer, tuple(dict.fromkeys(text for text in texts if text))),
    )


def generated_texts(loaded: Loaded, wishes: Sequence[Wish], max_cache_tokens: int) -> Iterator[dict[str, Answer]]:
    """The answers by key, batch by batch; prompts that begin alike are in one batch, and share what they share."""
    alike: dict[Sampling, list[Wish]] = {}
    for wish in wishes:
        alike.setdefault(wish.sampling, []).append(wish)
    for sampling, of_one_kind in alike.items():
        prompts = [wish.prompt for wish in of_one_kind]
        for group in cut_groups(prompts, sampling.max_new_tokens, 1, max_cache_tokens=max_cache_tokens):
            batch = [of_one_kind[index] for index in group.prompts]
            yield _answers(loaded, batch, sampling, max_cache_tokens)


def _answers(loaded: Loaded, batch: Sequence[Wish], sampling: Sampling, max_cache_tokens: int) -> dict[str, Answer]:
    completions = generate(
        loaded.model,
        [wish.prompt for wish in batch],
        sampling,
        # Of the request alone, so that what it is batched with decides nothing.
        seeds=[int(wish.key[:12], 16) for wish in batch],
        max_cache_tokens=max_cache_tokens,
    )
    assert isinstance(sampling.ending, StopTexts)
    texts = (str(loaded.tokenizer.decode(list(one.ids), skip_special_tokens=True)) for one in completions)
    return {wish.key: sampling.ending.cut(text) for wish, text in zip(batch, texts, strict=True)}
