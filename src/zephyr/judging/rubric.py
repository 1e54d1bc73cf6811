"""A rubric: the aspects that a judge rates by, and the prompt that asks about them, in a user's own YAML file.

The file is read and validated whole, and its bytes, not its path, decide whether ratings are made again. Fences, the
rules about them, and the form of the reply stay ours: they keep texts from rating themselves, and replies readable.
"""

import hashlib
from collections import Counter
from pathlib import Path
from string import Template
from typing import NamedTuple

from pydantic import Field, ValidationError, field_validator, model_validator

from zephyr.errors import RecipeError, did_you_mean
from zephyr.judging.questions import OVERALL, AspectWording, Scale, template_text
from zephyr.recipe.outline import Place
from zephyr.recipe.problems import broken, from_detail
from zephyr.recipe.section import Section
from zephyr.recipe.validating import without_twins
from zephyr.recipe.yaml_text import read_yaml

NEEDED = ("question", "rules", "conversation", "answers", "form")
PLACEHOLDERS = (*NEEDED, "aspect", "count", "high", "low", "notes")
_MOST_BYTES = 2**20


class RubricAspect(Section):
    """What is rated, in words for the judge, and the scale."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,39}$",
        description="a word of small letters, digits and _; overall is asked about one answer at a time",
    )
    question: str = Field(pattern=r"\S", description="what is rated and what each rating means, for the judge")
    scale: list[float] = Field(description="the lowest and the highest rating, such as [1, 5]")
    not_applicable: bool = Field(False, description="N/A is a rating too; not of overall")

    @field_validator("scale")
    @classmethod
    def _rises(cls, scale: list[float]) -> list[float]:
        if len(scale) != 2 or not -100_000 <= scale[0] < scale[1] <= 100_000:
            raise ValueError(f"must be the lowest and the highest rating, got {scale}: write, for example, [1, 5]")
        return scale

    @model_validator(mode="after")
    def _is_rankable(self) -> "RubricAspect":
        if self.name == "mean":
            raise ValueError("the name mean is taken, by the mean of all aspects: choose another")
        if self.name == OVERALL and self.not_applicable:
            raise ValueError("overall always has a rating: leave not_applicable out")
        return self


class RubricFile(Section):
    """The keys of a rubric."""

    aspects: list[RubricAspect] = Field(min_length=1, description="what is rated, one request for each")
    prompt: str | None = Field(None, description="the user message, with $placeholders")
    system: str = Field("", description="who the judge is; comes before the system prompt of all questions")

    @field_validator("aspects")
    @classmethod
    def _are_different(cls, aspects: list[RubricAspect]) -> list[RubricAspect]:
        twice = [name for name, count in Counter(one.name for one in aspects).items() if count > 1]
        if twice:
            raise ValueError(f"two aspects have the name {twice[0]}: name each once")
        return aspects

    @field_validator("prompt")
    @classmethod
    def _has_placeholders(cls, prompt: str | None) -> str | None:
        faults = [] if prompt is None else _faults(prompt)
        if faults:
            raise ValueError("; ".join(faults) + f": placeholders are {', '.join(f'${name}' for name in PLACEHOLDERS)}")
        return prompt


def _faults(prompt: str) -> list[str]:
    """What is wrong with the placeholders of a prompt."""
    found = list(Template.pattern.finditer(prompt))
    named = Counter(one["named"] or one["braced"] for one in found if one["named"] or one["braced"])
    faults = [f"has no ${name}" for name in NEEDED if name not in named]
    faults += [f"has ${name} {named[name]} times" for name in ("conversation", "answers") if named[name] > 1]
    for name in sorted(named.keys() - set(PLACEHOLDERS)):
        meant = did_you_mean(name, PLACEHOLDERS).removeprefix("; ").replace("'", "")
        faults.append(f"has the unknown ${name} ({meant}, or $${name} for the text itself)")
    if any(one["invalid"] is not None for one in found):
        faults.append("has a $ that begins no placeholder (write $$ for one)")
    return faults


class Rubric(NamedTuple):
    """How a judge is asked, by aspect, and the hash of the file."""

    wordings: dict[str, AspectWording]
    sha256: str


def read_rubric(file: Path) -> Rubric:
    """The rubric in a file. Raises RecipeError with all problems at once."""
    content = _bytes(file)
    try:
        document = read_yaml(content.decode("utf-8-sig"), str(file))
    except UnicodeDecodeError as error:
        raise RecipeError(str(file), "is not UTF-8 text", "save it as UTF-8") from error
    if not isinstance(document.value, dict):
        what = f"holds {type(document.value).__name__} and no keys"
        raise RecipeError(str(file), what, "begin with the example in docs/how-to/judge-rubric.md")
    try:
        found = RubricFile.model_validate(document.value)
    except ValidationError as error:
        top = Place({"": RubricFile})
        problems = [from_detail(detail, document.value, top) for detail in error.errors(include_url=False)]
        raise broken(
            str(file), without_twins(problems), {keys: f"line {line}" for keys, line in document.lines.items()}
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    template = template_text("own.txt") if found.prompt is None else Template(found.prompt.strip())
    return Rubric(
        {
            one.name: AspectWording(
                one.question.strip(),
                Scale(one.scale[0], one.scale[1], optional=one.not_applicable),
                template,
                found.system.strip(),
                f"rubric {sha256[:12]}",
            )
            for one in found.aspects
        },
        sha256,
    )


def _bytes(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        remedy = "name a rubric, relative to data_dir in a recipe"
        raise RecipeError("judging.rubric", f"there is no file {file.absolute()}", remedy) from error
    except OSError as error:
        raise RecipeError(str(file), f"cannot be read ({error.strerror})", "name a YAML file") from error
    if len(content) > _MOST_BYTES:
        raise RecipeError(str(file), f"is no rubric: it has {len(content):,} bytes", "name a YAML file")
    return content
