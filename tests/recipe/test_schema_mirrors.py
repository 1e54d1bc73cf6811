"""The schema repeats what training takes, because it may not import it: nothing may be missing, nothing differ."""

import dataclasses
from typing import Literal, get_args, get_origin

import pytest
from pydantic_core import PydanticUndefined

from zephyr.models.adapters import LoraSettings
from zephyr.recipe import train_section
from zephyr.recipe.conflicts import LOSSES_OF_OPTIONS
from zephyr.recipe.train_section import AlignObjective, LoraSection, SftObjective, TrainSection
from zephyr.train.losses.pairs import PAIR_LOSSES
from zephyr.train.losses.ratios import DIVERGENCES
from zephyr.train.objectives import OBJECTIVES, build_objective
from zephyr.train.objectives.reference_free import SIMPO_LOSSES
from zephyr.train.optimizers import OPTIMIZERS
from zephyr.train.schedules import SCHEDULES
from zephyr.train.settings import DTYPES, TrainSettings
from zephyr.train.tracker import TRACKERS

VARIANTS = {variant.model_fields["name"].default: variant for variant in get_args(get_args(AlignObjective)[0])}
# Where a recipe has a default and a Python caller must choose, or the other way round.
CHOSEN = {"precision", "logging_steps", "save_seconds"}


def defaults_of_section(section: type) -> dict[str, object]:
    return {
        name: None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
        for name, field in section.model_fields.items()
    }


def defaults_of_dataclass(kind: type) -> dict[str, object]:
    return {
        field.name: PydanticUndefined if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(kind)
    }


def test_training_takes_every_setting_of_a_recipe_under_its_name():
    ours, theirs = defaults_of_section(TrainSection), defaults_of_dataclass(TrainSettings)
    assert theirs.keys() - ours.keys() == {"seed", "shuffle"}
    assert ours.keys() <= theirs.keys()
    ours["report_to"] = tuple(ours["report_to"])
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing == {"learning_rate", *CHOSEN}
    plain = TrainSection(learning_rate=1e-5).model_dump()
    settings = TrainSettings(**{**plain, "report_to": tuple(plain["report_to"])})
    assert settings.learning_rate == 1e-5


def test_adapters_take_every_setting_of_a_recipe():
    ours, theirs = defaults_of_section(LoraSection), defaults_of_dataclass(LoraSettings)
    renamed = {"lora_alpha": "alpha", "lora_dropout": "dropout"}
    mapped = {renamed.get(name, name): value for name, value in ours.items() if name != "load_in_4bit"}
    assert {**mapped, "modules_to_save": tuple(mapped["modules_to_save"])} == theirs


def test_every_objective_can_be_written():
    assert VARIANTS.keys() | {"sft"} == OBJECTIVES.keys()
    assert SftObjective.model_fields.keys() - {"name"} == {"loss_on"}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_of_an_objective_can_be_written(name):
    ours, theirs = defaults_of_section(VARIANTS[name]), defaults_of_dataclass(OBJECTIVES[name])
    assert ours.keys() - {"name"} == theirs.keys()
    assert {key: value for key, value in theirs.items() if value is not PydanticUndefined}.items() <= ours.items()
    options = VARIANTS[name]().model_dump(exclude={"name"}, exclude_none=True)
    if name == "listwise":
        options["num_completions"] = 4  # of the data, where the recipe does not say
    assert build_objective(name, options).name == name


def test_choices_are_those_of_training():
    def choices(annotation):
        return {
            choice
            for part in (annotation, *get_args(annotation))
            if get_origin(part) is Literal
            for choice in get_args(part)
        }

    dpo, simpo = VARIANTS["dpo"].model_fields, VARIANTS["simpo"].model_fields
    assert choices(dpo["loss_type"].annotation) == set(PAIR_LOSSES)
    assert choices(dpo["f_divergence"].annotation) == set(DIVERGENCES)
    assert choices(simpo["loss_type"].annotation) == set(SIMPO_LOSSES)
    assert set(get_args(train_section.Scheduler)) == set(SCHEDULES)
    assert set(get_args(train_section.Optimizer)) == set(OPTIMIZERS)
    assert set(get_args(train_section.Tracker)) == set(TRACKERS)
    assert choices(TrainSection.model_fields["precision"].annotation) == set(DTYPES) - {"float64"}


def test_options_belong_to_the_same_losses():
    theirs = {
        option: {name for name, loss in PAIR_LOSSES.items() if option in loss.options}
        for loss in PAIR_LOSSES.values()
        for option in loss.options
    }
    assert {option: set(losses) for option, losses in LOSSES_OF_OPTIONS.items()} == theirs
