"""Teachers and judges: the scripted one, a local model, a vLLM engine or a server; and how text is sampled."""

from typing import Annotated, Literal

from pydantic import Field

from zephyr.recipe.section import FREE, Section


class SamplingSection(Section):
    """How text is sampled; defaults as in the Zephyr model cards."""

    temperature: float = Field(0.7, ge=0, description="sampling temperature; 0: greedy")
    top_k: int = Field(50, ge=0, description="sample from the k likeliest tokens; 0: from all")
    top_p: float = Field(0.95, gt=0, le=1, description="sample from the likeliest tokens with this total probability")
    max_new_tokens: int = Field(256, ge=1, description="maximum length of an answer in tokens")


class ScriptedSection(Section):
    """The teacher and judge of the closed world: rules, no model, with deliberate faults."""

    name: Literal["scripted"] = "scripted"
    fault_rate: float = Field(0.25, ge=0, le=1, description="share of faulty answers")


class LocalSection(Section):
    """A model on this machine."""

    name: Literal["local"] = "local"
    model: str = Field(description="folder or hub id; stage:sft for the model that stage sft trained")
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how its answers are sampled")


class VllmSection(Section):
    """A model on this machine's GPUs in a vLLM engine (extra vllm)."""

    name: Literal["vllm"] = "vllm"
    model: str = Field(description="folder or hub id; stage:sft for the model that stage sft trained")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    num_gpus: int = Field(1, ge=1, description="number of GPUs that share the model", json_schema_extra=FREE)
    memory_share: float = Field(
        0.9, gt=0, le=1, description="share of each GPU's memory that the engine reserves", json_schema_extra=FREE
    )
    max_length: int | None = Field(
        None, ge=1, description="maximum length of prompt and answer together in tokens; null: the model's"
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how its answers are sampled")


class PricesSection(Section):
    """A server's prices per million tokens, in the currency of `max_total_price`."""

    prompt: float = Field(0.0, ge=0, description="price per million prompt tokens")
    completion: float = Field(0.0, ge=0, description="price per million completion tokens")


class EndpointSection(Section):
    """A server with OpenAI's chat completions API."""

    name: Literal["endpoint"] = "endpoint"
    base_url: str = Field("https://api.openai.com/v1", pattern="^https?://", description="URL of the API, with /v1")
    model: str = Field(description="name of the model on the server")
    api_key_env: str = Field(
        "OPENAI_API_KEY",
        description="environment variable with the API key; empty: the server needs none",
        json_schema_extra=FREE,
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="HTTP headers of every request; ${NAME} is replaced from the environment",
        json_schema_extra=FREE,
    )
    concurrency: int = Field(
        64, ge=1, le=4096, description="maximum concurrent requests; adapts to the server", json_schema_extra=FREE
    )
    requests_per_minute: float | None = Field(
        None, gt=0, description="rate limit in requests per minute; null: none", json_schema_extra=FREE
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, description="rate limit in tokens per minute; null: none", json_schema_extra=FREE
    )
    deadline_seconds: float = Field(300.0, gt=0, description="timeout of an attempt in seconds", json_schema_extra=FREE)
    max_tries: int = Field(8, ge=1, description="maximum attempts per request", json_schema_extra=FREE)
    left_out: list[Literal["temperature", "top_p", "top_k", "seed"]] = Field(
        ["top_k"], description="request fields to omit, as the server rejects them; vLLM accepts all"
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        description="request field for the maximum length; max_completion_tokens: for OpenAI's newer models",
    )
    system_role: Literal["system", "user"] = Field(
        "system",
        description="role of the system message; user: its text begins the first user message, as for templates of"
        " Gemma and Mistral that know no system role",
    )
    structured: bool = Field(
        False, description="request judges' replies as JSON by response_format, if the server supports it"
    )
    batch: bool = Field(
        False, description="use the Batch API: half the price, answers within a day", json_schema_extra=FREE
    )
    prices: PricesSection = Field(default_factory=PricesSection, description="prices of tokens", json_schema_extra=FREE)
    max_total_tokens: int | None = Field(
        None,
        ge=1,
        description="token cap: stop before all calls in the run's ledger use more tokens",
        json_schema_extra=FREE,
    )
    max_total_price: float | None = Field(
        None, gt=0, description="spend cap: stop before all calls in the run's ledger cost more", json_schema_extra=FREE
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how its answers are sampled")


TeacherSection = Annotated[ScriptedSection | LocalSection | VllmSection | EndpointSection, Field(discriminator="name")]
