"""Zephyr turns a base language model into a chat model, and proves that it did.

The Python API: `zephyr.sft`, `dpo`, `orpo`, `kto`, `reward_model`, `align`, `generate`, `judge`, `binarize`, `evaluate`
and `run`. Each is loaded when it is first used; parameters are written out for editors and mypy in `__init__.pyi`.
"""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0.dev0"

_API = {
    "align": "zephyr.api.training",
    "binarize": "zephyr.api.feedback",
    "dpo": "zephyr.api.training",
    "evaluate": "zephyr.api.running",
    "generate": "zephyr.api.feedback",
    "judge": "zephyr.api.feedback",
    "kto": "zephyr.api.training",
    "orpo": "zephyr.api.training",
    "reward_model": "zephyr.api.training",
    "run": "zephyr.api.running",
    "sft": "zephyr.api.training",
    "EvaluationResult": "zephyr.api.running",
    "RowsResult": "zephyr.api.feedback",
    "RunResult": "zephyr.api.running",
    "TrainingResult": "zephyr.api.training",
    "ZephyrError": "zephyr.errors",
}
__all__ = ["__version__", *_API]  # noqa: PLE0604  # the keys are text


class _Function(ModuleType):
    """A module with the name of a function of the API, which it is called as: `zephyr.run`, `zephyr.evaluate`."""

    def __call__(self, *positional: object, **named: object) -> object:
        """What the function returns."""
        return _function(self.__name__.rpartition(".")[2])(*positional, **named)

    @property
    def __signature__(self) -> object:
        """That of the function."""
        return import_module("inspect").signature(_function(self.__name__.rpartition(".")[2]))


class _Package(ModuleType):
    """The type of this package: a module that is imported into it under the name of a function stays callable."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _API and isinstance(value, ModuleType):
            value.__class__ = _Function
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    """The function or class of the API, loaded now. Raises AttributeError for any other name."""
    if name not in _API:
        raise AttributeError(f"module 'zephyr' has no attribute {name!r}")
    return _function(name)


def _function(name: str) -> object:
    return getattr(import_module(_API[name]), name)


def __dir__() -> list[str]:
    return [*__all__]
