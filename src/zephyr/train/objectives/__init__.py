"""Objectives by name. To add one: its loss in ``train.losses``, a dataclass here, a row in ``OBJECTIVES``."""

from __future__ import annotations

from collections.abc import Mapping

from zephyr.data.tokenize.token_store import Example
from zephyr.errors import RecipeError, did_you_mean
from zephyr.train.losses.pairs import PAIR_LOSSES
from zephyr.train.objectives.base import Metric, Objective, Scored, Totals
from zephyr.train.objectives.dpo import Dpo
from zephyr.train.objectives.kto import Kto
from zephyr.train.objectives.listwise import Listwise
from zephyr.train.objectives.options import Option, option_fields, option_problems
from zephyr.train.objectives.reference_free import Cpo, Orpo, Simpo
from zephyr.train.objectives.sft import Sft

__all__ = ["OBJECTIVES", "Example", "Metric", "Objective", "Scored", "Totals", "build_objective"]

OBJECTIVES: dict[str, type[Objective]] = {kind.name: kind for kind in (Sft, Dpo, Simpo, Cpo, Kto, Orpo, Listwise)}


def build_objective(name: str, options: Mapping[str, Option]) -> Objective:
    """The objective of that name with these options; a RecipeError lists all that is wrong with them."""
    if name in PAIR_LOSSES and name not in OBJECTIVES:
        raise RecipeError("objective", f"'{name}' is a loss of dpo", f"name dpo and give it loss_type {name}")
    if name not in OBJECTIVES:
        nearest = did_you_mean(name, OBJECTIVES).removeprefix("; ")
        raise RecipeError("objective", f"there is none named '{name}'", nearest)
    kind = OBJECTIVES[name]
    problems = option_problems(kind, options)
    if problems:
        takes = ", ".join(option_fields(kind)) or "no options"
        raise RecipeError(f"objective {name}", "; ".join(problems), f"it takes {takes}")
    return kind(**options)
