"""Measurements of models, each with its interval."""
