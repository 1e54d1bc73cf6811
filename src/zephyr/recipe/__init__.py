"""Recipes: every setting declared once, as frozen records that all other code uses; reading them. Knows no torch."""
