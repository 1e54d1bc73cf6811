"""Whatever a file or an override holds, it is a recipe or a RecipeError, and the message fits a screen."""

import tempfile
from pathlib import Path

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.recipe.recipe_files import SMALL
from zephyr.errors import RecipeError
from zephyr.recipe.loading import load_recipe, resolved_yaml
from zephyr.recipe.outline import all_keys
from zephyr.recipe.schema import Recipe

KEYS = sorted({*all_keys(Recipe), "evaluate.tasks.0.num_prompts", "evaluate.tasks.1", "sft.data.sources.0.path"})
HANDBOOK = yaml.safe_load((Path(__file__).parent / "handbook" / "dpo_qlora_2024.yaml").read_text())

words = st.text(max_size=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def check(text: str | bytes, *overrides: str) -> None:
    """Fails on anything but a RecipeError of five lines, or a recipe that survives being written out."""
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(content)
        try:
            recipe = load_recipe(str(path), overrides)
        except RecipeError as error:
            printed = str(error)
        else:
            path.write_text(resolved_yaml(recipe), encoding="utf-8")
            assert load_recipe(str(path)) == recipe
            printed = ""
    assert len(printed.splitlines()) <= 5


@given(st.binary(max_size=200) | st.text(max_size=200))
@example("\x85")
@example('name: "\\ud800"\n')
@example("%YAML 9.9\n---\na: 1")
@settings(max_examples=80)
def test_any_text(text):
    check(text)


@given(st.sampled_from(KEYS), plain)
@example("name", "\ud800")
@example("description", "\x00")
@example("sft.train", {"learning_rate": 1e-300, "": 1})
@example("sft.data.sources", [None, {}])
@settings(max_examples=100)
def test_any_value_at_any_key(key, value):
    check(SMALL, f"{key}={yaml.safe_dump(value, default_flow_style=True)}")


@given(st.lists(st.tuples(st.sampled_from(KEYS) | words, words).map("=".join) | words, max_size=4))
@settings(max_examples=80)
def test_any_words_as_overrides(overrides):
    check(SMALL, *overrides)


@given(
    st.dictionaries(
        st.sampled_from(["name", "model", "sft", "align", "evaluate", "feedback"]) | words, plain, max_size=5
    )
)
@settings(max_examples=80)
def test_any_mapping(data):
    check(yaml.safe_dump(data))


@given(st.dictionaries(st.sampled_from(sorted(HANDBOOK)) | words, plain, min_size=1, max_size=3))
@settings(max_examples=100)
def test_any_value_in_a_handbook_recipe(changed):
    check(yaml.safe_dump({**HANDBOOK, **changed}))
