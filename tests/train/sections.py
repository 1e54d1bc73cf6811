"""Objectives by name and options, for tests that run over many of them."""

from typing import get_args

from zephyr.recipe.objective_section import AlignObjective, SftObjective
from zephyr.train.objectives import Objective, build_objective

SECTIONS = {kind.model_fields["name"].default: kind for kind in (SftObjective, *get_args(get_args(AlignObjective)[0]))}


def make_objective(name: str, options: dict[str, object] | None = None) -> Objective:
    return build_objective(SECTIONS[name](**(options or {})))
