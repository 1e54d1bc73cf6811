"""How long the answers of tasks may be: cut short where that is asked for, refused where a model has no room."""

from __future__ import annotations

from collections.abc import Mapping

from lm_eval.models.utils import normalize_gen_kwargs  # type: ignore[import-untyped]

from zephyr.errors import ModelError
from zephyr.evaluate.harness.generated import DEFAULT_MAX_NEW_TOKENS
from zephyr.evaluate.harness.tasks import HarnessTask, LoadedTask

# What definitions call the greatest length; the first is lm-eval's own word.
_LONGEST = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def longest_answer(task: HarnessTask) -> int | None:
    """The most new tokens that the task lets a model write; None where it writes none."""
    if task.config.output_type != "generate_until":
        return None
    settings = normalize_gen_kwargs(dict(task.config.generation_kwargs or {}), DEFAULT_MAX_NEW_TOKENS)
    return int(settings["max_gen_toks"])


def cut_short(loaded: LoadedTask, max_new_tokens: int | None) -> LoadedTask:
    """The task with no answer longer than that, which is said as a deviation where the definition allows more."""
    longest = longest_answer(loaded.task)
    if max_new_tokens is None or longest is None or longest <= max_new_tokens:
        return loaded
    others = {
        name: value for name, value in (loaded.task.config.generation_kwargs or {}).items() if name not in _LONGEST
    }
    loaded.task.set_config("generation_kwargs", {**others, _LONGEST[0]: max_new_tokens})
    said = f"answers end after {max_new_tokens:,} new tokens, not after the definition's {longest:,}"
    return loaded._replace(deviations=(*loaded.deviations, said))


def refuse_without_room(tasks: Mapping[str, LoadedTask], context: int, *, model: str) -> None:
    """Nothing. Raises ModelError, naming every task whose longest answer leaves no room for a prompt."""
    lengths = {name: longest_answer(one.task) for name, one in tasks.items()}
    told = [f"{name} ({length:,} new tokens)" for name, length in lengths.items() if length and length >= context]
    if told:
        what = f"a context of {context:,} tokens has no room for a prompt and the longest answer of {', '.join(told)}"
        shorter = f"cut answers with --max-new-tokens {max(1, context // 2)} (max_new_tokens in a recipe)"
        raise ModelError(model, what, f"leave that out of --tasks, {shorter}, or use a model of longer context")
