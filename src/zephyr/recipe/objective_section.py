"""What a model is trained for: the objectives and their options.

To add a pair loss: its name in `PairLossName`, its options in `LOSSES_OF_OPTIONS`, and a row in
`zephyr.train.losses.pairs`. To add an objective: a section here, and a class in `zephyr.train.objectives`.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from zephyr.errors import RecipeError
from zephyr.recipe.section import FREE, Section

LossOn = Literal["assistant", "everything"]
PairLossName = Literal[
    "sigmoid", "sigmoid_norm", "robust", "hinge", "ipo", "ipo_sum", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
    "apo_zero", "apo_down", "discopop", "aot", "aot_unpaired", "kto_pair",
]  # fmt: skip
ContrastiveLossName = Literal["sigmoid", "hinge", "ipo"]
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
# What training on pairs measures besides its loss, by the names of the published model cards.
PAIR_METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins",
    "logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected",
)  # fmt: skip
# The options of dpo that belong to some of its losses alone.
LOSSES_OF_OPTIONS: dict[str, tuple[PairLossName, ...]] = {
    "label_smoothing": ("sigmoid", "sigmoid_norm", "robust", "exo_pair", "aot", "aot_unpaired"),
    "f_divergence": ("sigmoid", "sigmoid_norm", "robust", "hinge", "ipo", "exo_pair", "discopop"),
    "discopop_tau": ("discopop",),
    "bco_delta": ("bco_pair",),
}


class PreferenceObjective(Section):
    """What the objectives of preference training share: their reference, and how many completions a prompt may have."""

    needs_reference: ClassVar[bool] = False
    fewest_completions: ClassVar[int] = 2

    @property
    def most_completions(self) -> int | None:
        """The most completions a prompt may have; None: as many as the data has."""
        return self.fewest_completions

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured of the examples besides the loss."""
        return PAIR_METRICS

    @property
    def scores_prompt(self) -> bool:
        """Whether the tokens of the prompt are learnt too."""
        return False

    def completions_problem(self, num_completions: int) -> str | None:
        """What is wrong with a prompt of so many completions, or None."""
        fewest, most = self.fewest_completions, self.most_completions
        if fewest <= num_completions and (most is None or num_completions <= most):
            return None
        needed = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        name = type(self).model_fields["name"].default
        return f"objective {name} needs {needed} completions a prompt, got {num_completions}"


class SyncedObjective(PreferenceObjective):
    """What objectives share whose reference can follow the policy (TR-DPO)."""

    needs_reference: ClassVar[bool] = True
    reference_sync_steps: int | None = Field(None, ge=1, description="steps between updates of the reference (TR-DPO)")
    reference_mixup: float = Field(0.6, gt=0, le=1, description="share of the policy in the updated reference (TR-DPO)")


class ContrastiveObjective(PreferenceObjective):
    """What the objectives share that compare log-probs of the policy alone."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="assumed share of wrong labels; for sigmoid alone")

    @model_validator(mode="after")
    def _smooths_the_sigmoid(self) -> "ContrastiveObjective":
        loss_type = getattr(self, "loss_type", "sigmoid")
        if self.label_smoothing and loss_type in ("hinge", "ipo"):
            raise ValueError(f"label_smoothing does not belong to loss_type {loss_type}: leave it out, or take sigmoid")
        return self


class SftObjective(Section):
    """Cross-entropy on the assistant's turns, or on all tokens."""

    name: Literal["sft"] = "sft"
    needs_reference: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("nll_loss",)
    loss_on: LossOn = Field("assistant", description="tokens in the loss; the published Zephyr runs used everything")


class DpoObjective(SyncedObjective):
    """Direct preference optimization and its variants on pairs."""

    name: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0, description="strength of the KL constraint to the reference")
    loss_type: PairLossName | Annotated[dict[PairLossName, Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        "sigmoid",
        description="the loss on a pair, or several with their weights (MPO): {sigmoid: 0.8, bco_pair: 0.2}",
    )
    label_smoothing: float | None = Field(None, ge=0, lt=0.5, description="assumed share of wrong labels")
    discopop_tau: float | None = Field(None, gt=0, le=1, description="temperature of discopop")
    bco_delta: float | None = Field(None, description="reward shift of bco_pair; null: the mean reward of the batch")
    f_divergence: Divergence | None = Field(None, description="divergence from the reference; null: reverse KL")
    f_alpha: float | None = Field(None, description="alpha of alpha_divergence")
    ld_alpha: float | None = Field(None, ge=0, le=1, description="weight of tokens past the shared length (LD-DPO)")
    rpo_alpha: float = Field(0.0, ge=0, description="weight of the chosen answer's NLL (RPO)")
    use_weighting: bool = Field(False, description="weigh a pair by how likely the policy is to write it (WPO)")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*PAIR_METRICS, *(("nll_loss",) if self.rpo_alpha else ()))

    @property
    def loss_weights(self) -> dict[PairLossName, float]:
        """The weight of each loss on a pair."""
        return self.loss_type if isinstance(self.loss_type, dict) else {self.loss_type: 1.0}

    @field_validator(*LOSSES_OF_OPTIONS)
    @classmethod
    def _belongs_to_loss(cls, value: float | str | None, info: "ValidationInfo[None]") -> float | str | None:
        chosen, losses = info.data.get("loss_type"), LOSSES_OF_OPTIONS[str(info.field_name)]
        if value is None or chosen is None:
            return value
        named = [chosen] if isinstance(chosen, str) else list(chosen)
        if not set(named) & {*losses}:
            choices, said = " or ".join(losses), ", ".join(named)
            raise ValueError(f"does not belong to loss_type {said}, got {value!r}: leave it out, or choose {choices}")
        if "exo_pair" in named and info.field_name == "label_smoothing" and value == 0:
            raise ValueError("must be above 0 for exo_pair, got 0: leave it out")
        return value

    @field_validator("use_weighting")
    @classmethod
    def _weighs_pairs(cls, value: bool, info: "ValidationInfo[None]") -> bool:
        named = info.data.get("loss_type") or ()
        by_rank = {"aot", "aot_unpaired"} & ({named} if isinstance(named, str) else {*named})
        if value and by_rank:
            raise ValueError(f"does not go with loss_type {min(by_rank)}, which has losses of ranks, not of pairs")
        return value

    @field_validator("f_alpha")
    @classmethod
    def _belongs_to_divergence(cls, value: float | None, info: "ValidationInfo[None]") -> float | None:
        if "f_divergence" not in info.data:
            return value
        divergence = info.data["f_divergence"]
        if (divergence == "alpha_divergence") != (value is not None):
            raise ValueError(
                f"goes with f_divergence alpha_divergence alone, got {value} and {divergence}: give both or none"
            )
        return value


class OrpoObjective(PreferenceObjective):
    """Odds-ratio preference optimization: NLL of the chosen answer and an odds-ratio loss, without a reference."""

    name: Literal["orpo"] = "orpo"
    beta: float = Field(0.1, gt=0, description="weight of the odds-ratio loss, lambda in the paper")
    nll_on_prompt: bool = Field(
        True, description="include the prompt in the NLL, as the authors' code and TRL since 0.8.2 do"
    )

    @property
    def scores_prompt(self) -> bool:
        return self.nll_on_prompt

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*PAIR_METRICS, "nll_loss", "log_odds_ratio", "log_odds_chosen")


class SimpoObjective(ContrastiveObjective):
    """SimPO: length-normalised rewards with a margin, without a reference."""

    name: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0, description="scale of the rewards")
    gamma_beta_ratio: float = Field(0.8, ge=0, description="target margin of the rewards, divided by beta")
    loss_type: Literal["sigmoid", "hinge"] = Field("sigmoid", description="the loss on a pair")
    sft_weight: float = Field(0.0, ge=0, description="weight of the chosen answer's NLL")
    alpha: float = Field(0.0, description="AlphaPO: log-probs log p become (1 - p^-alpha) / alpha; 0: they stay")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*PAIR_METRICS, *(("nll_loss",) if self.sft_weight else ()))


class CpoObjective(ContrastiveObjective):
    """Contrastive preference optimization, without a reference."""

    name: Literal["cpo"] = "cpo"
    beta: float = Field(0.1, gt=0, description="scale of the log-ratio")
    loss_type: ContrastiveLossName = Field("sigmoid", description="the loss on a pair; ipo takes means a token")
    cpo_alpha: float = Field(1.0, ge=0, description="weight of the chosen answer's NLL")
    alpha: float = Field(0.0, description="AlphaPO: log-probs log p become (1 - p^-alpha) / alpha; 0: they stay")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*PAIR_METRICS, "nll_loss")


class TpoObjective(ContrastiveObjective):
    """Triple preference optimization: imitate the best of three or more rated answers, prefer the next to the worst."""

    name: Literal["tpo"] = "tpo"
    fewest_completions: ClassVar[int] = 3
    beta: float = Field(0.01, gt=0, description="scale of the log-ratio")
    loss_type: Literal["sigmoid", "hinge", "ipo", "tpo_l"] = Field(
        "sigmoid", description="the loss on a pair; ipo and tpo_l take means a token"
    )
    tpo_alpha: float = Field(1.0, ge=0, description="weight of the best answer's NLL")
    tpo_l_gamma: float = Field(0.5, ge=0, description="target margin of the rewards of tpo_l")

    @property
    def most_completions(self) -> int | None:
        return None

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*PAIR_METRICS, "nll_loss")


class KtoObjective(SyncedObjective):
    """Kahneman-Tversky optimization on single answers with a label."""

    name: Literal["kto"] = "kto"
    fewest_completions: ClassVar[int] = 1
    beta: float = Field(0.1, gt=0, description="strength of the KL constraint to the reference")
    desirable_weight: float = Field(1.0, ge=0, description="weight of desirable answers")
    undesirable_weight: float = Field(1.0, ge=0, description="weight of undesirable answers")
    loss_type: Literal["kto", "apo_zero_unpaired"] = Field(
        "kto",
        description="the loss on an answer; apo_zero_unpaired has no KL term",
    )

    @model_validator(mode="after")
    def _weighs_something(self) -> "KtoObjective":
        if not self.desirable_weight and not self.undesirable_weight:
            raise ValueError("desirable_weight and undesirable_weight are both 0, so nothing is learned")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        measured = [name for name in PAIR_METRICS if name != "rewards/accuracies"]
        return ("kl", *measured) if self.has_kl else tuple(measured)

    @property
    def has_kl(self) -> bool:
        """Whether rewards are compared with an estimate of the KL divergence from the reference."""
        return self.loss_type == "kto"


class ListwiseObjective(PreferenceObjective):
    """Plackett-Luce DPO over all rated answers of a prompt."""

    name: Literal["listwise"] = "listwise"
    needs_reference: ClassVar[bool] = True
    beta: float = Field(0.1, gt=0, description="strength of the KL constraint to the reference")
    num_completions: int | None = Field(
        None, ge=2, description="maximum answers per prompt; null: as many as the data has"
    )

    @property
    def most_completions(self) -> int | None:
        """The most completions a prompt may have; None: as many as the data has."""
        return self.num_completions


class BestOfNObjective(PreferenceObjective):
    """Supervised fine-tuning on the best-rated answer of every prompt (best of n, rejection sampling)."""

    name: Literal["best_of_n"] = "best_of_n"
    fewest_completions: ClassVar[int] = 1
    beta: float = Field(0.1, gt=0, description="scale of the rewards that the evaluate stage reports on held-out pairs")

    @property
    def most_completions(self) -> int | None:
        return None

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("nll_loss",)


class CustomObjective(PreferenceObjective):
    """A loss of one's own on pairs: a Python function of their log-probs and of this section, one loss a pair.

    The bytes of its file, not its path, decide whether the stage is made again.
    """

    name: Literal["custom"] = "custom"
    needs_reference: ClassVar[bool] = True
    path: str = Field(
        pattern=r".\.py:[A-Za-z_]\w*$",
        description="FILE.py:FUNCTION; a relative path is resolved in `data_dir`",
        examples=["loss.py:loss"],
        json_schema_extra=FREE,
    )
    beta: float = Field(0.1, gt=0, description="scale of the rewards that are reported")
    average_log_prob: bool = Field(False, description="give the function means a token instead of sums")
    coupled: bool = Field(False, description="the loss of a pair depends on the others of its batch")
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="settings of your own, which the function finds in options.options"
    )

    @property
    def function(self) -> str:
        """The name of the function in its file."""
        return self.path.rpartition(":")[2]

    def file(self, data_dir: Path) -> Path:
        """The file with the function. Raises RecipeError if there is none."""
        file = data_dir / self.path.rpartition(":")[0]
        if not file.is_file():
            remedy = "name one as FILE.py:FUNCTION, relative to data_dir"
            raise RecipeError("align.objective.path", f"there is no file {file.absolute()}", remedy)
        return file


class BradleyTerryObjective(PreferenceObjective):
    """The loss of reward models: the chosen answer's reward is to be above the rejected one's.

    Of a prompt with more than two rated answers all pairs of different ratings count, together as much as one pair.
    """

    name: Literal["bradley_terry"] = "bradley_terry"
    center_rewards_coefficient: float = Field(
        0.0, ge=0, description="weight of the squared sum of a pair's rewards, which keeps their mean near 0; try 0.01"
    )
    rating_margin: float = Field(
        0.0,
        ge=0,
        description="by how much rewards must differ for each point by which two ratings do; with 1 TRL's column "
        "`margin` is the margin (the ratings of a pair without any are 1 apart)",
    )

    @property
    def most_completions(self) -> int | None:
        return None

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(name for name in PAIR_METRICS if name.startswith("rewards/"))


AlignObjective = Annotated[
    DpoObjective
    | OrpoObjective
    | SimpoObjective
    | CpoObjective
    | TpoObjective
    | KtoObjective
    | ListwiseObjective
    | BestOfNObjective
    | CustomObjective,
    Field(discriminator="name"),
]
