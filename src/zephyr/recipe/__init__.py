"""Recipes: every setting declared once, as frozen records that all code below uses; reading them from YAML. No torch."""
