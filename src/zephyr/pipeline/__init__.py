"""A recipe as a run: which stages there are, what of them is done, and doing the rest. Unpacks recipes, alone here."""
