"""AI feedback from Python: `zephyr.generate`, `judge` and `binarize`; what one returns the next one takes."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from zephyr.api.inputs import OUTPUT_DIR, ModelLike, RowsLike, model_name, sources_of
from zephyr.api.settings import Keywords, SettingValue, plain
from zephyr.errors import DataError, RecipeError, TeacherError
from zephyr.progress import show_progress
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.feedback_section import (
    REWARD_MODEL,
    ChecksSection,
    FeedbackSection,
    JudgeSection,
    RewardModelSection,
    teachers_that_rate,
)
from zephyr.recipe.outline import Keys
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.recipe.stage_sections import FEEDBACK
from zephyr.recipe.teacher_section import LocalSection, TeacherSection
from zephyr.runs.layout import LEDGER
from zephyr.teachers.opening import (
    TEACHER_FILES,
    TeacherContext,
    open_teacher,
    parse_judge,
    parse_teacher,
    prompts_together,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zephyr.records.rows import Rated
    from zephyr.teachers.protocol import Teacher

TeacherLike: TypeAlias = "ModelLike | Mapping[str, SettingValue]"
_TEACHERS = ("local:", "vllm:", "endpoint:")
_CANDIDATES = (FEEDBACK, "candidates")


def _keywords(function: str, *homes: Keys) -> Keywords:
    """The keywords of a function: the fields of some sections, and those of the whole run."""
    made: dict[Keys, Plain] = {
        ("model", "kind"): "pretrained",
        ("model", "name_or_path"): "model",
        (FEEDBACK, "prompts"): [{"path": "dataset"}],
        (*_CANDIDATES, "models"): ["model"],
        (*_CANDIDATES, "num_completions"): 2,
    }
    return Keywords(function, [*homes, ()], made)


FEEDBACK_KEYWORDS = {
    "generate": _keywords("generate", (*_CANDIDATES, "sampling"), _CANDIDATES),
    "judge": _keywords("judge", (FEEDBACK, "judging")),
    "binarize": _keywords("binarize", (FEEDBACK, "binarize")),
}


@dataclass(frozen=True)
class RowsResult:
    """Rows that were made, in a JSONL file; `metrics` counts what became of the inputs."""

    file: Path
    metrics: Mapping[str, Plain]

    @property
    def folder(self) -> Path:
        """The folder of the file, with the ledger of calls if there were some."""
        return self.file.parent

    @cached_property
    def rows(self) -> list[dict[str, Plain]]:
        """The rows as dictionaries."""
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Plain]]:
        return iter(self.rows)


def generate(
    model: "TeacherLike",
    prompts: "RowsLike | Sequence[str]",
    *,
    num_completions: int = 1,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    **settings: "SettingValue",
) -> RowsResult:
    """The answers of a model to prompts: a row for each, with `prompt` and `answers`.

    `model`: a hub id, a folder, a model in memory, or a teacher as in a recipe or on the command line. `settings`: the
    recipe's `feedback.candidates` and its sampling, and those of the whole run. Raises ZephyrError.
    """
    from zephyr.data.read.sources import open_source
    from zephyr.feedback.candidates import CHUNK_PROMPTS, answer_prompts
    from zephyr.records.writing import write_jsonl
    from zephyr.teachers.ledger.ledger import Ledger
    from zephyr.teachers.ledger.prices import cap_of

    call = _Call.of("generate", model, settings)
    if num_completions < 1:
        raise DataError("zephyr.generate", f"num_completions must be at least 1, got {num_completions}", "ask for one")
    source = call.source(prompts if isinstance(prompts, str) else _as_rows(prompts))
    rows = open_source(source, "prompt", data_dir=call.recipe.data_dir, offline=call.recipe.offline)
    section = call.teacher(model, tokenizer)
    teacher = open_teacher(section, "writes", call.context, where="zephyr.generate")
    candidates = call.section.candidates.model_copy(update={"num_completions": num_completions})
    chunk, counts = prompts_together(CHUNK_PROMPTS, [section]), Counter[str]()

    def answered(pool: "Sequence[Teacher]") -> "Iterator[Rated]":
        with show_progress("generate", len(rows)) as display:
            found = answer_prompts(rows, pool, candidates, seed=call.recipe.seed, chunk_prompts=chunk)
            for number, one in enumerate(found, 1):
                counts.update(one.counts)
                yield one.rated
                display.update(number)

    file = call.file("answers.jsonl")
    with Ledger(call.file(LEDGER), cap_of([section])) as ledger:
        write_jsonl(file, answered([teacher.with_ledger(ledger)]), replace=True)
    return RowsResult(file, dict(counts))


def judge(
    dataset: "RowsLike",
    judge: "TeacherLike",
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    **settings: "SettingValue",
) -> RowsResult:
    """The rows with the ratings of their answers by a judge; pairs and labels have answers too.

    `settings`: the recipe's `feedback.judging`, and those of the whole run. Requests that were answered before in the
    same folder are not sent again. Raises ZephyrError.
    """
    from zephyr.feedback.judge import calls_beside
    from zephyr.feedback.opened_rows import open_answers
    from zephyr.feedback.rate import RatingPlan, rate_rows
    from zephyr.feedback.raters import refuse_unchecked
    from zephyr.teachers.ledger.ledger import Ledger

    call = _Call.of("judge", judge, settings)
    source = call.source(dataset)
    rows, _ = open_answers(source, offline=call.recipe.offline)
    judging = call.section.judging.below(call.recipe.data_dir)
    plan = RatingPlan(call.rater(judge, tokenizer), judging, call.context, min_answers=1)
    refuse_unchecked(rows, plan.rater, source)
    file, teachers = call.file("ratings.jsonl"), plan.open()
    with Ledger(call.file(LEDGER), plan.cap) as ledger, show_progress("judge", len(rows)) as display:
        files = (file, calls_beside(file))
        counts = rate_rows(rows, teachers, plan, ledger, files, replace=True, on_row=display.update).judged
    if counts["questions"] and not counts["rated"]:
        what = f"rated nothing in {counts['questions']:,} questions"
        raise TeacherError("zephyr.judge", what, f"{calls_beside(file)} has the reason of each; fix that, run again")
    return RowsResult(file, dict(counts))


def binarize(dataset: "RowsLike", **settings: "SettingValue") -> RowsResult:
    """The training rows made of rated answers: pairs, or what `output` says.

    `settings`: the recipe's `feedback.binarize`, and those of the whole run. Raises ZephyrError.
    """
    from zephyr.data.read.sources import open_source
    from zephyr.feedback.binarize import binarize, nothing_made, repair_where_published
    from zephyr.records.writing import write_jsonl

    call = _Call.of("binarize", None, settings)
    source, section = call.source(dataset), call.section.binarize
    records = open_source(source, "rated", data_dir=call.recipe.data_dir, offline=call.recipe.offline)
    made = binarize(records, repair_where_published(section, records.shapes.values()), seed=call.recipe.seed)
    if not made.rows:
        raise nothing_made(made, "zephyr.binarize", section.output, "choose another rule")
    write_jsonl(call.file(f"{section.output}.jsonl"), made.rows, replace=True)
    dropped: dict[str, Plain] = {**records.counts, **made.left_out, **made.dropped}
    counts = {"prompts": made.prompts, "prompts_used": made.used, section.output: len(made.rows)}
    return RowsResult(call.file(f"{section.output}.jsonl"), {**counts, "dropped": dropped, "rule": made.rule})


@dataclass(frozen=True)
class _Call:
    """A call of one of these functions: its settings as a recipe, and the folder that it writes into."""

    recipe: Recipe
    section: FeedbackSection

    @classmethod
    def of(cls, function: str, teacher: "TeacherLike | None", settings: Mapping[str, SettingValue]) -> "_Call":
        """The call with these settings, after its folder is made. Raises RecipeError."""
        keywords = FEEDBACK_KEYWORDS[function]
        if isinstance(teacher, Mapping):
            data = {**keywords.data, (FEEDBACK, "judge"): plain(teacher, f"zephyr.{function}")}
            keywords = replace(keywords, data=data)
        recipe = keywords.recipe({"name": function, "output_dir": OUTPUT_DIR, **settings})
        assert recipe.feedback is not None
        call = cls(recipe, recipe.feedback)
        call.file("").mkdir(parents=True, exist_ok=True)
        return call

    def file(self, name: str) -> Path:
        """A file of that name in the call's folder."""
        return self.recipe.output_dir / self.recipe.name / name

    def source(self, rows: RowsLike) -> DataSource:
        """The rows as one source. Raises DataError."""
        return DataSource.model_validate(sources_of(rows, self.file(""))[0])

    @property
    def context(self) -> TeacherContext:
        """What its teachers have in common."""
        return TeacherContext(self.recipe.seed, self.recipe.offline)

    def teacher(self, named: TeacherLike, tokenizer: "PreTrainedTokenizerBase | None") -> TeacherSection:
        """The section of a teacher, as a recipe or a command line has it, or of a model. Raises ZephyrError."""
        if isinstance(named, Mapping):
            section = teachers_that_rate(self.section.judge).get("judge")
            if section is None:
                remedy = "name a scripted, local, vllm or endpoint teacher"
                raise RecipeError("zephyr.generate", f"{self.section.judge.name} does not write answers", remedy)
            return section
        return teacher_section(named, tokenizer, self.file(""))

    def rater(self, named: TeacherLike, tokenizer: "PreTrainedTokenizerBase | None") -> JudgeSection:
        """The section of a judge, as for a teacher; also one that checks, or a reward model. Raises ZephyrError."""
        if isinstance(named, Mapping):
            return self.section.judge
        if getattr(named, "is_reward_model", False):
            return RewardModelSection(model=model_name(named, None, self.file("")))
        if isinstance(named, str) and (named.startswith(f"{REWARD_MODEL}:") or named == ChecksSection().name):
            return parse_judge(named)
        return teacher_section(named, tokenizer, self.file(""))


def _as_rows(prompts: "RowsLike | Sequence[str]") -> RowsLike:
    """The prompts as rows, where some are given as texts."""
    if isinstance(prompts, list | tuple):
        return [{"prompt": one} if isinstance(one, str) else one for one in prompts]
    return cast("RowsLike", prompts)


def teacher_section(named: ModelLike, tokenizer: "PreTrainedTokenizerBase | None", folder: Path) -> TeacherSection:
    """The section of a teacher as a command line names it, or of a model, which is written below `folder`.

    Raises what `parse_teacher` and `model_name` do.
    """
    is_teacher = isinstance(named, str) and (
        named == "scripted" or named.startswith(_TEACHERS) or named.endswith(TEACHER_FILES)
    )
    return parse_teacher(str(named)) if is_teacher else LocalSection(model=model_name(named, tokenizer, folder))
