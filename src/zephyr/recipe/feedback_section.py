"""Who writes, who answers, who rates, and how ratings become pairs."""

from typing import Annotated, Literal

from pydantic import Field

from zephyr.recipe.data_section import DataSource, Filter
from zephyr.recipe.section import Section


class SamplingSection(Section):
    """How text is sampled; the defaults are those of the Zephyr cards."""

    temperature: float = Field(0.7, ge=0, description="0 is greedy")
    top_k: int = Field(50, ge=0, description="draw from the k likeliest tokens; 0: from all")
    top_p: float = Field(0.95, gt=0, le=1, description="draw from the likeliest tokens of this total probability")
    max_new_tokens: int = Field(256, ge=1, description="longest answer in tokens")


class ScriptedTeacher(Section):
    """The teacher and judge of the closed world: rules, no model, with faults on purpose."""

    name: Literal["scripted"] = "scripted"
    fault_rate: float = Field(0.25, ge=0, le=1, description="share of its answers that are faulty")


class LocalTeacher(Section):
    """A model on this machine."""

    name: Literal["local"] = "local"
    model: str = Field(description="folder or hub id; stage:sft for the model of a stage")
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how it answers")


class EndpointTeacher(Section):
    """Any server that speaks OpenAI's chat completions."""

    name: Literal["endpoint"] = "endpoint"
    base_url: str = Field("https://api.openai.com/v1", description="address of the server, with its /v1")
    model: str = Field(description="the model's name there")
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how it answers")


Teacher = Annotated[ScriptedTeacher | LocalTeacher | EndpointTeacher, Field(discriminator="name")]


class WorldSynth(Section):
    """Dialogues of the closed world of the quickstart, whose prompts are made by rule."""

    name: Literal["world"] = "world"
    num_dialogues: int = Field(33_000, ge=1, description="dialogues the teacher writes")
    num_pretrain_texts: int = Field(4_000, ge=0, description="plain texts of the world for pretraining")
    num_feedback_prompts: int = Field(600, ge=0, description="prompts the feedback stage asks")


class SynthSection(Section):
    """Dialogues written by a teacher."""

    generator: WorldSynth = Field(default_factory=WorldSynth, description="what is asked")
    teacher: Teacher = Field(default_factory=ScriptedTeacher, description="who answers")


class CandidatesSection(Section):
    """Several answers to every prompt."""

    num_completions: int = Field(4, ge=2, description="answers a prompt")
    models: list[str] = Field(["stage:sft"], min_length=1, description="folders, hub ids or stages that answer")
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how they answer")


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
    repair_overall: bool = Field(True, description="the published repair of UltraFeedback's overall_score")


class FeedbackSection(Section):
    """Ratings of several answers a prompt, and the pairs made of them."""

    prompts: list[DataSource] = Field(default_factory=list, description="empty: the prompts of the synth stage")
    recorded: list[DataSource] = Field(default_factory=list, description="ratings that exist; nothing is asked then")
    candidates: CandidatesSection = Field(default_factory=CandidatesSection, description="who answers, how often")
    judge: Teacher = Field(default_factory=ScriptedTeacher, description="who rates")
    binarize: BinarizeSection = Field(default_factory=BinarizeSection, description="which answers make a pair")
    filters: list[Filter] = Field(default_factory=list, description="applied to prompts")
