"""`fastest` in a recipe: what it stands for, that it is kept for a run, and that nothing else of the recipe changes."""

from pathlib import Path

import pytest

from tests.mini import mini_fields
from zephyr.errors import RecipeError
from zephyr.estimate.devices import ACCELERATORS
from zephyr.estimate.duration import Cluster
from zephyr.fastest import as_begun, as_begun_here, in_dtype
from zephyr.models import loading
from zephyr.models.matmul_speed import MatmulSpeed
from zephyr.plan import plan_lines
from zephyr.recipe.loading import load_recipe
from zephyr.recipe.schema import Recipe
from zephyr.runs.lock_file import write_lock_file


def recipe(folder: Path, *, pretrain: str = "float32", align: str = "fastest", answers: str | None = None) -> Recipe:
    fields = mini_fields(folder) | {"inference_dtype": answers}
    for stage, precision in (("pretrain", pretrain), ("align", align)):
        fields[stage]["train"] = fields[stage]["train"] | {"precision": precision}
    return Recipe.model_validate(fields)


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "bf16"), ("float32", "float32")])
def test_it_is_replaced_where_it_stands_and_nowhere_else(tmp_path: Path, dtype: str, precision: str) -> None:
    asking = recipe(tmp_path, align="fastest", answers="fastest")
    assert in_dtype(asking, dtype) == recipe(tmp_path, align=precision, answers=dtype)
    plain = recipe(tmp_path, align="pure_bf16", answers="float32")
    assert in_dtype(plain, dtype) == plain


@pytest.mark.parametrize(
    ("settings", "asks"),
    [
        ({"align": "bf16"}, False),
        ({"align": "fastest"}, True),
        ({"align": "bf16", "pretrain": "fastest"}, True),
        ({"align": "bf16", "answers": "fastest"}, True),
        ({"align": "bf16", "answers": "bfloat16"}, False),
    ],
)
def test_a_recipe_asks_in_any_stage(tmp_path: Path, settings: dict, asks: bool) -> None:
    assert recipe(tmp_path, **settings).asks_for_fastest is asks


def test_what_a_run_began_with_goes_before_what_this_machine_is_fast_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, folder = recipe(tmp_path), tmp_path / "mini"
    monkeypatch.setattr(loading, "matmul_speed", lambda: MatmulSpeed(float32=9e9, bfloat16=1e9))
    assert as_begun(asking, folder) == asking
    assert as_begun_here(asking) == recipe(tmp_path, align="float32")
    folder.mkdir()
    write_lock_file(folder, asking, {}, model_revision=None, hub_sources=[], measured="bfloat16")
    assert as_begun(asking, folder) == as_begun_here(asking) == recipe(tmp_path, align="bf16")


def test_a_misspelt_fastest_is_recognised() -> None:
    with pytest.raises(RecipeError, match="no such choice, got 'fastst'; did you mean 'fastest'"):
        load_recipe("quickstart", ["sft.train.precision=fastst"])


def test_a_plan_for_accelerators_counts_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "matmul_speed", lambda: MatmulSpeed(float32=9e9, bfloat16=1e9))
    cluster = Cluster(ACCELERATORS["h100-80g"], 1)

    def plan(precision: str) -> list[str]:
        made = recipe(tmp_path, align=precision)
        large = made.model.model_copy(update={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8})
        return list(plan_lines(made.model_copy(update={"model": large}), cluster, calibration_seconds=0.1))

    assert plan("fastest") == plan("bf16") != plan("float32")
