"""The base model of a run, and its chat template."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import Field, model_validator

from zephyr.recipe.section import FREE, Section

DType = Literal["float32", "bfloat16", "float16"]
TemplateValue: TypeAlias = bool | int | float | str
NO_VALUES: Mapping[str, TemplateValue] = {}

# The model of an earlier stage is named stage:NAME; stage:policy is that which align starts from.
STAGE_REFERENCE = "stage:"
POLICY = "policy"


class TrustedCodeSection(Section):
    """The one repository whose own Python code may be run, at one commit."""

    repository: str = Field(description="hub id of the repository whose code is trusted")
    revision: str = Field(description="the commit whose code you have read; no other is run")


class PretrainedModel(Section):
    """An existing model, on the hub or in a folder."""

    kind: Literal["pretrained"] = "pretrained"
    name_or_path: str = Field(description="hub id or folder of the model")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    trusted_code: TrustedCodeSection | None = Field(None, description="allow this repository to run its own code")


class NewModel(Section):
    """A small model with random weights, and a byte-level BPE tokenizer trained on the texts of `pretrain`."""

    kind: Literal["new"] = "new"
    architecture: Literal["mistral", "llama", "qwen2", "mixtral"] = Field(
        "mistral", description="the architecture as transformers names it"
    )
    vocab_size: int = Field(700, ge=270, description="vocabulary size, including control tokens and 256 bytes")
    hidden_size: int = Field(128, ge=8, description="size of the hidden states")
    intermediate_size: int = Field(352, ge=8, description="size inside the feed-forward blocks")
    num_hidden_layers: int = Field(4, ge=1, description="decoder layers")
    num_attention_heads: int = Field(4, ge=1, description="query heads")
    num_key_value_heads: int = Field(2, ge=1, description="key and value heads")
    max_position_embeddings: int = Field(512, ge=16, description="maximum sequence length in tokens")

    @model_validator(mode="after")
    def _heads_divide(self) -> "NewModel":
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        return self


ModelSection = Annotated[PretrainedModel | NewModel, Field(discriminator="kind")]


class TemplateOptions(Section):
    """What all chat templates may be told; options reproduce what the published runs did differently."""

    empty_system: bool = Field(
        False, description="begin a dialogue that has no system message with an empty one, as the handbook did"
    )
    extra_eos: bool = Field(
        False, description="end every sequence with one more end-of-sequence token, as TRL before 0.29 did"
    )
    legacy_space: bool = Field(
        False, description="add the token of a single space after every control token, as Llama tokenizers of 2023 did"
    )
    bos: bool | None = Field(None, description="begin with a bos token; null: as the model's tokenizer does")
    reasoning: Literal["learn", "mask", "drop"] = Field(
        "learn", description="the reasoning before an answer: learn it, show it without learning it, or leave it out"
    )
    variables: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], TemplateValue] = Field(
        default_factory=dict,
        description="values for the template's own variables, such as enable_thinking, where a row's "
        "chat_template_kwargs do not set them; stored in the template of the trained model",
    )


class ChatTemplateSection(TemplateOptions):
    """How messages become text: a layout, or the template of the model's tokenizer."""

    name: Literal["zephyr", "chatml", "llama3", "own"] = Field(
        "zephyr", description="the layout of messages; own: the template that comes with the model's tokenizer"
    )

    @model_validator(mode="after")
    def _layouts_have_no_variables(self) -> "ChatTemplateSection":
        if self.variables and self.name != "own":
            raise ValueError(f"the layout {self.name} has no variables; set name to own, or leave variables out")
        return self


class FileTemplateSection(TemplateOptions):
    """How messages become text: a chat template from a file, or that of another model's tokenizer.

    The template's text, not its path, decides whether a stage is made again.
    """

    choice_hint: ClassVar[str] = (
        "for the template of a model write own, if its tokenizer carries it, or {name: file, path: MODEL or FILE.jinja}"
    )

    name: Literal["file"]
    path: str = Field(
        description="a file with a Jinja template, or the folder or hub id of a tokenizer whose template is taken; "
        "relative paths are resolved in `data_dir`",
        json_schema_extra=FREE,
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub id", json_schema_extra=FREE)


TemplateSection: TypeAlias = Annotated[ChatTemplateSection | FileTemplateSection, Field(discriminator="name")]


class TemplateText(NamedTuple):
    """A chat template from outside: its text, where it is from, and the control tokens of the tokenizer it is from."""

    text: str
    where: str
    controls: tuple[str, ...] = ()
