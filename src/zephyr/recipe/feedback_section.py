"""Teachers, who answers, who rates, and how ratings become pairs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

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


class VllmTeacher(Section):
    """A model on this machine's GPUs by a vLLM engine (extra vllm)."""

    name: Literal["vllm"] = "vllm"
    model: str = Field(description="folder or hub id; stage:sft for the model of a stage")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    num_gpus: int = Field(1, ge=1, description="GPUs that share the model")
    memory_share: float = Field(0.9, gt=0, le=1, description="share of every GPU's memory that the engine takes")
    max_length: int | None = Field(
        None, ge=1, description="longest prompt and answer together in tokens; null: as the model can"
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how it answers")


class PricesSection(Section):
    """What a server takes for a million tokens; the cap and the ledger count in the same currency."""

    prompt: float = Field(0.0, ge=0, description="price of a million prompt tokens")
    completion: float = Field(0.0, ge=0, description="price of a million tokens of answers")


class EndpointTeacher(Section):
    """Any server that speaks OpenAI's chat completions."""

    name: Literal["endpoint"] = "endpoint"
    base_url: str = Field("https://api.openai.com/v1", pattern="^https?://", description="address, with its /v1")
    model: str = Field(description="the model's name there")
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    headers: dict[str, str] = Field(
        default_factory=dict, description="sent with every request; ${NAME} is taken from the environment"
    )
    concurrency: int = Field(64, ge=1, le=4096, description="most calls in flight; how many pay is found out")
    requests_per_minute: float | None = Field(None, gt=0, description="most calls a minute; null: no limit")
    tokens_per_minute: float | None = Field(None, gt=0, description="most tokens a minute; null: no limit")
    deadline_seconds: float = Field(300.0, gt=0, description="longest time one try may take")
    max_tries: int = Field(8, ge=1, description="tries of a call before it counts as failed")
    left_out: list[Literal["temperature", "top_p", "top_k", "seed"]] = Field(
        ["top_k"], description="fields the server does not know, and is not sent; vLLM knows them all"
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls the longest answer; newer models of OpenAI: the second"
    )
    structured: bool = Field(
        False, description="ask judges' replies as JSON by response_format, as long as the server takes it"
    )
    batch: bool = Field(False, description="send files of calls by the Batch API: half the price, within a day")
    prices: PricesSection = Field(default_factory=PricesSection, description="what tokens cost")
    max_total_tokens: int | None = Field(
        None, ge=1, description="stop before all calls of the run's ledger take more tokens"
    )
    max_total_price: float | None = Field(None, gt=0, description="stop before they cost more")
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how it answers")


Principle = Literal["helpfulness", "honesty", "truthfulness", "calibration"]
Aspect = Literal["instruction_following", "honesty", "truthfulness", "helpfulness", "overall"]
Teacher = Annotated[ScriptedTeacher | LocalTeacher | VllmTeacher | EndpointTeacher, Field(discriminator="name")]


class CandidatesSection(Section):
    """Several answers to every prompt."""

    num_completions: int = Field(4, ge=2, description="answers a prompt")
    models: list[str] = Field(
        ["stage:sft"], description="folders, hub ids or stages that answer; [] where teachers alone do"
    )
    teachers: list[Teacher] = Field(
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

    num_workers: int = Field(2, ge=1, description="workers; each opens the judge and all who answer")
    num_partitions: int = Field(
        16, ge=1, description="parts of the prompts, each with a ledger of its own till the end"
    )
    cpus_per_worker: float = Field(1.0, ge=0, description="cores that Ray sets aside for a worker")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs that Ray sets aside for a worker")


class FeedbackSection(Section):
    """Ratings of several answers a prompt, and the pairs made of them."""

    prompts: list[DataSource] = Field(default_factory=list, description="empty: the prompts of the synth stage")
    recorded: list[DataSource] = Field(default_factory=list, description="ratings that exist; nothing is asked then")
    candidates: CandidatesSection = Field(default_factory=CandidatesSection, description="who answers, how often")
    judge: Teacher = Field(default_factory=ScriptedTeacher, description="who rates")
    judging: JudgingSection = Field(default_factory=JudgingSection, description="what the judge is asked")
    binarize: BinarizeSection = Field(default_factory=BinarizeSection, description="which answers make a pair")
    filters: list[Filter] = Field(default_factory=list, description="applied to prompts")
    ray: RaySection | None = Field(None, description="share the asking among workers of Ray; null: this process")
