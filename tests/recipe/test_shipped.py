import math
import re
from typing import NamedTuple

import pytest

from zephyr.errors import RecipeError
from zephyr.recipe import shipped
from zephyr.recipe.loading import load_recipe, resolved_yaml
from zephyr.recipe.shipped import copy_recipe, find_shipped, shipped_recipes

ULTRACHAT = 207_865
PACKED_ULTRACHAT = 139_000


class Published(NamedTuple):
    """The numbers of a published alignment run."""

    base: str
    beta: float
    learning_rate: float
    epochs: int
    batch: int
    schedule: str
    warmup: float  # a share below 1, steps above
    lengths: tuple[int, int | None]
    optim: str = "adamw_torch"


ALIGN = {
    "zephyr-7b-alpha": Published("mistralai/Mistral-7B-v0.1", 0.05, 5e-7, 1, 32, "linear", 0.1, (1024, 512)),
    "zephyr-7b-beta": Published("mistralai/Mistral-7B-v0.1", 0.1, 5e-7, 3, 32, "linear", 0.1, (1024, 512)),
    "zephyr-7b-beta-handbook": Published("mistralai/Mistral-7B-v0.1", 0.01, 5e-7, 1, 128, "cosine", 0.1, (1024, 512)),
    "zephyr-7b-beta-qlora": Published("mistralai/Mistral-7B-v0.1", 0.01, 5e-6, 1, 128, "cosine", 0.1, (1024, 512)),
    "zephyr-141b-a39b-orpo": Published(
        "mistral-community/Mixtral-8x22B-v0.1", 0.05, 5e-6, 3, 32, "inverse_sqrt", 100, (2048, 1792), "adamw_8bit"
    ),
    "mistral-7b-orpo": Published("mistralai/Mistral-7B-v0.1", 0.1, 5e-6, 5, 32, "inverse_sqrt", 200, (2048, 1792)),
    "smollm2-1.7b": Published("HuggingFaceTB/SmolLM2-1.7B", 0.5, 1e-6, 3, 128, "cosine", 0.1, (1024, 512)),
    "smollm2-360m": Published("HuggingFaceTB/SmolLM2-360M", 0.5, 1e-6, 2, 128, "cosine", 0.1, (1024, 512)),
    "smollm3-apo": Published(
        "HuggingFaceTB/SmolLM3-3B-checkpoints", 0.05, 1e-6, 1, 32, "cosine_with_min_lr", 0.1, (24576, None)
    ),
    "zephyr-7b-gemma": Published("google/gemma-7b", 0.05, 5e-7, 2, 128, "cosine", 0.1, (1024, 512)),
    "starchat2-15b": Published("bigcode/starcoder2-15b", 0.05, 5e-7, 2, 128, "cosine", 0.1, (1024, 512)),
    "constitutional-ai": Published(
        "mistralai/Mistral-7B-v0.1", 0.1, 5e-7, 3, 16, "linear", 0.1, (1024, 512), "rmsprop"
    ),
}
# Learning rate, epochs, batch in packed sequences, and their length.
SFT = {
    "zephyr-7b-alpha": (2e-5, 1, 512, 2048),
    "zephyr-7b-beta": (2e-5, 1, 512, 2048),
    "zephyr-7b-beta-handbook": (2e-5, 1, 128, 2048),
    "zephyr-7b-beta-qlora": (2e-4, 1, 64, 2048),
    "smollm2-1.7b": (3e-4, 2, 128, 8192),
    "smollm2-360m": (1e-3, 2, 128, 8192),
    "zephyr-7b-gemma": (2e-5, 3, 128, 2048),
    "starchat2-15b": (2e-5, 3, 128, 2048),
    "constitutional-ai": (2e-5, 1, 256, 2048),
}
OURS = {"quickstart", "real-small", "first-real", "gemma3-270m-zephyr", "smollm2-135m-checked"}


def steps(rows, recipe):
    train = recipe.align.train
    return math.ceil(rows / train.train_batch_size) * int(train.num_train_epochs)


def test_seventeen_recipes_come_with_zephyr():
    names = {recipe.name for recipe in shipped_recipes()}
    assert names == ALIGN.keys() | OURS
    assert len(names) == 17


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=lambda recipe: recipe.name)
def test_every_recipe_loads_and_says_what_it_needs(recipe, tmp_path):
    loaded = load_recipe(recipe.name)
    assert loaded.name == recipe.name
    words = [word for word, _ in re.findall(r"(?m)^(Machine|Time|Source|Differs): (.{10})", "\n".join(recipe.header))]
    assert words == ["Machine", "Time", "Source", "Differs"]
    assert len(recipe.summary) > 20
    text = recipe.path.read_text()
    assert max(map(len, text.splitlines())) <= 120
    assert not re.search(r"(?<![\d.])\d+e-\d", text)  # which PyYAML reads as text
    written = tmp_path / "resolved.yaml"
    written.write_text(resolved_yaml(loaded))
    assert load_recipe(str(written)) == loaded


@pytest.mark.parametrize("name", ALIGN)
def test_alignment_has_the_published_numbers(name):
    recipe, published = load_recipe(name), ALIGN[name]
    align, train = recipe.align, recipe.align.train
    warmup = train.warmup_ratio if train.warmup_steps is None else train.warmup_steps
    assert (
        Published(
            recipe.model.name_or_path,
            align.objective.beta,
            train.learning_rate,
            int(train.num_train_epochs),
            train.train_batch_size,
            train.lr_scheduler_type,
            warmup,
            (align.data.max_length, align.data.max_prompt_length),
            train.optim,
        )
        == published
    )
    assert (align.objective.name == "orpo") == name.endswith("orpo")
    assert recipe.seed == 42


@pytest.mark.parametrize("name", SFT)
def test_sft_has_the_published_numbers(name):
    sft = load_recipe(name).sft
    train = sft.train
    assert (train.learning_rate, train.num_train_epochs, train.train_batch_size, sft.data.max_length) == SFT[name]
    assert (train.lr_scheduler_type, train.warmup_ratio) == ("cosine", 0.1)
    assert (sft.objective.loss_on, sft.batch_counts) == ("everything", "packed")


def test_the_other_recipes_have_no_sft():
    assert {name for name in ALIGN if load_recipe(name).sft is None} == ALIGN.keys() - SFT.keys()


def test_steps_are_those_of_the_cards():
    assert steps(61_966, load_recipe("zephyr-7b-alpha")) == 1937
    assert steps(61_966, load_recipe("zephyr-7b-beta")) == 5811
    assert steps(61_135, load_recipe("zephyr-7b-beta-handbook")) == 478
    assert steps(7_563, load_recipe("zephyr-141b-a39b-orpo")) == 711
    mean_tokens = PACKED_ULTRACHAT * 2048 / ULTRACHAT
    sft = load_recipe("zephyr-7b-beta-handbook").sft
    assert round(ULTRACHAT / sft.dialogues_per_step(mean_tokens), -1) == 1090


@pytest.mark.parametrize(
    "name", ["zephyr-7b-alpha", "zephyr-7b-beta", "zephyr-7b-beta-handbook", "zephyr-7b-beta-qlora"]
)
def test_zephyrs_are_laid_out_as_in_2023(name):
    recipe = load_recipe(name)
    for stage in ("sft", "align"):
        template = recipe.template_of(stage)
        assert (template.name, template.empty_system, template.extra_eos, template.legacy_space) == (
            "zephyr", True, True, True,
        )  # fmt: skip
    assert recipe.template_of("sft").bos is True
    # TRL began prompts with a bos token from 0.7.5 on, which the handbook's second recipe used.
    assert recipe.template_of("align").bos is (name not in ("zephyr-7b-alpha", "zephyr-7b-beta"))
    assert recipe.align.data.truncation.rule == "trl_0.7"


def test_alpha_draws_its_pairs_as_then():
    binarize = load_recipe("zephyr-7b-alpha").feedback.binarize
    assert (binarize.chosen, binarize.rejected, binarize.repair_overall) == ("overall", "random", False)


def test_qlora_has_the_published_adapters():
    recipe = load_recipe("zephyr-7b-beta-qlora")
    assert [(lora.r, lora.lora_alpha, lora.load_in_4bit) for lora in (recipe.sft.lora, recipe.align.lora)] == [
        (16, 16, True),
        (128, 128, True),
    ]


def test_smollm3_takes_shares_of_its_data():
    recipe = load_recipe("smollm3-apo")
    assert [source.weight for source in recipe.align.data.sources] == [0.5, 0.25]
    assert (recipe.align.objective.loss_type, recipe.align.train.max_grad_norm) == ("apo_zero", 0.2)


@pytest.mark.parametrize("name", ALIGN)
def test_no_shipped_recipe_trains_on_test_rows(name):
    recipe = load_recipe(name)
    stages = [getattr(recipe, stage).data for stage in recipe.stages if stage in ("sft", "align")]
    assert not [source.split for data in stages for source in data.sources if "test" in source.split]


def test_a_copy_never_writes_over_a_file(tmp_path):
    copied = copy_recipe("zephyr-7b-beta", tmp_path / "new")
    assert copied.read_bytes() == find_shipped("zephyr-7b-beta").path.read_bytes()
    copied.write_text("mine")
    with pytest.raises(RecipeError, match="already exists"):
        copy_recipe("zephyr-7b-beta", tmp_path / "new")
    assert copied.read_text() == "mine"
    with pytest.raises(RecipeError, match="is not a folder"):
        copy_recipe("zephyr-7b-beta", copied)


def test_an_unknown_name_is_told_with_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'smollm3-apo'"):
        copy_recipe("smollm3-ap", tmp_path)


def test_recipes_are_looked_for_in_the_package_first(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "mine.yaml").write_text("# Mine: a recipe.\nname: mine\n")
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path / "inside", *shipped.FOLDERS))
    assert [(recipe.name, recipe.summary) for recipe in shipped_recipes()] == [("mine", "Mine: a recipe.")]


def test_a_file_that_stands_beside_the_misspelt_one_is_what_was_meant(tmp_path):
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(RecipeError, match=r"did you mean 'mine\.yaml'"):
        find_shipped(str(tmp_path / "mine.yml"))
    with pytest.raises(RecipeError, match="did you mean 'quickstart'"):
        find_shipped(str(tmp_path / "quickstat.yaml"))
