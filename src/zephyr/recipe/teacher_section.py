"""Who writes and who rates: a rule, a model on this machine, an engine, or a server; and how text is sampled."""

from typing import Annotated, Literal

from pydantic import Field

from zephyr.recipe.section import FREE, Section


class SamplingSection(Section):
    """How text is sampled; the defaults are those of the Zephyr cards."""

    temperature: float = Field(0.7, ge=0, description="0 is greedy")
    top_k: int = Field(50, ge=0, description="draw from the k likeliest tokens; 0: from all")
    top_p: float = Field(0.95, gt=0, le=1, description="draw from the likeliest tokens of this total probability")
    max_new_tokens: int = Field(256, ge=1, description="longest answer in tokens")


class ScriptedSection(Section):
    """The teacher and judge of the closed world: rules, no model, with faults on purpose."""

    name: Literal["scripted"] = "scripted"
    fault_rate: float = Field(0.25, ge=0, le=1, description="share of its answers that are faulty")


class LocalSection(Section):
    """A model on this machine."""

    name: Literal["local"] = "local"
    model: str = Field(description="folder or hub id; stage:sft for the model of a stage")
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how it answers")


class VllmSection(Section):
    """A model on this machine's GPUs by a vLLM engine (extra vllm)."""

    name: Literal["vllm"] = "vllm"
    model: str = Field(description="folder or hub id; stage:sft for the model of a stage")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    num_gpus: int = Field(1, ge=1, description="GPUs that share the model", json_schema_extra=FREE)
    memory_share: float = Field(
        0.9, gt=0, le=1, description="share of every GPU's memory that the engine takes", json_schema_extra=FREE
    )
    max_length: int | None = Field(
        None, ge=1, description="longest prompt and answer together in tokens; null: as the model can"
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how it answers")


class PricesSection(Section):
    """What a server takes for a million tokens; the cap and the ledger count in the same currency."""

    prompt: float = Field(0.0, ge=0, description="price of a million prompt tokens")
    completion: float = Field(0.0, ge=0, description="price of a million tokens of answers")


class EndpointSection(Section):
    """Any server that speaks OpenAI's chat completions."""

    name: Literal["endpoint"] = "endpoint"
    base_url: str = Field("https://api.openai.com/v1", pattern="^https?://", description="address, with its /v1")
    model: str = Field(description="the model's name there")
    api_key_env: str = Field(
        "OPENAI_API_KEY",
        description="environment variable that holds the key; empty: the server wants none",
        json_schema_extra=FREE,
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="sent with every request; ${NAME} is taken from the environment",
        json_schema_extra=FREE,
    )
    concurrency: int = Field(
        64, ge=1, le=4096, description="most calls in flight; how many pay is found out", json_schema_extra=FREE
    )
    requests_per_minute: float | None = Field(
        None, gt=0, description="most calls a minute; null: no limit", json_schema_extra=FREE
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, description="most tokens a minute; null: no limit", json_schema_extra=FREE
    )
    deadline_seconds: float = Field(300.0, gt=0, description="longest time one try may take", json_schema_extra=FREE)
    max_tries: int = Field(8, ge=1, description="tries of a call before it counts as failed", json_schema_extra=FREE)
    left_out: list[Literal["temperature", "top_p", "top_k", "seed"]] = Field(
        ["top_k"], description="fields the server does not know, and is not sent; vLLM knows them all"
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls the longest answer; newer models of OpenAI: the second"
    )
    structured: bool = Field(
        False, description="ask judges' replies as JSON by response_format, as long as the server takes it"
    )
    batch: bool = Field(
        False, description="send files of calls by the Batch API: half the price, within a day", json_schema_extra=FREE
    )
    prices: PricesSection = Field(default_factory=PricesSection, description="what tokens cost", json_schema_extra=FREE)
    max_total_tokens: int | None = Field(
        None, ge=1, description="stop before all calls of the run's ledger take more tokens", json_schema_extra=FREE
    )
    max_total_price: float | None = Field(None, gt=0, description="stop before they cost more", json_schema_extra=FREE)
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how it answers")


TeacherSection = Annotated[ScriptedSection | LocalSection | VllmSection | EndpointSection, Field(discriminator="name")]
