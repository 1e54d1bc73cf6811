"""Profiles: the tasks of a leaderboard or a model card with their shots, main scores and caveats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Wanted(NamedTuple):
    """A task by name, and its shots if they are not the definition's own."""

    name: str
    shots: int | None = None


class Entry(NamedTuple):
    """A task of a profile: its main score and caveats."""

    task: str
    shots: int
    metric: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """Tasks that are shown together, means over some of their scores, and judged benchmarks beside them."""

    entries: tuple[Entry, ...]
    averages: tuple[tuple[str, tuple[str, ...]], ...] = ()
    judged: tuple[str, ...] = ()


_GSM8K_NOTE = (
    "the leaderboard of 2023 stopped an answer at its first ':', which cut off steps after a colon: "
    "its numbers (12.74 for zephyr-7b-beta) are no target for this one"
)
_DROP_NOTE = (
    "an answer stops at its first '.', also inside a number, and a number before a line break never matches: "
    "the leaderboard dropped the task for this on 1 December 2023"
)
_LEADERBOARD = (
    Entry("arc_challenge", 25, "acc_norm"),
    Entry("hellaswag", 10, "acc_norm"),
    Entry("mmlu", 5, "acc/mean_of_subjects"),
    Entry("truthfulqa_mc2", 0, "acc"),
    Entry("winogrande", 5, "acc"),
    Entry("gsm8k", 5, "exact_match/strict-match", (_GSM8K_NOTE,)),
    Entry("drop", 3, "f1", (_DROP_NOTE,)),
)
_IFEVAL = Entry("ifeval", 0, "prompt_level_strict_acc")
_SIX = tuple(entry.task for entry in _LEADERBOARD[:6])

PROFILES = {
    "open-llm-leaderboard-v1": Profile(
        _LEADERBOARD,
        (("mean of seven tasks", (*_SIX, "drop")), ("mean of six tasks, without DROP", _SIX)),
    ),
    "ifeval": Profile((_IFEVAL,)),
    "zephyr-card": Profile(
        (*_LEADERBOARD, _IFEVAL),
        (("mean of seven tasks", (*_SIX, "drop")), ("mean of six tasks, without DROP", _SIX)),
        ("mt_bench", "alpaca_eval_1"),
    ),
}


# Benchmarks that a judge rates, by the names they may be requested by.
JUDGED = {
    "mt_bench": "mt_bench",
    "alpaca_eval": "alpaca_eval_2",
    "alpaca_eval_1": "alpaca_eval_1",
    "alpaca_eval_2": "alpaca_eval_2",
}


def judged_names(names: Sequence[str]) -> list[str]:
    """The judged benchmarks that names of benchmarks and profiles stand for, each once."""
    found: dict[str, None] = {}
    for name in names:
        brought = [JUDGED[name]] if name in JUDGED else PROFILES[name].judged if name in PROFILES else ()
        found.update(dict.fromkeys(brought))
    return list(found)


def expand(names: Sequence[str], shots: int | None) -> list[Wanted]:
    """lm-eval's tasks that names of tasks and profiles stand for, each once; `shots` overrides those of a profile.

    A task keeps the shots of the first name that brings it in; named by itself, those of its definition.
    """
    found: dict[str, Wanted] = {}
    for name in (one for one in names if one not in JUDGED):
        profile = PROFILES.get(name)
        members = [Wanted(one.task, one.shots) for one in profile.entries] if profile else [Wanted(name)]
        for task, usual in members:
            found.setdefault(task, Wanted(task, usual if shots is None else shots))
    return list(found.values())


def main_metric(task: str, metrics: Sequence[str]) -> str:
    """The metric by which a task is known: that of the profiles, or the first that it has."""
    known = [entry.metric for profile in PROFILES.values() for entry in profile.entries if entry.task == task]
    return next((metric for metric in known if metric in metrics), metrics[0])


def notes_of(task: str) -> tuple[str, ...]:
    """The caveats of a task's score."""
    notes = [entry.notes for profile in PROFILES.values() for entry in profile.entries if entry.task == task]
    return notes[0] if notes else ()
