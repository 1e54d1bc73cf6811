"""Where rows come from, which of them are kept, and what may be lost of them."""

from typing import Annotated, Literal

from pydantic import Field

from zephyr.recipe.section import FREE, Section
from zephyr.records.rows import Shape

BadRows = Literal["stop", "drop"]


class DataSource(Section):
    """Rows of one file, folder or data set on the hub."""

    path: str = Field(description="file, folder, glob or hub id; a relative one is looked up in `data_dir`")
    split: str = Field(
        "train",
        pattern=r"^[^\[\]]+(\[(-?[0-9]+)?%?:(-?[0-9]+)?%?\])?$",
        description="split of a hub data set, with an optional slice: train[:10%]",
    )
    config: str | None = Field(None, description="configuration of a hub data set")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    shape: Literal["auto", Shape] = Field("auto", description="what the rows look like; auto: told by their fields")
    columns: dict[str, str] = Field(default_factory=dict, description="our name of a field: its name in the rows")
    where: dict[str, str] = Field(default_factory=dict, description="keep rows whose field has this value")
    weight: float = Field(1.0, gt=0, description="share of the rows that is taken; above 1 they are repeated")
    max_rows: int | None = Field(None, ge=1, description="at most this many rows")
    bad_rows: BadRows = Field("stop", description="rows that cannot be used: stop, or count and leave out")
    license: str | None = Field(None, description="licence of the data, for the model card", json_schema_extra=FREE)


class TruecaseFilter(Section):
    """Capital letters where sentences begin; changes texts, drops none."""

    name: Literal["truecase"]


class RefusalFilter(Section):
    """Drops answers that refuse or speak of themselves as a language model."""

    name: Literal["refusals"]
    phrases: list[Annotated[str, Field(pattern=r"[^\s*_#]")]] = Field(
        default_factory=list, description="further phrases, beside the list of the documentation"
    )


class LanguageFilter(Section):
    """Keeps texts in these languages."""

    name: Literal["language"]
    keep: list[str] = Field(["en"], min_length=1, description="languages by their two letters")


class LengthFilter(Section):
    """Drops rows that are too short or too long, in characters."""

    name: Literal["length"]
    min_characters: int = Field(1, ge=0, description="shortest answer")
    max_characters: int | None = Field(None, ge=1, description="longest row")
    max_turns: int | None = Field(None, ge=1, description="most messages of a dialogue")


class DuplicateFilter(Section):
    """Drops rows that stand there already, exactly or nearly."""

    name: Literal["duplicates"]
    threshold: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of word 5-grams; 1: exact duplicates alone"
    )


class DecontaminationFilter(Section):
    """Drops rows that share an n-gram of words with an evaluation set."""

    name: Literal["decontamination"]
    against: list[str] = Field(
        min_length=1, description="evaluation sets: files, folders or globs, looked up in `data_dir`"
    )
    ngram: int = Field(13, ge=3, description="words in a row that count as overlap; shorter prompts count whole")


Filter = Annotated[
    TruecaseFilter | RefusalFilter | LanguageFilter | LengthFilter | DuplicateFilter | DecontaminationFilter,
    Field(discriminator="name"),
]


class TruncationSection(Section):
    """What happens to rows that are longer than `max_length`, and how much of that is too much."""

    rule: Literal["keep_start", "keep_end", "trl_0.7", "drop"] = Field(
        "keep_start",
        description="keep_start cuts the end of the answer, keep_end the start of the prompt, trl_0.7 the prompt to "
        "max_prompt_length and then the answer, drop leaves the row out",
    )
    max_rows_share: float = Field(0.2, ge=0, le=1, description="stop if a larger share of the rows is cut or dropped")
    max_tokens_share: float = Field(0.2, ge=0, le=1, description="stop if a larger share of the tokens is lost")


class DataSection(Section):
    """The rows of a stage."""

    sources: list[DataSource] = Field(default_factory=list, description="empty: what the stage before has made")
    eval_sources: list[DataSource] = Field(default_factory=list, description="held-out rows, never trained on")
    eval_share: float = Field(0.0, ge=0, lt=1, description="share of the prompts held out where eval_sources is empty")
    filters: list[Filter] = Field(default_factory=list, description="in the order they are applied")
    shuffle: bool = Field(True, description="shuffle the rows once, with the seed of the run")
    max_length: int = Field(1024, ge=8, description="longest sequence in tokens, prompt and answer")
    max_prompt_length: int | None = Field(
        None, ge=1, description="longest prompt in tokens; left out: no limit of its own"
    )
    truncation: TruncationSection = Field(default_factory=TruncationSection, description="rows that are too long")
