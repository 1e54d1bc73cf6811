"""Answers to lm-eval's generation requests: how they are sampled, where they end, and how long they may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lm_eval.models.utils import normalize_gen_kwargs  # type: ignore[import-untyped]

from zephyr.errors import DataError, ModelError
from zephyr.evaluation.harness.finished import FinishedAnswer
from zephyr.evaluation.harness.tasks import LmEvalTask, LoadedTask
from zephyr.models.generation import generated, stop_ids_of
from zephyr.models.loading import Loaded
from zephyr.models.sampling import Stopping
from zephyr.models.tokenizers import Tokenizer
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.thinking import Spoken, join_thinking, split_thinking, whole_characters

# lm-eval's own default, for a task that does not say how long its answers may be.
DEFAULT_MAX_NEW_TOKENS = 256
# What definitions call the greatest length; the first is lm-eval's own word.
_LONGEST = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}


@dataclass(frozen=True)
class StopTexts:
    """Ends a completion as soon as one of the texts stands in its answer; `cut` removes it and what follows.

    `thinks_first`: the prompt ends in an opening tag of thinking, whose text ends nothing.
    """

    tokenizer: Tokenizer = field(compare=False)
    texts: tuple[str, ...]
    thinks_first: bool = False

    @property
    def lookback(self) -> int:
        """A token holds at least a byte, so a text is found within so many of the newest tokens."""
        return max((len(text.encode()) for text in self.texts), default=0) + 1

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether the newest ids hold one of the texts."""
        tail = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        return any(text in tail for text in self.texts)

    def is_over(self, ids: Sequence[int]) -> bool:
        """Whether one of the texts stands in the answer of a whole completion, and not in its thinking alone."""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        answer = split_thinking(text, is_open=self.thinks_first).answer
        return any(stop in answer for stop in self.texts)

    def cut(self, text: str) -> str:
        """The answer of a text, before the first of the stop texts, behind its thinking where there is any."""
        spoken = split_thinking(whole_characters(text), is_open=self.thinks_first)
        text = spoken.answer
        for stop in self.texts:
            text = text.split(stop, maxsplit=1)[0]
        return join_thinking(Spoken(text, spoken.reasoning))


class GenerationRequest(NamedTuple):
    """A prompt to continue; `key` names it in what comes back."""

    key: str
    prompt: tuple[int, ...]
    sampling: SamplingSection
    ending: StopTexts


def request_sampling(options: Mapping[str, object], tokenizer: Tokenizer) -> tuple[SamplingSection, StopTexts]:
    """How a request is sampled and what ends its answer, of which lm-eval's `generation_kwargs` are the options.

    Raises DataError.
    """
    wanted = normalize_gen_kwargs(dict(options), DEFAULT_MAX_NEW_TOKENS)
    foreign = sorted(name for name in wanted if name not in _KNOWN and wanted[name] is not None)
    if foreign:
        raise DataError("generation_kwargs", f"unknown setting {', '.join(foreign)}", f"known are {sorted(_KNOWN)}")
    eos = tokenizer.eos_token
    texts = [*wanted["until"], *([eos] if isinstance(eos, str) else [])]
    sampling = SamplingSection(
        max_new_tokens=int(wanted["max_gen_toks"]),
        temperature=float(wanted["temperature"]) if wanted["do_sample"] else 0.0,
        top_k=int(wanted.get("top_k") or 0),
        top_p=float(wanted.get("top_p") or 1.0),
    )
    return sampling, StopTexts(tokenizer, tuple(dict.fromkeys(text for text in texts if text)))


def generated_texts(
    loaded: Loaded, requests: Sequence[GenerationRequest], max_cache_tokens: int | None
) -> Iterator[dict[str, FinishedAnswer]]:
    """The answers by key, each as soon as it is written; prompts that begin alike share what they share.

    At most `max_cache_tokens` tokens of keys and values are held, None: by the device; a single answer may need more.
    """
    alike: dict[tuple[SamplingSection, StopTexts], list[GenerationRequest]] = {}
    for request in requests:
        alike.setdefault((request.sampling, request.ending), []).append(request)
    for (sampling, ending), of_one_kind in alike.items():
        prompts = [request.prompt for request in of_one_kind]
        longest = max(map(len, prompts)) + sampling.max_new_tokens
        completions = generated(
            loaded.model,
            prompts,
            sampling,
            stop=Stopping(stop_ids_of(loaded.model, loaded.tokenizer), ending),
            # Of the request alone, so that what it is batched with decides nothing.
            seed=[int(request.key[:12], 16) for request in of_one_kind],
            max_cache_tokens=None if max_cache_tokens is None else max(max_cache_tokens, longest),
        )
        for one in completions:
            text = str(loaded.tokenizer.decode(list(one.ids), skip_special_tokens=True))
            yield {of_one_kind[one.prompt_index].key: ending.cut(text)}


# ---- how long answers may be ----


def longest_answer(task: LmEvalTask) -> int | None:
    """The most new tokens that the task lets a model write; None where it writes none."""
    if task.config.output_type != "generate_until":
        return None
    settings = normalize_gen_kwargs(dict(task.config.generation_kwargs or {}), DEFAULT_MAX_NEW_TOKENS)
    return int(settings["max_gen_toks"])


def limit_answers(loaded: LoadedTask, max_new_tokens: int | None) -> LoadedTask:
    """The task with no answer longer than that, a deviation where the definition allows more."""
    longest = longest_answer(loaded.task)
    if max_new_tokens is None or longest is None or longest <= max_new_tokens:
        return loaded
    others = {
        name: value for name, value in (loaded.task.config.generation_kwargs or {}).items() if name not in _LONGEST
    }
    loaded.task.set_config("generation_kwargs", {**others, _LONGEST[0]: max_new_tokens})
    said = f"answers end after {max_new_tokens:,} new tokens, not after the definition's {longest:,}"
    return loaded._replace(deviations=(*loaded.deviations, said))


def check_room(tasks: Mapping[str, LoadedTask], context: int, *, model: str) -> None:
    """Check that the longest answers leave room for a prompt. Raises ModelError, naming every task that leaves none."""
    lengths = {name: longest_answer(one.task) for name, one in tasks.items()}
    too_long = [f"{name} ({length:,} new tokens)" for name, length in lengths.items() if length and length >= context]
    if too_long:
        what = (
            f"a context of {context:,} tokens has no room for a prompt and the longest answer of {', '.join(too_long)}"
        )
        shorter = f"cut answers with --max-new-tokens {max(1, context // 2)} (max_new_tokens in a recipe)"
        raise ModelError(model, what, f"leave that out of --tasks, {shorter}, or use a model of longer context")
