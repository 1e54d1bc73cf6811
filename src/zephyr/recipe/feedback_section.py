"""The feedback stage: the models that answer prompts, the judge that rates them, and the rows made of ratings."""

from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from pydantic import Field, model_validator

from zephyr.errors import did_you_mean
from zephyr.recipe.data_section import DataSource, Filter
from zephyr.recipe.section import ADDED, FREE, Section
from zephyr.recipe.teacher_section import (
    EndpointSection,
    LocalSection,
    SamplingSection,
    ScriptedSection,
    TeacherSection,
    VllmSection,
)

REWARD_MODEL: Final = "reward_model"
PrincipleName = Literal["helpfulness", "honesty", "truthfulness", "calibration"]
Aspect = Literal["instruction_following", "honesty", "truthfulness", "helpfulness", "overall"]


class CandidatesSection(Section):
    """Several answers to every prompt."""

    num_completions: int = Field(4, ge=1, description="answers per prompt; pairs need at least 2")
    models: list[str] = Field(
        ["stage:sft"],
        description="models that answer: stages, stage:policy (the model that align starts from), folders or hub ids; "
        "[] if only teachers answer",
    )
    teachers: list[TeacherSection] = Field(
        default_factory=list, description="teachers that answer as well: endpoints, vLLM engines, the scripted teacher"
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how answers are sampled")
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(
        [],
        description="temperatures of a prompt's answers in turn, instead of that of `sampling`; 0: the likeliest text",
        json_schema_extra=ADDED,
    )
    repair: bool = Field(
        False,
        description="add repaired copies of answers that fail checks, made by rules (letter case, commas, bullet "
        "points and the like); for judge checks",
        json_schema_extra=ADDED,
    )
    principles: Literal["none", "readme", "code"] = Field(
        "none",
        description="add a principle to the system prompt, in UltraFeedback's proportions: those of its README or of "
        "its code",
    )
    principle_shares: dict[PrincipleName, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="custom proportions instead, for prompts of every source"
    )

    @model_validator(mode="after")
    def _somebody_answers(self) -> "CandidatesSection":
        if not self.models and not self.teachers:
            raise ValueError("models and teachers are both empty, so no model answers")
        return self


class JudgingSection(Section):
    """The judge's rating requests about the answers to a prompt.

    The bytes of the rubric's file, not its path, decide whether ratings are made again.
    """

    aspects: list[Aspect] = Field(
        ["instruction_following", "honesty", "truthfulness", "helpfulness", "overall"],
        min_length=1,
        description="what is rated: one request per aspect for all answers; for overall one request per answer",
    )
    rubric: Path | None = Field(
        None,
        description="file with aspects, and a prompt if you like, of your own, instead of `aspects`; relative to "
        "`data_dir`",
        json_schema_extra=FREE,
    )
    num_tries: int = Field(3, ge=1, description="attempts per question if the reply cannot be parsed")
    max_new_tokens: int = Field(1024, ge=1, description="maximum length of a reply in tokens")

    @model_validator(mode="after")
    def _one_list_of_aspects(self) -> "JudgingSection":
        if self.rubric is not None and self.aspects != list(get_args(Aspect)):
            raise ValueError("aspects are not read beside a rubric, which has its own: leave one of the two out")
        return self

    def below(self, data_dir: Path) -> "JudgingSection":
        """The section with its rubric looked up in `data_dir`."""
        if self.rubric is None:
            return self
        return self.model_copy(update={"rubric": (data_dir / self.rubric.expanduser()).absolute()})


class RewardModelSection(Section):
    """A reward model scores the answers: any number, the greater the better. No request is sent."""

    name: Literal["reward_model"] = REWARD_MODEL
    model: str = Field(
        description="folder or hub id of a reward model: the model/ of a finished reward stage, or any "
        "AutoModelForSequenceClassification with one label on a decoder",
    )


ModelJudge = Annotated[
    ScriptedSection | LocalSection | VllmSection | EndpointSection | RewardModelSection, Field(discriminator="name")
]


class BesideSection(Section):
    """A judge that rates the answers as well; its overall score, brought to 0 to 1, is mixed with the checks.

    A rating of 1 to 10 is brought there linearly, a reward by the logistic function.
    """

    judge: ModelJudge = Field(description="judge that rates; prompts without checks are rated by it alone")
    weight: float = Field(0.3, gt=0, lt=1, description="share of its score; the checks have the rest")


class ChecksSection(Section):
    """Answers are checked and not rated: a score of 0 to 1 by the checks of each prompt row, without a model.

    Checks are the instructions of IFEval (extra eval) and exact answers: `checks` of a row, or IFEval's own columns.
    """

    name: Literal["checks"] = "checks"
    credit: Literal["share", "all"] = Field(
        "share", description="score: the share of the checks that hold, or 1 if all hold and else 0"
    )
    loose: bool = Field(
        False, description="as IFEval's loose accuracy: overlook a first line, a last line and asterisks"
    )
    max_repetition: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="score 0 for an answer of whose word 4-grams more than this share has stood in it before, as in a "
        "loop (seq-rep-4, arXiv 1908.04319); null: not looked at",
        json_schema_extra=ADDED,
    )
    beside: BesideSection | None = Field(None, description="a judge that rates as well; null: checks alone")


JudgeSection = Annotated[
    ScriptedSection | LocalSection | VllmSection | EndpointSection | ChecksSection | RewardModelSection,
    Field(discriminator="name"),
]


class BinarizeSection(Section):
    """How ratings become training rows.

    An answer can be rejected if it is rated lower than the chosen one, by at least `min_gap`; with ties "keep" an
    equal rating is low enough. Of answers that share the best rating, one is chosen at random.
    """

    output: Literal["pairs", "listwise", "kto"] = Field(
        "pairs", description="kind of row: chosen and rejected, a ranked list, or one labelled answer"
    )
    chosen: str = Field(
        "overall",
        description="score that ranks the answers: overall, an aspect, or mean, the mean of all aspects",
    )
    rejected: Literal["random", "worst", "next"] = Field(
        "random", description="which lower-rated answer is rejected; Zephyr: random"
    )
    min_gap: float = Field(0.0, ge=0, description="minimum difference of the two scores")
    ties: Literal["drop", "keep"] = Field("drop", description="what to do with pairs of equal score")
    max_pairs_per_prompt: int = Field(1, ge=1, description="maximum pairs per prompt")
    kto_threshold: float = Field(5.0, description="kto: answers with at least this score are desirable")
    repair_overall: bool = Field(
        True,
        description="apply the published fix of overall_score (10s that were 1s) to recorded ratings in the format of "
        "UltraFeedback",
    )


class RaySection(Section):
    """Answer and rate on a Ray cluster: that of RAY_ADDRESS, or one started on this machine."""

    num_workers: int = Field(
        2,
        ge=1,
        description="number of workers; each loads the judge and all models that answer",
        json_schema_extra=FREE,
    )
    num_partitions: int = Field(16, ge=1, description="number of partitions of the prompts, each with its own ledger")
    cpus_per_worker: float = Field(1.0, ge=0, description="CPU cores reserved per worker", json_schema_extra=FREE)
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs reserved per worker", json_schema_extra=FREE)


class FeedbackSection(Section):
    """Ratings of several answers per prompt, and the training rows made of them."""

    prompts: list[DataSource] = Field(default_factory=list, description="prompts; empty: those of the synth stage")
    with_made_prompts: bool = Field(
        False, description="add the prompts of the synth stage to prompts and recorded", json_schema_extra=ADDED
    )
    recorded: list[DataSource] = Field(
        default_factory=list,
        description="existing ratings: no model is called, unless there are prompts as well; then rows are made of "
        "both, with scores of checks and of a reward model brought to the scale of 1 to 10",
    )
    candidates: CandidatesSection = Field(
        default_factory=CandidatesSection, description="models that answer, and answers per prompt"
    )
    judge: JudgeSection = Field(default_factory=ScriptedSection, description="judge that rates the answers")
    judging: JudgingSection = Field(
        default_factory=JudgingSection, description="aspects and limits of the rating requests"
    )
    binarize: BinarizeSection = Field(default_factory=BinarizeSection, description="how ratings become training rows")
    filters: list[Filter] = Field(default_factory=list, description="filters of the prompts, in order")
    ray: RaySection | None = Field(None, description="distribute the work over Ray; null: run in this process")

    @property
    def asks_models(self) -> bool:
        """Whether models answer and a judge rates; not where all ratings are recorded."""
        return bool(self.prompts) or self.reads_made

    @property
    def reads_made(self) -> bool:
        """Whether models answer the prompts that the synth stage makes."""
        return self.with_made_prompts or not (self.prompts or self.recorded)

    @model_validator(mode="after")
    def _several_answers(self) -> "FeedbackSection":
        if self.candidates.num_completions < 2:
            raise ValueError("candidates.num_completions must be at least 2, because ratings are compared")
        return self

    @model_validator(mode="after")
    def _repaired_for_checks(self) -> "FeedbackSection":
        if self.candidates.repair and not isinstance(self.judge, ChecksSection):
            raise ValueError(f"candidates.repair is for judge checks, and the judge is {self.judge.name}: drop it")
        return self

    @model_validator(mode="after")
    def _known_score(self) -> "FeedbackSection":
        known = [*get_args(Aspect), "mean"]
        if self.binarize.chosen not in known and self.judging.rubric is None and not self.recorded:
            meant = did_you_mean(self.binarize.chosen, known).removeprefix("; ")
            raise ValueError(f"binarize.chosen is no score, got '{self.binarize.chosen}': {meant}")
        return self

    @model_validator(mode="after")
    def _scores_without_a_teacher(self) -> "FeedbackSection":
        if not isinstance(self.judge, ChecksSection | RewardModelSection) or not self.asks_models:
            return self
        judge = "a reward model" if isinstance(self.judge, RewardModelSection) else "judge checks"
        if self.binarize.chosen != "overall":
            raise ValueError(f"binarize.chosen must be overall with {judge}, got {self.binarize.chosen}")
        is_kto_of_checks = isinstance(self.judge, ChecksSection) and self.binarize.output == "kto"
        if is_kto_of_checks and self.binarize.kto_threshold > 1 and not self.recorded:
            raise ValueError("binarize.kto_threshold must be at most 1 with judge checks, whose scores are 0 to 1")
        is_asked = bool(teachers_that_rate(self.judge))
        if is_asked and "overall" not in self.judging.aspects:
            raise ValueError("judging.aspects must name overall, the score that is mixed with the checks")
        if not is_asked and self.judging != JudgingSection():
            raise ValueError(f"judging is for judges that are asked, and {judge} is not: leave it out")
        return self


def pool_of(section: CandidatesSection) -> dict[str, TeacherSection]:
    """Who answers, by their keys in the feedback section."""
    models = {f"candidates.models.{number}": LocalSection(model=name) for number, name in enumerate(section.models)}
    return models | {f"candidates.teachers.{number}": one for number, one in enumerate(section.teachers)}


def teachers_that_rate(judge: JudgeSection) -> dict[str, TeacherSection]:
    """The teacher that a judge asks, by its key in the feedback section; empty for a judge that asks none."""
    if isinstance(judge, RewardModelSection):
        return {}
    if not isinstance(judge, ChecksSection):
        return {"judge": judge}
    beside = {} if judge.beside is None else teachers_that_rate(judge.beside.judge)
    return {f"judge.beside.{key}": teacher for key, teacher in beside.items()}


def reward_models_of(judge: JudgeSection) -> dict[str, RewardModelSection]:
    """The reward model that rates, by its key in the feedback section; empty where none does."""
    if isinstance(judge, ChecksSection) and judge.beside is not None:
        return {f"judge.beside.{key}": one for key, one in reward_models_of(judge.beside.judge).items()}
    return {"judge": judge} if isinstance(judge, RewardModelSection) else {}
