"""The facts of a stage in words, as they are printed."""

from collections.abc import Iterator

from zephyr.recipe.section import Plain
from zephyr.runs.stage_folder import Facts

# Facts that count what was not used or teaches nothing, by reason, and what they are called.
_LEFT_OUT = {
    "left_out": "left out",
    "unused_columns": "columns not used",
    "noted": "noted",
    "filtered_out": "filtered out",
    "dropped": "prompts without a row",
    "defects": "defects of the rows",
    "answers_left_out": "answers left out",
}


# The facts that are printed of a finished stage, the most telling first; the others stand in its file.
_MOST_FACTS = 5
_TELLING = (
    "steps", "examples", "eval_rewards/accuracies", "eval_loss", "loss", "pairs", "listwise", "kto", "prompts",
    "preference/accuracy", "answered", "asked", "dialogues", "instructions", "texts", "rows", "tokens",
)  # fmt: skip
# What a user must not miss.
_ALWAYS_TOLD = ("truncation", "held_out_prompts_trained_on", "missing", "failed", "left_out")
_NOTHING_CUT = "0 cut, 0 left out"


def facts_in_words(facts: Facts) -> str:
    """The facts that are plain numbers or texts, in a line."""
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in _plain(facts).items())


def telling_facts(facts: Facts, file: str) -> str:
    """The five most telling of the plain facts in a line, what was cut, and where the others stand: in `file`."""
    plain = _plain(facts)
    if plain.get("truncation") == _NOTHING_CUT:
        del plain["truncation"]
    if len(plain) <= _MOST_FACTS:
        return facts_in_words(plain)
    ranked = [*_ALWAYS_TOLD, *_TELLING]
    chosen = sorted(plain, key=lambda name: ranked.index(name) if name in ranked else len(ranked))[:_MOST_FACTS]
    told = facts_in_words({name: value for name, value in plain.items() if name in chosen})
    return f"{told}; all facts: {file}"


def _plain(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if not isinstance(value, dict | list)}


def left_out_lines(facts: Facts) -> Iterator[str]:
    """A line for every place where rows, columns or answers were not used or teach nothing: how many, and why."""
    for name, words in _LEFT_OUT.items():
        counts = facts.get(name)
        if not isinstance(counts, dict):
            continue
        here: dict[str, Plain] = {reason: count for reason, count in counts.items() if not isinstance(count, dict)}
        if here:
            yield f"{words}: {_counted(here)}"
        for place, reasons in counts.items():
            if isinstance(reasons, dict):
                yield f"{words}, {place}: {_counted(reasons)}"


def _counted(reasons: dict[str, Plain]) -> str:
    return ", ".join(f"{_number(count)} x {reason}" for reason, count in reasons.items())


def _number(value: Plain) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
