"""What is measured of which models."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from zephyr.recipe.data_section import DataSource
from zephyr.recipe.section import FREE, Section
from zephyr.recipe.teacher_section import SamplingSection, TeacherSection


class WorldTask(Section):
    """The closed world's checkers on held-out prompts."""

    name: Literal["world"] = "world"
    num_prompts: int = Field(400, ge=1, description="held-out prompts")
    num_samples: int = Field(1, ge=1, description="answers a prompt")
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how the models answer")


class PreferenceTask(Section):
    """Held-out reward accuracy and margins of the aligned model against its reference."""

    name: Literal["preference"] = "preference"
    sources: list[DataSource] = Field(default_factory=list, description="empty: the pairs held out by align")


class PerplexityTask(Section):
    """Perplexity a token of held-out text."""

    name: Literal["perplexity"] = "perplexity"
    sources: list[DataSource] = Field(default_factory=list, description="empty: the dialogues held out by sft")


class HarnessTask(Section):
    """Benchmarks as lm-eval defines them, and judged ones, of every model of the run."""

    name: Literal["harness"] = "harness"
    tasks: list[str] = Field(min_length=1, description="tasks of lm-eval, mt_bench, alpaca_eval_1, profiles")
    data: Path | None = Field(None, description="folder of the tasks' local copies; without it, the hub's are read")
    shots: int | None = Field(None, ge=0, description="shots of every task; without it, its own")
    limit: int | None = Field(None, ge=1, description="only so many documents of each task: a trial")
    chat_template: Literal["auto", "on", "off"] = Field("auto", description="auto: for `ifeval` alone")
    judge: TeacherSection | None = Field(None, description="who rates mt_bench and alpaca_eval; null: nobody")
    max_new_tokens: int | None = Field(
        None, ge=1, description="longest answer, of generation tasks and those that are judged; null: as published"
    )


Task = Annotated[WorldTask | PreferenceTask | PerplexityTask | HarnessTask, Field(discriminator="name")]


class EvaluateSection(Section):
    """Measurements of the models a run has made."""

    tasks: list[Task] = Field(min_length=1, description="what is measured")
    batch_tokens: int = Field(
        65_536, ge=256, description="tokens of key-value cache while answers are sampled", json_schema_extra=FREE
    )
