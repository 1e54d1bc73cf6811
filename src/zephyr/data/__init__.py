"""Data: sources and mixtures, templates with their loss mask, truncation, token stores, filters, defects."""
