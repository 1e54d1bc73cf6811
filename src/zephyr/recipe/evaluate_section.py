"""The evaluation tasks of a run."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from zephyr.recipe.data_section import DataSource
from zephyr.recipe.section import ADDED, FREE, Section
from zephyr.recipe.teacher_section import SamplingSection, TeacherSection


class WorldTask(Section):
    """Answers to held-out prompts of the closed world, checked by its rules."""

    name: Literal["world"] = "world"
    num_prompts: int = Field(400, ge=1, description="held-out prompts")
    num_samples: int = Field(1, ge=1, description="answers per prompt")
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how answers are sampled")


class PreferenceTask(Section):
    """Reward accuracy and margins of the aligned model against its reference, on held-out pairs."""

    name: Literal["preference"] = "preference"
    sources: list[DataSource] = Field(
        default_factory=list, description="held-out pairs; empty: those of the align stage"
    )
    allow_overlap: int = Field(
        0,
        ge=0,
        description="at most this many prompts of sources may be trained on by align; more stop the run",
        json_schema_extra=FREE,
    )


class PerplexityTask(Section):
    """Perplexity per token of held-out dialogues."""

    name: Literal["perplexity"] = "perplexity"
    sources: list[DataSource] = Field(
        default_factory=list, description="held-out dialogues; empty: those of the sft stage"
    )
    allow_overlap: int = Field(
        0,
        ge=0,
        description="at most this many prompts of sources may be trained on by sft; more stop the run",
        json_schema_extra=FREE,
    )


class HarnessTask(Section):
    """Benchmarks of lm-eval and judged benchmarks, for every model of the run."""

    name: Literal["harness"] = "harness"
    tasks: list[str] = Field(
        min_length=1,
        description="names of lm-eval tasks, judged benchmarks (mt_bench, alpaca_eval_1, alpaca_eval_2) and profiles",
        examples=[["ifeval"]],
    )
    data: Path | None = Field(None, description="folder with local copies of the tasks' data; null: read the hub")
    include_path: Path | None = Field(
        None,
        description="folder with tasks of your own in lm-eval's YAML, whose Python code is run",
        json_schema_extra=ADDED,
    )
    shots: int | None = Field(None, ge=0, description="few-shot examples of every task; null: as each task defines")
    limit: int | None = Field(None, ge=1, description="evaluate only this many documents of each task")
    chat_template: Literal["auto", "on", "off"] = Field(
        "auto", description="use the model's chat template; auto: only for ifeval"
    )
    judge: TeacherSection | None = Field(
        None, description="judge of mt_bench and alpaca_eval; null: profiles skip them"
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="maximum answer length in generation and judged tasks, in tokens; null: as published"
    )


class RewardTask(Section):
    """Mean reward of every model's answers by a reward model, and how often it is above the reference answer's."""

    name: Literal["reward"] = "reward"
    model: str = Field("stage:reward", description="reward model: stage:reward, a folder or a hub id")
    sources: list[DataSource] = Field(
        min_length=1, description="held-out dialogues, whose last answers are the references"
    )
    num_prompts: int | None = Field(None, ge=1, description="only the first so many dialogues; null: all")
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how answers are sampled")


EvaluationTask = Annotated[
    WorldTask | PreferenceTask | PerplexityTask | RewardTask | HarnessTask, Field(discriminator="name")
]


class EvaluateSection(Section):
    """Evaluation of the models of a run."""

    tasks: list[EvaluationTask] = Field(min_length=1, description="evaluation tasks")
    base_model: bool = Field(False, description="measure the recipe's model from outside too, before any training")
    batch_tokens: int | None = Field(
        None,
        ge=256,
        description="maximum tokens of key-value cache while answers are sampled; null: by a GPU's free memory, 65,536 "
        "on a CPU",
        json_schema_extra=FREE,
    )
