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


def facts_in_words(facts: Facts) -> str:
    """The facts that are plain numbers or texts, in a line."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_number(value)}"
        for name, value in facts.items()
        if not isinstance(value, dict | list)
    )


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
