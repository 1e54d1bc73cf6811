"""The types of the Python API for editors and mypy, printed from the schema: `python -m zephyr.api.stub`."""

import inspect
import sys
from inspect import isclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from zephyr.api import feedback, running, training
from zephyr.recipe.section import Section

_HEAD = '''"""The types of the Python API, printed by `python -m zephyr.api.stub`: edit the schema instead."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal

from transformers import PreTrainedTokenizerBase

from zephyr.api.feedback import RowsResult as RowsResult
from zephyr.api.feedback import TeacherLike
from zephyr.api.inputs import ModelLike, RowsLike
from zephyr.api.running import EvaluationResult as EvaluationResult
from zephyr.api.running import RunResult as RunResult
from zephyr.api.settings import SettingValue
from zephyr.api.training import TrainingResult as TrainingResult
from zephyr.errors import ZephyrError as ZephyrError
from zephyr.recipe.section import Section
from zephyr.stages.stage import OnStep

__version__: str
'''


def stub() -> str:
    """The text of `zephyr/__init__.pyi`."""
    functions = [training.sft, training.dpo, training.orpo, training.kto, training.reward_model, training.align]
    written = [_text(one.__name__, one.__signature__, "TrainingResult", one.__doc__) for one in functions]
    for name, function, keywords in (
        ("generate", feedback.generate, feedback.FEEDBACK_KEYWORDS["generate"]),
        ("judge", feedback.judge, feedback.FEEDBACK_KEYWORDS["judge"]),
        ("binarize", feedback.binarize, feedback.FEEDBACK_KEYWORDS["binarize"]),
        ("evaluate", running.evaluate, running.EVALUATE_KEYWORDS),
    ):
        own = inspect.signature(function)
        written.append(_text(name, keywords.signature(own), own.return_annotation.__name__, function.__doc__))
    written.append(_text("run", inspect.signature(running.run), "RunResult", running.run.__doc__))
    return "\n".join([_HEAD, *written])


def _text(name: str, signature: inspect.Signature, returned: str, doc: str | None) -> str:
    lines = [f"def {name}("]
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    for number, parameter in enumerate(signature.parameters.values()):
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.KEYWORD_ONLY not in kinds[:number]:
            lines.append("    *,")
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        lines.append(f"    {stars}{parameter.name}: {_annotation(parameter.annotation)}{default},")
    body = inspect.cleandoc(doc or "").strip().replace("\n", "\n    ").replace("\n    \n", "\n\n")
    return "\n".join([*lines, f") -> {returned}:", f'    """{body}"""', ""])


def _default(value: object) -> str:
    return repr(value) if value is None or isinstance(value, bool | int | float | str) else "..."


def _annotation(annotation: object) -> str:
    """The type of a keyword as a caller may give it: mappings for sections, any path, any sequence."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if origin is Annotated:
        return _annotation(inner[0])
    parts = dict.fromkeys(map(_annotation, inner))
    if origin in (Union, UnionType):
        return " | ".join(parts)
    if origin in (list, dict):
        kind = "Sequence" if origin is list else "Mapping"
        return f"{kind}[{', '.join(map(_annotation, inner))}]"
    return _name(annotation)


def _name(annotation: object) -> str:
    if isclass(annotation) and issubclass(annotation, Section):
        return "Mapping[str, SettingValue] | Section"
    written = {NoneType: "None", Path: "str | PathLike[str]"}
    if isclass(annotation):
        return written.get(annotation, annotation.__name__)
    return str(annotation)


if __name__ == "__main__":
    sys.stdout.write(stub())
