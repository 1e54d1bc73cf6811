"""What a talk is to be about: a sector, a leaf of the topics tree, a manner, a number of turns; drawn by seed."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from random import Random
from typing import Literal, NamedTuple, cast, get_args

import yaml

Sector = Literal["world", "writing", "materials"]
SECTORS: tuple[Sector, ...] = get_args(Sector)

MANNERS = (
    "Write one short sentence.",
    "Write two or three sentences, and say why it matters to this person.",
    "Write casually, as in a chat.",
    "Write politely and precisely.",
    "Write as a beginner in the matter would.",
    "Write as somebody who knows the matter well.",
)
MOVES = (
    "ask about a detail of it",
    "ask for an example or a case from life",
    "say that a part is unclear, and ask for it in simpler words",
    "doubt one point, and ask for reasons",
    "ask for a change of its length, tone or form",
    "add a circumstance that was not known so far, and ask what follows from it",
    "go on to the next question that a curious person would have",
    "ask for a comparison with something near to it",
)


@dataclass(frozen=True)
class PlanSettings:
    """Which talks there shall be. The weights of the sectors need not add up to 1."""

    seed: int = 0
    min_turns: int = 2
    max_turns: int = 4
    sectors: Mapping[Sector, float] = field(default_factory=lambda: dict.fromkeys(SECTORS, 1.0))


class TalkPlan(NamedTuple):
    """What one talk is about: `branch` and `leaf` of the topics tree, and how its person writes and asks on.

    In sector materials `leaf` is the kind of text and `branch` what is wanted of it.
    """

    number: int
    sector: Sector
    branch: str
    leaf: str
    manner: str
    moves: tuple[str, ...]

    @property
    def num_turns(self) -> int:
        """Messages of the person, each with an answer."""
        return len(self.moves) + 1


class Topics(NamedTuple):
    """The topics tree: branches with leaves for two sectors, kinds of text and what is wanted of them for the third."""

    world: Mapping[str, tuple[str, ...]]
    writing: Mapping[str, tuple[str, ...]]
    materials: tuple[str, ...]
    operations: tuple[str, ...]


@functools.cache
def topics() -> Topics:
    """The tree that comes with Zephyr."""
    text = resources.files("zephyr.synth").joinpath("topics.yaml").read_text(encoding="utf-8")
    tree = cast("dict[str, dict[str, list[str]]]", yaml.safe_load(text))
    branches = {name: {branch: tuple(leaves) for branch, leaves in tree[name].items()} for name in ("world", "writing")}
    return Topics(branches["world"], branches["writing"], tuple(tree["materials"]), tuple(tree["operations"]))


def plan_talk(number: int, settings: PlanSettings) -> TalkPlan:
    """The plan of a talk; it depends on the settings and the number alone."""
    rng, tree = Random(f"{settings.seed} talk {number}"), topics()
    sector = rng.choices(list(settings.sectors), weights=list(settings.sectors.values()))[0]
    if sector == "materials":
        branch, leaf = rng.choice(tree.operations), rng.choice(tree.materials)
    else:
        branches = tree.world if sector == "world" else tree.writing
        branch = rng.choice(list(branches))
        leaf = rng.choice(branches[branch])
    num_turns = rng.randint(settings.min_turns, settings.max_turns)
    moves = tuple(rng.choice(MOVES) for _ in range(num_turns - 1))
    return TalkPlan(number, sector, branch, leaf, rng.choice(MANNERS), moves)
