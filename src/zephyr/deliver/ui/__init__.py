"""The chat page: one model, or two that are voted on without knowing which is which."""
