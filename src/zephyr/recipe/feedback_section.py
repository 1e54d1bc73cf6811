"""Who answers, who rates, and how ratings become pairs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from zephyr.recipe.data_section import DataSource, Filter
from zephyr.recipe.section import FREE, Section
from zephyr.recipe.teacher_section import SamplingSection, ScriptedSection, TeacherSection

Principle = Literal["helpfulness", "honesty", "truthfulness", "calibration"]
Aspect = Literal["instruction_following", "honesty", "truthfulness", "helpfulness", "overall"]


class CandidatesSection(Section):
    """Several answers to every prompt."""

    num_completions: int = Field(4, ge=2, description="answers a prompt")
    models: list[str] = Field(
        ["stage:sft"], description="folders, hub ids or stages that answer; [] where teachers alone do"
    )
    teachers: list[TeacherSection] = Field(
        default_factory=list, description="others that answer beside them: endpoints, engines, the scripted one"
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how they answer")
    principles: Literal["none", "readme", "code"] = Field(
        "none", description="tell models what to aim at, in UltraFeedback's shares: those of its README or of its code"
    )
    principle_shares: dict[Principle, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="shares of your own instead, for prompts of every source"
    )

    @model_validator(mode="after")
    def _somebody_answers(self) -> "CandidatesSection":
        if not self.models and not self.teachers:
            raise ValueError("models and teachers are both empty, so nobody answers")
        return self


class JudgingSection(Section):
    """What the judge is asked about every prompt's answers."""

    aspects: list[Aspect] = Field(
        ["instruction_following", "honesty", "truthfulness", "helpfulness", "overall"],
        min_length=1,
        description="one call an aspect for all answers, and for overall one call an answer",
    )
    num_tries: int = Field(3, ge=1, description="tries of a question whose reply cannot be read")
    max_new_tokens: int = Field(1024, ge=1, description="longest reply in tokens")


class BinarizeSection(Section):
    """Ratings to training rows."""

    output: Literal["pairs", "listwise", "kto"] = Field("pairs", description="what a row holds")
    chosen: Literal["overall", "mean", "instruction_following", "honesty", "truthfulness", "helpfulness"] = Field(
        "overall", description="the score by which the best answer is chosen"
    )
    rejected: Literal["random", "worst", "next"] = Field(
        "random", description="which of the lower rated answers is rejected; Zephyr drew at random"
    )
    min_gap: float = Field(0.0, ge=0, description="pairs whose scores differ by less are left out")
    ties: Literal["drop", "keep"] = Field("drop", description="pairs of equal score")
    max_pairs_per_prompt: int = Field(1, ge=1, description="pairs made of one prompt")
    kto_threshold: float = Field(5.0, description="answers rated at least this are desirable")
    repair_overall: bool = Field(
        True, description="the published repair of overall_score, for recorded ratings in UltraFeedback's own shape"
    )


class RaySection(Section):
    """Answering and rating over a Ray cluster: the one that RAY_ADDRESS names, or one on this machine."""

    num_workers: int = Field(
        2, ge=1, description="workers; each opens the judge and all who answer", json_schema_extra=FREE
    )
    num_partitions: int = Field(
        16, ge=1, description="parts of the prompts, each with a ledger of its own till the end"
    )
    cpus_per_worker: float = Field(
        1.0, ge=0, description="cores that Ray sets aside for a worker", json_schema_extra=FREE
    )
    gpus_per_worker: float = Field(
        0.0, ge=0, description="GPUs that Ray sets aside for a worker", json_schema_extra=FREE
    )


class FeedbackSection(Section):
    """Ratings of several answers a prompt, and the pairs made of them."""

    prompts: list[DataSource] = Field(default_factory=list, description="empty: the prompts of the synth stage")
    recorded: list[DataSource] = Field(default_factory=list, description="ratings that exist; nothing is asked then")
    candidates: CandidatesSection = Field(default_factory=CandidatesSection, description="who answers, how often")
    judge: TeacherSection = Field(default_factory=ScriptedSection, description="who rates")
    judging: JudgingSection = Field(default_factory=JudgingSection, description="what the judge is asked")
    binarize: BinarizeSection = Field(default_factory=BinarizeSection, description="which answers make a pair")
    filters: list[Filter] = Field(default_factory=list, description="applied to prompts")
    ray: RaySection | None = Field(None, description="share the asking among workers of Ray; null: this process")
