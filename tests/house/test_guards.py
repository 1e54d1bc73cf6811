"""Guards of the house: what a reader relies on to find his way, measured on the code itself.

`python -m tests.house` prints the measures of which these are the limits.
"""

import pytest

from tests.conftest import REPOSITORY
from tests.house import measures
from tests.house.calls import CallGraph, way_to_the_loss
from tests.house.check_imports import imported_by_check
from tests.house.source import read_source

# Records that share names with a section and are no settings, each with its reason.
NO_TWINS = {
    "zephyr.estimate.model_shape:ModelShape",  # the sizes of any model, read from its config.json
    "zephyr.evaluation.judged.bench:JudgedBench",  # an opened benchmark: its judge and data are no settings any more
    "zephyr.synth.talks:Topics",  # opened meta topics, whose names are those of their settings
    "zephyr.teachers.protocol:ChatRequest",  # one call, whose sampling may differ from call to call
    "zephyr.train.job:TrainJob",  # a model, a name and a seed, as the recipe has, but of one training run
}
# Where a stage's name means something else.
NO_STAGES = {
    "zephyr",  # the name of a function of the Python API, as in the three below
    "zephyr.api.running",
    "zephyr.api.stub",
    "zephyr.api.training",
    "zephyr.cli.main",  # the name of a command, as in the next
    "zephyr.cli.habits",
    "zephyr.train.objectives.table",  # the name of an objective
    "zephyr.world.prompts",  # the name of a split of the closed world, part of its seeds
}
# Read by the card from the run's lock file, as JSON.
READ_AS_JSON = {"DataSource.license"}
# Read by the function of a user's own.
READ_BY_USERS = {"CustomObjective.options"}
# Modules under 60 lines with one importer, beside stages and commands: they may become fewer, not more.
SMALL_MODULES = 4
# The package's own modules that a check of a whole recipe imports: they may become fewer, not more.
# Two of them check what strangers made: the files of a model, and a chat template.
CHECK_MODULES = 156


@pytest.fixture(scope="module")
def graph():
    return CallGraph(read_source(REPOSITORY))


def test_the_loss_is_six_calls_from_the_command(graph):
    way = way_to_the_loss(graph, dynamic=False)
    assert way, "there is no way by names alone from `zephyr run` to the loss"
    assert len(way) - 1 <= 6, "\n".join(way)


def test_every_field_of_the_schema_is_read(graph):
    assert set(measures.unread_fields(graph)) <= READ_AS_JSON | READ_BY_USERS


def test_a_setting_is_declared_once(graph):
    assert [found for found in measures.declared_twice(graph) if found.split()[0] not in NO_TWINS] == []


def test_a_stage_is_named_in_its_own_file_and_the_schema_alone(graph):
    found = measures.stage_literals(graph.source)
    assert {name: where for name, where in found.items() if name not in NO_STAGES} == {}


def test_no_module_imports_itself_through_others(graph):
    assert measures.import_cycles(graph.source) == []


def test_a_name_means_one_thing(graph):
    assert measures.shared_names(graph.source) == {}


def test_small_modules_are_part_of_those_that_use_them(graph):
    every = measures.small_with_one_importer(graph.source)
    small = [name for name in every if not name.startswith(("zephyr.stages.", "zephyr.cli."))]
    assert len(small) <= SMALL_MODULES, small


def test_a_check_imports_no_training_code():
    imported = imported_by_check(REPOSITORY)
    assert imported.heavy == []
    assert len(imported.ours) <= CHECK_MODULES


def test_docstrings_say_what_is_done_what_raises_and_which_shapes(graph):
    assert measures.begins_with_nothing(graph.source) == []
    assert measures.silent_raises(graph.source) == []
    assert measures.shapeless(graph.source) == []
