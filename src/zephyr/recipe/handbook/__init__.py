"""Recipes of the alignment-handbook: `keys` recognises them, `translating` translates them."""
