"""What a teacher is asked to write, and who it is."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from zephyr.recipe.data_section import DataSource
from zephyr.recipe.section import Section
from zephyr.recipe.teacher_section import ScriptedSection, TeacherSection


class WorldSynth(Section):
    """Dialogues of the closed world of the quickstart, whose prompts are made by rule."""

    name: Literal["world"] = "world"
    num_dialogues: int = Field(33_000, ge=1, description="dialogues the teacher writes")
    num_pretrain_texts: int = Field(4_000, ge=0, description="plain texts of the world for pretraining")
    num_feedback_prompts: int = Field(600, ge=0, description="prompts the feedback stage asks")


class SelfInstructSynth(Section):
    """Self-Instruct: new instructions grown from seed tasks, with instances. Sampling is as published."""

    name: Literal["self_instruct"] = "self_instruct"
    seeds: str = Field(description="file of seed tasks with instruction, is_classification and instances")
    num_instructions: int = Field(1_000, ge=1, description="new instructions")
    classification_only: bool = Field(False, description="grow from the classification seeds alone, to such tasks")
    max_similarity: float = Field(
        0.7, gt=0, le=1, description="an instruction whose ROUGE-L F with another one is higher is not novel"
    )
    requests_per_round: int = Field(
        5, ge=1, description="lists asked for before the pool takes what is new; more keep a fast server busy"
    )
    max_instances: int = Field(5, ge=1, description="inputs and outputs kept of one instruction, drawn at random")
    layouts: Literal["varied", "plain"] = Field(
        "varied", description="how instruction and input become a prompt: 7 layouts with input and 6 without, or one"
    )
    include_seeds: bool = Field(False, description="learn the seeds' own instances too")
    feedback_share: float = Field(0.1, ge=0, lt=1, description="share of the prompts kept for the feedback stage")


class UltraChatSynth(Section):
    """Talks of several turns, as in UltraChat: one teacher plays a person, another answers."""

    name: Literal["ultrachat"] = "ultrachat"
    num_dialogues: int = Field(1_000, ge=1, description="talks that are begun")
    num_feedback_prompts: int = Field(0, ge=0, description="first messages without an answer, for the feedback stage")
    min_turns: int = Field(2, ge=1, description="fewest messages of the person; a talk that ends before is dropped")
    max_turns: int = Field(4, ge=1, description="most messages of the person")
    world: float = Field(1.0, ge=0, description="weight of questions about the world")
    writing: float = Field(1.0, ge=0, description="weight of writing and creation")
    materials: float = Field(1.0, ge=0, description="weight of help with existing texts")
    passages: list[DataSource] = Field(
        default_factory=list, description="texts to talk about; empty: the teacher who plays the person writes them"
    )
    person: TeacherSection | None = Field(None, description="who plays the person; null: the teacher that answers")

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "UltraChatSynth":
        if self.min_turns > self.max_turns:
            raise ValueError(f"min_turns {self.min_turns} must be at most max_turns {self.max_turns}")
        if not self.world + self.writing + self.materials:
            raise ValueError("one of world, writing and materials must have a weight above 0")
        return self


Generator = Annotated[WorldSynth | SelfInstructSynth | UltraChatSynth, Field(discriminator="name")]


class SynthSection(Section):
    """Dialogues written by a teacher."""

    generator: Generator = Field(default_factory=WorldSynth, description="what is asked")
    teacher: TeacherSection = Field(default_factory=ScriptedSection, description="who answers")
