"""The synth stage: what a teacher generates, and which teacher."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from zephyr.recipe.data_section import DataSource
from zephyr.recipe.section import Section
from zephyr.recipe.teacher_section import ScriptedSection, TeacherSection


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


Generator = Annotated[WorldSynth | SelfInstructSynth | UltraChatSynth, Field(discriminator="name")]


class SynthSection(Section):
    """Dialogues from a teacher."""

    generator: Generator = Field(default_factory=WorldSynth, description="what is generated")
    teacher: TeacherSection = Field(default_factory=ScriptedSection, description="teacher that answers")
