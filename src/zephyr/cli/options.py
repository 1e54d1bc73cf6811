"""Options that several commands take, with their help."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from zephyr.recipe.feedback_section import Aspect, JudgingSection

TEACHER_HELP = "scripted, local:FOLDER, vllm:FOLDER, endpoint:MODEL@URL, or FILE.yaml with a recipe's teacher section."

Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")]
BadRowsOption = Annotated[Literal["stop", "drop"], typer.Option(help="What to do with unreadable rows.")]
# The rows of a file, as in a recipe's sources.
RowFormat = Annotated[str, typer.Option("--shape", "--format", help="Row format; default: auto-detect.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="OURS=THEIRS", help="Rename columns: prompt=question,completion=answer."),
]
Where = Annotated[
    list[str] | None, typer.Option("--where", metavar="NAME=VALUE", help="Keep rows whose field has this value.")
]
Ignore = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="NAME", help="Leave a column unused, such as a score.")
]
OutFile = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Output file, JSON lines.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]

# Calls to teachers and judges.
LedgerFile = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="FILE", help="Ledger of calls; requests answered in it are not sent again."),
]
KeyEnv = Annotated[str, typer.Option(metavar="NAME", help="Environment variable with an endpoint's API key.")]
Concurrency = Annotated[int, typer.Option(min=1, max=4096, help="Maximum concurrent requests to an endpoint.")]
CapTokens = Annotated[int | None, typer.Option(min=1, help="Token cap: stop before all calls in the ledger use more.")]

# A judge and its rating requests.
RatingJudge = Annotated[
    str, typer.Option("--judge", metavar="JUDGE", help=f"The judge: checks, reward_model:FOLDER, {TEACHER_HELP}")
]
JudgeTeacher = Annotated[str, typer.Option("--judge", metavar="JUDGE", help=f"The judge: {TEACHER_HELP}")]
Aspects = Annotated[
    str,
    typer.Option(help="What is rated: all, or some of instruction_following,honesty,truthfulness,helpfulness,overall."),
]
RubricOption = Annotated[
    Path | None,
    typer.Option("--rubric", metavar="FILE", help="Aspects and a prompt of your own; see --aspects."),
]
JudgeTries = Annotated[int, typer.Option(min=1, help="Attempts per question if the reply cannot be parsed.")]
LongestReply = Annotated[int, typer.Option(min=1, help="Maximum length of the judge's reply in tokens.")]


def judging_section(aspects: str, rubric: Path | None, tries: int, max_reply_tokens: int) -> "JudgingSection":
    """What the judge is asked.

    Raises DataError for unknown aspects, or some beside a rubric, RecipeError for a rubric that cannot be used.
    """
    from zephyr.errors import DataError
    from zephyr.recipe.feedback_section import JudgingSection

    if rubric is None:
        return JudgingSection(aspects=parse_aspects(aspects), num_tries=tries, max_new_tokens=max_reply_tokens)
    if aspects != "all":
        raise DataError("--aspects", f"the aspects are those of the rubric {rubric}", "leave one of the two out")
    from zephyr.judging.rubric import read_rubric

    read_rubric(rubric.expanduser())
    # Workers on Ray may stand in another folder.
    return JudgingSection(rubric=rubric.expanduser().absolute(), num_tries=tries, max_new_tokens=max_reply_tokens)


def parse_aspects(named: str) -> "list[Aspect]":
    """The aspects that a user names, "all" or separated by commas. Raises DataError."""
    from zephyr.errors import DataError, did_you_mean
    from zephyr.judging import ASPECTS, OVERALL
    from zephyr.records.fields import printable

    known: dict[str, Aspect] = {aspect: aspect for aspect in (*ASPECTS, OVERALL)}
    names = list(known) if named == "all" else [name.strip() for name in named.split(",")]
    for name in names:
        if name not in known:
            meant = did_you_mean(name, known).removeprefix("; ")
            raise DataError("--aspects", f"there is no such aspect, got '{printable(name)}'", meant)
    return [known[name] for name in names]
