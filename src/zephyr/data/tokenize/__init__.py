"""Rows to tokens: chat templates, loss masks, truncation, and token stores on disk."""
