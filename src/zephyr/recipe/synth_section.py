"""The synth stage: what a teacher generates, and which teacher."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from zephyr.errors import did_you_mean
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.section import ADDED, Section
from zephyr.recipe.teacher_section import ScriptedSection, TeacherSection
from zephyr.records.checks import FAMILIES, LANGUAGES


class WorldSynth(Section):
    """Dialogues of the closed world of the quickstart; prompts are made by rules."""

    name: Literal["world"] = "world"
    num_dialogues: int = Field(33_000, ge=1, description="number of dialogues")
    num_pretrain_texts: int = Field(4_000, ge=0, description="number of plain texts for pretraining")
    num_feedback_prompts: int = Field(600, ge=0, description="number of prompts for the feedback stage")


class SelfInstructSynth(Section):
    """Self-Instruct: new instructions generated from seed tasks, with instances. Sampling as published."""

    name: Literal["self_instruct"] = "self_instruct"
    seeds: str | None = Field(
        None,
        description="JSON lines of seed tasks: instruction, is_classification, instances; null: Zephyr's own 180",
    )
    num_instructions: int = Field(1_000, ge=1, description="number of new instructions")
    classification_only: bool = Field(
        False, description="use only classification seeds, and generate only classification tasks"
    )
    max_similarity: float = Field(
        0.7,
        gt=0,
        le=1,
        description="drop instructions whose ROUGE-L F with another one is higher",
    )
    requests_per_round: int = Field(
        5, ge=1, description="requests in parallel before new instructions join the pool; more suit a fast server"
    )
    max_instances: int = Field(5, ge=1, description="maximum instances kept per instruction, drawn at random")
    layouts: Literal["varied", "plain"] = Field(
        "varied",
        description="layout of instruction and input in a prompt: varied draws from 7 layouts with input and 6 without",
    )
    include_seeds: bool = Field(False, description="also train on the instances of the seeds")
    feedback_share: float = Field(0.1, ge=0, lt=1, description="share of prompts for the feedback stage")


class UltraChatSynth(Section):
    """Multi-turn dialogues, as in UltraChat: one teacher plays the user, another answers."""

    name: Literal["ultrachat"] = "ultrachat"
    num_dialogues: int = Field(1_000, ge=1, description="number of dialogues to start")
    num_feedback_prompts: int = Field(
        0, ge=0, description="number of first messages for the feedback stage, without answers"
    )
    min_turns: int = Field(2, ge=1, description="minimum user messages; shorter dialogues are dropped")
    max_turns: int = Field(4, ge=1, description="maximum user messages")
    world: float = Field(1.0, ge=0, description="weight of questions about the world")
    writing: float = Field(1.0, ge=0, description="weight of writing and creation")
    materials: float = Field(1.0, ge=0, description="weight of help with existing texts")
    passages: list[DataSource] = Field(
        default_factory=list, description="texts to discuss; empty: the teacher that plays the user writes them"
    )
    person: TeacherSection | None = Field(None, description="teacher that plays the user; null: the one that answers")

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "UltraChatSynth":
        if self.min_turns > self.max_turns:
            raise ValueError(f"min_turns {self.min_turns} must be at most max_turns {self.max_turns}")
        if not self.world + self.writing + self.materials:
            raise ValueError("one of world, writing and materials must have a weight above 0")
        return self


class ConstraintsSynth(Section):
    """Prompts with constraints that can be checked, for the judge checks: composed by rules, without a teacher."""

    name: Literal["constraints"] = "constraints"
    pool: list[DataSource] = Field(min_length=1, description="instructions that get constraints")
    num_prompts: int = Field(1_000, ge=1, description="number of prompts; a smaller pool is used several times")
    num_dialogues: int = Field(
        0,
        ge=0,
        description="number of dialogues for sft besides: further prompts with the pool's own answers, which hold all "
        "checks, as they are or repaired by rules; the rows of the pool need answers",
        json_schema_extra=ADDED,
    )
    min_constraints: int = Field(1, ge=1, le=3, description="minimum constraints per prompt")
    max_constraints: int = Field(3, ge=1, le=3, description="maximum constraints per prompt")
    families: list[str] = Field(
        default_factory=list,
        description="families to draw from, such as punctuation:no_comma, or a group of them, such as keywords; empty: "
        "all 25 of IFEval",
    )
    without_families: list[str] = Field(
        default_factory=list, description="families or groups to leave out, to be measured as held out"
    )
    languages: list[str] = Field(
        default_factory=list, description="languages to ask for, by their codes; empty: all that can be checked"
    )
    decontaminate: list[str] = Field(
        default_factory=list,
        description="evaluation sets that no prompt may overlap with, relative to `data_dir`: files, folders or globs; "
        "IFEval's own prompts",
    )
    ngram: int = Field(13, ge=3, description="consecutive words that count as overlap with an evaluation set")
    near_duplicates: float = Field(
        0.8,
        gt=0,
        lt=1,
        description="similarity of word 5-grams that counts as overlap with an evaluation set",
    )

    @model_validator(mode="after")
    def _can_be_composed(self) -> "ConstraintsSynth":
        if self.min_constraints > self.max_constraints:
            raise ValueError(f"min_constraints {self.min_constraints} must be at most {self.max_constraints}")
        groups = {name.partition(":")[0] for name in FAMILIES}
        for name in (*self.families, *self.without_families):
            if name not in FAMILIES and name not in groups:
                raise ValueError(f"there is no family '{name}'{did_you_mean(name, [*FAMILIES, *groups])}")
        for name in self.languages:
            if name not in LANGUAGES:
                raise ValueError(f"'{name}' cannot be checked; languages are {', '.join(LANGUAGES)}")
        if not self.chosen_families:
            raise ValueError("families and without_families leave no family")
        return self

    @property
    def chosen_families(self) -> list[str]:
        """The families to draw from, in IFEval's order."""
        taken = [name for name in FAMILIES if not self.families or _is_of(name, self.families)]
        return [name for name in taken if not _is_of(name, self.without_families)]


def _is_of(family: str, names: list[str]) -> bool:
    return family in names or family.partition(":")[0] in names


# Those that write dialogues by a teacher; the other one composes prompts by rules.
DialogueGenerator = WorldSynth | SelfInstructSynth | UltraChatSynth
Generator = Annotated[DialogueGenerator | ConstraintsSynth, Field(discriminator="name")]


class SynthSection(Section):
    """Dialogues from a teacher."""

    generator: Generator = Field(default_factory=WorldSynth, description="what is generated")
    teacher: TeacherSection = Field(default_factory=ScriptedSection, description="teacher that answers")


def sources_of(generator: Generator) -> list[DataSource]:
    """What a generator reads: seed tasks, passages, or the instructions that get constraints."""
    match generator:
        case SelfInstructSynth(seeds=str(seeds)):
            return [DataSource(path=seeds)]
        case UltraChatSynth():
            return generator.passages
        case ConstraintsSynth():
            return generator.pool
    return []


def teachers_of(section: SynthSection) -> dict[str, TeacherSection]:
    """The teachers of the stage, by their keys in the recipe; none where prompts are composed by rules."""
    generator = section.generator
    if isinstance(generator, ConstraintsSynth):
        return {}
    person = generator.person if isinstance(generator, UltraChatSynth) else None
    return {"synth.teacher": section.teacher} | ({} if person is None else {"synth.generator.person": person})
