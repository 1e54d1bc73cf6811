"""The sections of a recipe, one for each stage, in order. Defaults are declared in sections and nowhere else."""

from pathlib import Path
from typing import ClassVar, Final, Literal, TypeAlias

from pydantic import Field

from zephyr.recipe.data_section import DataSection
from zephyr.recipe.evaluate_section import EvaluateSection
from zephyr.recipe.feedback_section import FeedbackSection
from zephyr.recipe.model_section import ChatTemplateSection, ModelSection, TemplateSection
from zephyr.recipe.objective_section import AlignObjective, BradleyTerryObjective, PreferenceObjective, SftObjective
from zephyr.recipe.section import FREE, REPO, Section
from zephyr.recipe.synth_section import SynthSection
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.recipe.train_section import LoraSection, TrainSection

SYNTH: Final = "synth"
PRETRAIN: Final = "pretrain"
SFT: Final = "sft"
FEEDBACK: Final = "feedback"
REWARD: Final = "reward"
ALIGN: Final = "align"
EVALUATE: Final = "evaluate"
DELIVER: Final = "deliver"
STAGE_NAMES = (SYNTH, PRETRAIN, SFT, FEEDBACK, REWARD, ALIGN, EVALUATE, DELIVER)
TRAINING_STAGES = (PRETRAIN, SFT, REWARD, ALIGN)
# Those whose model writes, and is what the next of them starts from.
POLICY_STAGES = (PRETRAIN, SFT, ALIGN)


class PretrainSection(Section):
    """Continued pretraining on plain text, with the loss on every token."""

    objective: ClassVar[SftObjective] = SftObjective(loss_on="everything")
    lora: ClassVar[None] = None
    data: DataSection = Field(default_factory=DataSection, description="texts; no sources: those of the synth stage")
    train: TrainSection = Field(description="hyper-parameters")


class SftSection(Section):
    """Supervised fine-tuning on dialogues: dSFT where a teacher wrote them."""

    data: DataSection = Field(
        default_factory=DataSection, description="dialogues; no sources: those of the synth stage"
    )
    objective: SftObjective = Field(default_factory=SftObjective, description="tokens in the loss")
    batch_counts: Literal["dialogues", "packed"] = Field(
        "dialogues",
        description="unit of train_batch_size; packed: sequences of max_length tokens, as in the published runs, so "
        "that a step takes as many dialogues as fill them",
    )
    train: TrainSection = Field(description="hyper-parameters")
    lora: LoraSection | None = Field(None, description="train adapters instead of all weights")

    def dialogues_per_step(self, mean_tokens: float) -> int:
        """How many dialogues of `mean_tokens` tokens on average make an optimizer step."""
        if self.batch_counts == "dialogues":
            return self.train.train_batch_size
        return max(1, round(self.train.train_batch_size * self.data.max_length / mean_tokens))


class PreferenceSection(Section):
    """What the stages share that learn from preferences."""

    data: DataSection = Field(default_factory=DataSection, description="pairs; no sources: those of the feedback stage")
    objective: PreferenceObjective = Field(description="training objective")
    train: TrainSection = Field(description="hyper-parameters")
    lora: LoraSection | None = Field(None, description="train adapters instead of all weights")
    start: str | None = Field(None, description="model to start from; null: the model of the previous stage")
    chat_template: TemplateSection | None = Field(None, description="chat template of this stage; null: the recipe's")


class AlignSection(PreferenceSection):
    """Preference training: dDPO where a judge rated the answers."""

    objective: AlignObjective = Field(description="training objective")
    reference: str | None = Field(
        None, description="model whose log-probs the objective compares with; null: the one that training starts from"
    )


class RewardSection(PreferenceSection):
    """A reward model: one number for an answer, learnt from preferences."""

    objective: BradleyTerryObjective = Field(default_factory=BradleyTerryObjective, description="training objective")


TrainingSection: TypeAlias = PretrainSection | SftSection | RewardSection | AlignSection


class PushSection(Section):
    """Where a finished run is published on the Hugging Face hub: what `zephyr push` sends."""

    repo: str = Field(
        pattern=REPO,
        description="repository of the model, OWNER/NAME; made where there is none",
        examples=["owner/name"],
    )
    private: bool = Field(False, description="make new repositories private, and refuse public ones")
    data_repo: str | None = Field(
        None, pattern=REPO, description="repository of the rows that synth and feedback made, as Parquet"
    )


class DeliverSection(Section):
    """The report of the run and its model card."""

    report: bool = Field(True, description="write a report of the run")
    push_to_hub: PushSection | None = Field(
        None, description="publish the finished run; needs a token that may write", json_schema_extra=FREE
    )
    sample_prompts: list[str] = Field(
        default_factory=list, description="prompts whose answers by every model are in the report"
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection, description="how these answers are sampled")


class RoundsSection(Section):
    """Feedback and align again and again, each round from the model of the round before, on prompts of its own."""

    count: int = Field(ge=2, description="number of rounds, at most", examples=[2])
    reference: Literal["round_start", "first"] = Field(
        "round_start", description="reference of each round: the model that it starts from, or that of the first round"
    )
    watch: str | None = Field(
        None, description="score of evaluate that must not fall: world, preference/accuracy, or the name of a benchmark"
    )
    patience: int = Field(1, ge=1, description="stop after so many rounds without a better score of `watch`")


FASTEST: Final = "fastest"
InferenceDtype: TypeAlias = Literal["float32", "bfloat16", "fastest"]


class RecipeFields(Section):
    """The keys of a recipe, each validated alone; `Recipe` rejects those that conflict with each other."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run and of its folder")
    description: str = Field("", description="one sentence for the model card and the report")
    seed: int = Field(42, ge=0, description="random seed of the whole run")
    offline: bool = Field(False, description="use no network")
    output_dir: Path = Field(Path("runs"), description="folder in which the run's folder is created")
    data_dir: Path = Field(Path(), description="folder that relative data paths are resolved in")
    inference_dtype: InferenceDtype | None = Field(
        None,
        description="dtype of models that answer or are scored on this machine; null: bfloat16 on an accelerator, "
        "float32 on a CPU; fastest: the faster one, measured when the run begins and kept for it",
    )
    model: ModelSection = Field(description="the base model")
    chat_template: TemplateSection = Field(default_factory=ChatTemplateSection, description="chat template")
    synth: SynthSection | None = Field(None, description="dialogues from a teacher")
    pretrain: PretrainSection | None = Field(None, description="continued pretraining on plain text")
    sft: SftSection | None = Field(None, description="supervised fine-tuning on dialogues")
    feedback: FeedbackSection | None = Field(None, description="answers of several models, rated by a judge")
    reward: RewardSection | None = Field(None, description="a reward model")
    align: AlignSection | None = Field(None, description="preference training")
    rounds: RoundsSection | None = Field(None, description="repeat feedback and align; null: once")
    evaluate: EvaluateSection | None = Field(None, description="evaluation of the models")
    deliver: DeliverSection | None = Field(None, description="report and model card")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this run, in order."""
        return tuple(stage for stage in STAGE_NAMES if getattr(self, stage) is not None)

    @property
    def trained(self) -> dict[str, TrainingSection]:
        """The sections of the stages that train, in order."""
        return {stage: getattr(self, stage) for stage in TRAINING_STAGES if getattr(self, stage) is not None}

    @property
    def asks_for_fastest(self) -> bool:
        """Whether a dtype or a precision is left to the machine."""
        return FASTEST in (self.inference_dtype, *(section.train.precision for section in self.trained.values()))

    def template_of(self, stage: str) -> TemplateSection:
        """The layout of dialogues in a stage."""
        section = getattr(self, stage)
        own = section.chat_template if isinstance(section, PreferenceSection) else None
        return own or self.chat_template
