"""Zephyr turns a base language model into a chat model, and proves that it did."""

__version__ = "0.1.0.dev0"
