"""Objectives by name and options, for tests that run over many of them."""

from typing import get_args

from zephyr.recipe.objective_section import AlignObjective, BradleyTerryObjective, SftObjective
from zephyr.train.objectives import Objective, build_objective

KINDS = (SftObjective, BradleyTerryObjective, *get_args(get_args(AlignObjective)[0]))
SECTIONS = {kind.model_fields["name"].default: kind for kind in KINDS}


def make_objective(name: str, options: dict[str, object] | None = None) -> Objective:
    return build_objective(SECTIONS[name](**(options or {})))
