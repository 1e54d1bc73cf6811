"""Zephyr turns a base language model into a chat model, and proves that it did.

The Python API: `zephyr.sft`, `dpo`, `orpo`, `kto`, `reward_model`, `align`, `generate`, `judge`, `binarize`, `evaluate`
and `run`. Each is loaded when it is first used; parameters are written out for editors and mypy in `__init__.pyi`.
"""

from importlib import import_module

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


def __getattr__(name: str) -> object:
    """The function or class of the API, loaded now. Raises AttributeError for any other name."""
    if name not in _API:
        raise AttributeError(f"module 'zephyr' has no attribute {name!r}")
    return getattr(import_module(_API[name]), name)


def __dir__() -> list[str]:
    return [*__all__]
