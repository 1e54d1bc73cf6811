"""Objectives: what one is (`base`), and the ones there are (`table`)."""

from zephyr.train.objectives.base import Metric, Objective, Scored, Totals
from zephyr.train.objectives.table import OBJECTIVES, build_objective

__all__ = ["OBJECTIVES", "Metric", "Objective", "Scored", "Totals", "build_objective"]
