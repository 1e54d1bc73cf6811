"""Where rows come from, which of them are kept, and how long they may be."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from zephyr.recipe.section import ADDED, FREE, Section
from zephyr.records.rows import Shape

BadRows = Literal["stop", "drop"]
_HELD_OUT = re.compile(r"(?<![a-z])(?:test(?:ing|set)?|valid(?:ation)?|val|eval(?:uation)?|dev|held_?out)(?![a-z])")


class DataSource(Section):
    """Rows of one file, folder or data set on the hub."""

    path: str = Field(description="file, folder, glob or hub id; relative paths are resolved in `data_dir`")
    split: str = Field(
        "train",
        pattern=r"^[^\[\]]+(\[(-?[0-9]+)?%?:(-?[0-9]+)?%?\])?$",
        description="split of a hub data set, or the files of a folder that are named after it; all: every one; with "
        "an optional slice of the rows: train[:10%]",
    )
    config: str | None = Field(None, description="configuration of a hub data set, or a subfolder")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    streaming: bool = Field(
        False,
        description="read a data set of the hub over the network as it is needed, without downloading its files first; "
        "local files are always read so",
        json_schema_extra=FREE,
    )
    shape: Literal["auto", Shape] = Field("auto", description="row format; auto: detected by the fields")
    columns: dict[str, str] = Field(default_factory=dict, description="rename fields; our name: the name in the rows")
    where: dict[str, str] = Field(default_factory=dict, description="keep rows whose field has this value")
    ignore: list[str] = Field(
        default_factory=list,
        description="columns to leave unused, such as scores; of messages: messages.weight",
    )
    weight: float = Field(1.0, gt=0, description="share of the rows to take; above 1, rows are repeated")
    max_rows: int | None = Field(None, ge=1, description="at most this many rows")
    bad_rows: BadRows = Field("stop", description="unusable rows: stop with an error, or drop and count them")
    license: str | None = Field(None, description="licence of the data, for the model card", json_schema_extra=FREE)


class TruecaseFilter(Section):
    """Capitalises the first letter of sentences; drops no rows."""

    name: Literal["truecase"]


class RefusalFilter(Section):
    """Drops answers that refuse, or in which the assistant speaks of itself as a language model."""

    name: Literal["refusals"]
    phrases: list[Annotated[str, Field(pattern=r"[^\s*_#]")]] = Field(
        default_factory=list, description="phrases to look for besides the documented list"
    )


class LanguageFilter(Section):
    """Keeps rows in these languages."""

    name: Literal["language"]
    keep: list[str] = Field(["en"], min_length=1, description="two-letter language codes")


class LengthFilter(Section):
    """Drops rows that are too short or too long."""

    name: Literal["length"]
    min_characters: int = Field(1, ge=0, description="shortest answer, in characters")
    max_characters: int | None = Field(None, ge=1, description="longest row, in characters")
    max_turns: int | None = Field(None, ge=1, description="maximum number of messages")


class DuplicateFilter(Section):
    """Drops exact and near duplicates of earlier rows."""

    name: Literal["duplicates"]
    threshold: float = Field(
        0.8, gt=0, le=1, description="minimum Jaccard similarity of word 5-grams; 1: exact duplicates only"
    )


class DecontaminationFilter(Section):
    """Drops rows that share a word n-gram with an evaluation set."""

    name: Literal["decontamination"]
    against: list[str] = Field(
        min_length=1,
        description="evaluation sets: files, folders or globs, relative to `data_dir`",
        examples=[["eval.jsonl"]],
    )
    ngram: int = Field(
        13, ge=3, description="consecutive words that count as overlap; shorter prompts are compared whole"
    )


class PartFilter(Section):
    """Keeps one of several parts of the rows; no prompt is in two parts."""

    name: Literal["part"]
    number: int = Field(ge=1, description="the part to keep, from 1")
    of: int = Field(ge=2, description="number of parts", examples=[2])

    @model_validator(mode="after")
    def _is_one_of_them(self) -> "PartFilter":
        if self.number > self.of:
            raise ValueError(f"number must be at most {self.of}, the number of parts, got {self.number}")
        return self


Filter = Annotated[
    TruecaseFilter
    | RefusalFilter
    | LanguageFilter
    | LengthFilter
    | DuplicateFilter
    | DecontaminationFilter
    | PartFilter,
    Field(discriminator="name"),
]


class TruncationSection(Section):
    """How rows longer than `max_length` are truncated, and how much may be lost."""

    rule: Literal["keep_start", "keep_end", "trl_0.7", "drop"] = Field(
        "keep_start",
        description="keep_start: cut the end of the answer; keep_end: cut the start of the prompt down to a quarter of "
        "max_length, then the end of the answer; trl_0.7: cut the prompt to max_prompt_length, then the answer; drop: "
        "drop the row. No rule cuts the start of an answer that is learned",
    )
    max_rows_share: float = Field(0.2, ge=0, le=1, description="stop if a larger share of rows is truncated or dropped")
    max_tokens_share: float = Field(0.2, ge=0, le=1, description="stop if a larger share of tokens is lost")


class DataSection(Section):
    """The rows of a stage."""

    sources: list[DataSource] = Field(default_factory=list, description="empty: the output of an earlier stage")
    with_made_rows: bool = Field(
        False, description="add the output of an earlier stage to the sources", json_schema_extra=ADDED
    )
    eval_sources: list[DataSource] = Field(default_factory=list, description="held-out rows, never trained on")
    allow_overlap: int = Field(
        0,
        ge=0,
        description="at most this many prompts of eval_sources may be trained on too; more stop the run",
        json_schema_extra=FREE,
    )
    eval_share: float = Field(0.0, ge=0, lt=1, description="share of the prompts to hold out if eval_sources is empty")
    filters: list[Filter] = Field(default_factory=list, description="filters, applied in this order")
    shuffle: bool = Field(True, description="shuffle the rows once, with the seed of the run")
    max_length: int = Field(1024, ge=8, description="maximum length of prompt and answer, in tokens")
    max_prompt_length: int | None = Field(
        None, ge=1, description="align: maximum length of the prompt, in tokens; null: no separate limit"
    )
    truncation: TruncationSection = Field(default_factory=TruncationSection, description="truncation of long rows")

    @property
    def reads_made(self) -> bool:
        """Whether rows that an earlier stage of the run makes are read."""
        return self.with_made_rows or not self.sources


def is_held_out(split: str) -> bool:
    """Whether a split's name says that its rows are for evaluation."""
    return _HELD_OUT.search(split.lower()) is not None
