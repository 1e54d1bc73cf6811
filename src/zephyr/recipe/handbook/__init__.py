"""Recipes of the alignment-handbook, translated: what this package gives is `is_handbook` and `translate`."""

from zephyr.recipe.handbook.translating import Translated, is_handbook, is_old_key, translate

__all__ = ["Translated", "is_handbook", "is_old_key", "translate"]
