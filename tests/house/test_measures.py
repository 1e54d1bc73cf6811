"""The measures on a small source whose numbers are counted by hand."""

import pytest

from tests.house import measures
from tests.house.calls import CallGraph, way_to_the_loss
from tests.house.source import read_source

FILES = {
    "__init__.py": "",
    "recipe/__init__.py": "",
    "recipe/section.py": "class Section: ...",
    "recipe/stage_sections.py": """
from typing import Annotated, Literal
from zephyr.recipe.section import Section
class Dpo(Section):
    name: Literal["dpo"] = "dpo"
    beta: float
    loss_type: str
    unused: float
class Sft(Section):
    name: Literal["sft"] = "sft"
    beta: float
    share: int
    def doubled(self) -> int:
        return 2 * self.share
class Recipe(Section):
    align: Annotated[Dpo | None, 1]
    sft: list[Sft]
""",
    "cli/__init__.py": "",
    "cli/recipes.py": """
from zephyr.recipe.stage_sections import Recipe
def run(recipe: Recipe) -> None:
    from zephyr.planner import run_recipe
    run_recipe(recipe)
""",
    "planner.py": """
from zephyr.recipe.stage_sections import Recipe
from zephyr.stages.stage import STAGES
def run_recipe(recipe: Recipe) -> None:
    for stage in STAGES.values():
        stage.run(recipe)
""",
    "stages/__init__.py": "",
    "stages/stage.py": """
from collections.abc import Callable
from dataclasses import dataclass
@dataclass(frozen=True)
class Stage:
    run: Callable[[Recipe], None]
from zephyr.stages.align import align
STAGES = {"align": Stage(run=align)}
""",
    "stages/align.py": """
from typing import TYPE_CHECKING
from zephyr.recipe.stage_sections import Recipe
from zephyr.train.step import step
if TYPE_CHECKING:
    from zephyr.stages.stage import Stage
def align(recipe: Recipe) -> None:
    section = recipe.align
    step(section.beta, section.loss_type, "align")
    print(sum(one.doubled() for one in recipe.sft))
""",
    "train/__init__.py": "",
    "train/step.py": '''
from typing import NamedTuple
from torch import Tensor
from zephyr.train.losses import LOSSES
class Settings(NamedTuple):
    beta: float
    loss_type: str
    unused: float
def step(beta: float, loss_type: str, name: str) -> None:
    """Nothing; the step."""
    if name == "sft":
        raise ValueError(name)
    Settings(beta, loss_type, 0.0)
    LOSSES[loss_type](beta).backward()
def helper(rows: Tensor) -> None:
    """Write rows. Raises ValueError for none."""
    raise ValueError
''',
    "train/losses.py": """
import torch.nn.functional as F
def sigmoid(beta: float) -> object:
    return _smoothed(beta)
def _smoothed(beta: float) -> object:
    return F.logsigmoid(beta)
LOSSES = {"sigmoid": sigmoid}
class Settings: ...
""",
    "deliver/__init__.py": "",
    "deliver/card.py": "class Settings: ...",
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    root = tmp_path_factory.mktemp("house")
    for name, text in FILES.items():
        path = root / "src" / "zephyr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return CallGraph(read_source(root))


def test_the_way_to_the_loss_goes_through_records_and_tables(graph):
    way = [key.partition(":")[2] for key in way_to_the_loss(graph, dynamic=False)]
    assert way == ["run", "run_recipe", "align", "step", "sigmoid"]
    assert measures.records_on(graph, way_to_the_loss(graph, dynamic=False)) == ["Settings"]


def test_fields_are_read_where_their_section_is_known(graph):
    # Sft.share is read by a method that a stage calls; Sft.beta is not read, Dpo.beta is.
    assert measures.unread_fields(graph) == ["Dpo.unused", "Sft.beta"]


def test_a_record_that_repeats_a_section_is_found(graph):
    assert measures.declared_twice(graph) == ["zephyr.train.step:Settings repeats Dpo: beta, loss_type, unused"]


def test_stage_names_outside_their_home(graph):
    found = measures.stage_literals(graph.source)
    assert found == {"zephyr.stages.stage": ["8 align"], "zephyr.train.step": ["11 sft"]}


def test_imports(graph):
    source = graph.source
    assert measures.import_cycles(source) == [["zephyr.stages.align", "zephyr.stages.stage"]]
    assert {"zephyr.planner", "zephyr.train.step", "zephyr.train.losses"} <= set(measures.with_one_importer(source))
    assert "zephyr.recipe.stage_sections" not in measures.with_one_importer(source)


def test_names_in_two_packages(graph):
    assert measures.shared_names(graph.source) == {"Settings": ["zephyr.deliver", "zephyr.train"]}


def test_docstrings(graph):
    source = graph.source
    assert measures.begins_with_nothing(source) == ["zephyr.train.step:9 step"]
    assert measures.silent_raises(source) == ["zephyr.train.step:9 step"]
    assert measures.shapeless(source) == ["zephyr.train.step:15 helper"]
