"""Parameters of which the default tests run some, and `make test-all` all."""

from collections.abc import Iterable

import pytest
from _pytest.mark.structures import ParameterSet

# One of each kind of layers; the others differ from these in settings.
KINDS = {"mistral", "mixtral", "gemma2", "gpt2", "granite", "mamba", "qwen3_next"}


def slow(*values: object) -> ParameterSet:
    """One case that is slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


def of_each_kind(names: Iterable[str]) -> list[str | ParameterSet]:
    """The architectures, those that are of the kind of another one slow."""
    return [name if name in KINDS else slow(name) for name in names]
