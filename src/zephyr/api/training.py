"""Training from Python: `zephyr.sft`, `dpo`, `orpo`, `kto` and `align`, and what they return."""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from zephyr.api.inputs import OUTPUT_DIR, ModelLike, RowsLike, model_name, sources_of
from zephyr.api.settings import Keywords, SettingValue
from zephyr.recipe.outline import Keys
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.recipe.stage_sections import ALIGN, REWARD, SFT
from zephyr.runs.disk import disk_faults
from zephyr.runs.layout import ADAPTER, MODEL, OUTCOME, TRAIN, TRAIN_LOG

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from zephyr.stages.stage import OnStep


# How a notebook shows a training: the curves that a reader looks at first, where its log has them.
_WIDTH, _HEIGHT = 480, 120
_CURVES = ("loss", "eval_loss", "rewards/accuracies", "rewards/margins")
_STYLE = "fill:none;stroke:currentColor;stroke-width:1.5"


@dataclass(frozen=True)
class TrainingResult:
    """A finished training: `folder` is that of its stage, with the model, the log and `stage.json`."""

    folder: Path

    @property
    def model_folder(self) -> Path:
        """The folder of the trained model, whole: adapters are merged in."""
        return self.folder / MODEL

    @property
    def adapter_folder(self) -> Path | None:
        """The folder of the trained adapters; None without LoRA."""
        return self.folder / ADAPTER if (self.folder / ADAPTER).is_dir() else None

    @property
    def is_reward_model(self) -> bool:
        """Whether the model gives a number for an answer."""
        return self.folder.name.startswith(f"{REWARD}-")

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The trained model, loaded when it is first asked for."""
        from zephyr.models.loading import load_model
        from zephyr.models.reward_model import load_reward_model
        from zephyr.models.source import Source, load_config

        source = Source(str(self.model_folder), offline=True)
        dtype = str(load_config(source).dtype).removeprefix("torch.")
        return load_reward_model(source, dtype=dtype) if self.is_reward_model else load_model(source, dtype=dtype)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of the trained model, with its chat template."""
        from zephyr.models.source import Source
        from zephyr.models.tokenizers import load_tokenizer

        return load_tokenizer(Source(str(self.model_folder), offline=True))

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the last step, or of the best evaluation; those of an evaluation begin with `eval_`."""
        outcome = json.loads((self.folder / OUTCOME).read_bytes())
        return {name: value for name, value in outcome.items() if isinstance(value, int | float)}

    @property
    def log(self) -> "DataFrame | list[dict[str, float]]":
        """A row for every logged step: a DataFrame if pandas is installed, else a list."""
        try:
            from pandas import DataFrame
        except ImportError:
            return self._logged()
        return DataFrame(self._logged())

    def _logged(self) -> list[dict[str, float]]:
        lines = (self.folder / TRAIN / TRAIN_LOG).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _repr_html_(self) -> str:
        """What a notebook shows: the curves of the training."""
        return _training_html(self.folder, self.metrics, self._logged())


class TrainingFunction:
    """A function that trains a model by a recipe with one stage, which runs as `zephyr run` runs it.

    ``objective``: the one that it stands for; None for that of the stage, or for one that the settings name.
    """

    def __init__(self, name: str, stage: str, objective: str | None, summary: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__doc__ = f"""{summary}

        The recipe's settings of stage `{stage}`, of the model and of the whole run are keywords. The result has
        `.folder`, `.model`, `.metrics` and `.log`. Raises ZephyrError with the message that the command prints.
        """
        self.stage = stage
        self.keywords = training_keywords(name, stage, objective)

    @cached_property
    def __signature__(self) -> inspect.Signature:
        """With the recipe's settings as keywords."""
        return self.keywords.signature(inspect.signature(type(self).__call__))

    def __call__(
        self,
        model: "ModelLike",
        dataset: "RowsLike",
        *,
        eval_dataset: "RowsLike | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        on_step: "OnStep | None" = None,
        quiet: bool = False,
        **settings: SettingValue,
    ) -> TrainingResult:
        """The result of the training. Raises ZephyrError."""
        settings = {"name": _run_name(self.__name__, model), "output_dir": OUTPUT_DIR, **settings}
        recipe = self.keywords.recipe(settings)  # mistakes first: before a model or a row is written
        folder = recipe.output_dir / recipe.name
        data = {
            **self.keywords.data,
            ("model", "name_or_path"): model_name(model, tokenizer, folder),
            (self.stage, "data", "sources"): sources_of(dataset, folder),
        }
        if eval_dataset is not None:
            data[self.stage, "data", "eval_sources"] = sources_of(eval_dataset, folder)
        recipe = replace(self.keywords, data=data).recipe({**_lora_of(model, settings), **settings})
        return TrainingResult(run_stage(recipe, self.stage, on_step, quiet=quiet))


def training_keywords(function: str, stage: str, objective: str | None) -> Keywords:
    """The keywords of a function that trains. ``objective``: the one that it stands for."""
    made: dict[Keys, Plain] = {
        ("model", "kind"): "pretrained",
        ("model", "name_or_path"): "model",
        (stage, "data", "sources"): [{"path": "dataset"}],
        (stage, "data", "eval_sources"): [],
    }
    if objective is not None:
        made[stage, "objective", "name"] = objective
    objective_home: list[Keys] = [] if objective is None else [(stage, "objective")]
    homes: list[Keys] = [(stage, "train"), *objective_home, (stage, "data"), (stage,), ("model",), ()]
    return Keywords(function, homes, made)


sft = TrainingFunction("sft", SFT, "sft", "Supervised fine-tuning on dialogues.")
dpo = TrainingFunction(
    "dpo", ALIGN, "dpo", "Direct preference optimization on pairs; the reference is the model as given."
)
orpo = TrainingFunction("orpo", ALIGN, "orpo", "Odds-ratio preference optimization on pairs, without a reference.")
kto = TrainingFunction("kto", ALIGN, "kto", "Kahneman-Tversky optimization on single answers with a label.")
reward_model = TrainingFunction("reward_model", REWARD, "bradley_terry", "A reward model that learns from pairs.")
align = TrainingFunction("align", ALIGN, None, 'Preference training by any objective: objective={"name": "simpo"}.')


def run_stage(recipe: Recipe, stage: str, on_step: "OnStep | None", *, quiet: bool) -> Path:
    """The folder of the stage, after the whole recipe has run as the command runs it."""
    from zephyr.pipeline import run_recipe, stage_keys

    with disk_faults(recipe.output_dir):
        summary = run_recipe(recipe, console=Console(quiet=quiet), on_step=on_step)
    made = summary.get("folders")
    name = made[stage] if isinstance(made, dict) else stage_keys(recipe)[stage].folder_name
    return recipe.output_dir / recipe.name / str(name)


def _lora_of(model: ModelLike, settings: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
    """The adapters to train of a peft model: new ones like its own, unless the settings say something of them."""
    if "lora" in settings or not hasattr(model, "peft_config"):
        return {}
    from zephyr.models.adapters import lora_of

    return {"lora": lora_of(model)}


def _run_name(function: str, model: ModelLike) -> str:
    """The name of a run that was given none: the function and the model."""
    named = getattr(model, "model_folder", None) or getattr(getattr(model, "config", None), "_name_or_path", None)
    path = Path(str(model if isinstance(model, str | Path) else named or "model"))
    last = path.parent.parent.name if path.name == MODEL and len(path.parts) > 2 else path.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{function}-{last or 'model'}")[:80]


def _training_html(folder: Path, metrics: Mapping[str, float], log: Sequence[Mapping[str, float]]) -> str:
    """The HTML of a training: folder, curves, and a table of its numbers."""
    curves = "".join(_curve(name, log) for name in _CURVES)
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{value:.4g}</td></tr>" for name, value in metrics.items())
    numbers = f"<details><summary>numbers</summary><table>{cells}</table></details>"
    return f"<p><code>{escape(str(folder))}</code></p>{curves}{numbers}"


def _curve(name: str, log: Sequence[Mapping[str, float]]) -> str:
    """One curve over the steps; empty where the log has fewer than two points of it."""
    points = [(line["step"], line[name]) for line in log if isinstance(line.get(name), int | float)]
    if len(points) < 2:
        return ""
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    across, up = (steps[-1] - steps[0]) or 1, (high - low) or 1
    places = (
        f"{(step - steps[0]) / across * _WIDTH:.1f},{(high - value) / up * _HEIGHT:.1f}" for step, value in points
    )
    said = f"{name}: {values[0]:.4g} to {values[-1]:.4g} over {len(points)} points"
    return (
        f'<figure><figcaption>{escape(said)}</figcaption><svg role="img" aria-label="{escape(said)}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="-2 -2 {_WIDTH + 4} {_HEIGHT + 4}">'
        f'<polyline style="{_STYLE}" points="{" ".join(places)}"/></svg></figure>'
    )
