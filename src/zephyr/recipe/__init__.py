"""What a run is told: the schema of a recipe, and reading one from YAML. Knows no torch."""
