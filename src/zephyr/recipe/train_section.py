"""How a model is trained: hyper-parameters under transformers' names, and adapters."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from zephyr.recipe.section import ADDED, FREE, FREED, Section

SchedulerName = Literal[
    "linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "polynomial",
    "inverse_sqrt", "warmup_stable_decay", "constant_with_warmup", "constant", "reduce_lr_on_plateau",
]  # fmt: skip
# What adapters learn is multiplied by lora_alpha / r; below this nothing of it is left in the merged model.
LEAST_SCALE = 1e-4
OptimizerName = Literal[
    "adamw_torch", "adamw_8bit", "rmsprop", "lion", "muon", "adafactor", "schedule_free_adamw", "schedule_free_sgd"
]  # fmt: skip
TrackerName = Literal["jsonl", "tensorboard", "trackio", "wandb"]
Precision = Literal["float64", "float32", "bf16", "pure_bf16"]
ReduceDtype = Literal["float32", "bfloat16"]


class TrainSection(Section):
    """Hyper-parameters of one training stage; batch sizes count examples of one optimizer step over all devices."""

    learning_rate: float = Field(gt=0, description="peak learning rate")
    num_train_epochs: float = Field(1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    train_batch_size: int = Field(32, ge=1, description="examples per optimizer step, over all devices")
    max_tokens_per_micro_batch: int = Field(
        8192, ge=16, description="maximum distinct tokens per forward pass and device", json_schema_extra=FREE
    )
    lr_scheduler_type: SchedulerName = Field("linear", description="learning rate schedule")
    warmup_ratio: float = Field(0.0, ge=0, le=1, description="share of the steps used for warm-up")
    warmup_steps: int | None = Field(None, ge=0, description="warm-up steps, instead of warmup_ratio")
    min_lr_ratio: float = Field(
        0.1, ge=0, le=1, description="final learning rate of the schedules with min_lr, as a share of the peak"
    )
    num_cycles: int = Field(1, ge=1, description="cosines of cosine_with_restarts")
    power: float = Field(1.0, gt=0, description="exponent of polynomial, which ends at 1e-7")
    num_decay_steps: int | None = Field(
        None, ge=1, description="last steps, in which warmup_stable_decay falls to 0; null: a tenth of all"
    )
    plateau_factor: float = Field(
        0.1, gt=0, lt=1, description="what reduce_lr_on_plateau multiplies the learning rate by"
    )
    plateau_patience: int = Field(
        10,
        ge=0,
        description="evaluations in a row without a better metric_for_best_model, or else eval_loss, that it waits",
    )
    optim: OptimizerName = Field(
        "adamw_torch",
        description="optimizer; adamw_8bit keeps Adam's moments in a byte each; muon steps hidden matrices by "
        "orthogonalised momentum and the rest by AdamW; adafactor keeps moments of rows and columns alone",
    )
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="first beta of Adam and Lion; the momentum of schedule-free optimizers"
    )
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="second beta of Adam and Lion")
    adam_epsilon: float = Field(1.0e-8, gt=0, description="Adam's epsilon")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay, of all but norms and biases")
    max_grad_norm: float | None = Field(1.0, gt=0, description="maximum gradient norm, for clipping; null: no clipping")
    precision: Literal[Precision, "fastest"] = Field(
        "bf16",
        description="bf16 computes in bfloat16 on float32 weights, pure_bf16 keeps bfloat16 weights, updated with "
        "stochastic rounding; fastest: bf16, or float32 on a CPU that is not faster in bfloat16, measured when the run "
        "begins and kept for it; float64: for exact tests",
    )
    activation_checkpointing: bool | int | Literal["selective"] = Field(
        False,
        description="recompute activations: least memory, a third slower; selective: all but matrix products and "
        "attention, about half the memory and little slower; a number k from 2: all of every k-th layer, so 4 saves a "
        "quarter and costs a twelfth",
        json_schema_extra=FREED,
    )
    reduce_dtype: ReduceDtype = Field(
        "float32",
        description="dtype in which gradients are added up over devices; bfloat16 sends half as much and rounds the "
        "sums",
        json_schema_extra=ADDED,
    )
    compile: bool = Field(False, description="torch.compile of the layers", json_schema_extra=FREE)
    neftune_noise_alpha: float | None = Field(
        None,
        gt=0,
        description="NEFTune: noise on the embeddings in training, up to this over the root of width times the longest "
        "sequence of the batch; sequences that begin alike share it",
    )
    router_aux_loss_coef: float = Field(
        0.0, ge=0, description="weight of the load-balancing loss of a mixture of experts"
    )
    logging_steps: int = Field(10, ge=1, description="steps between log lines", json_schema_extra=FREE)
    eval_steps: int | None = Field(None, ge=1, description="steps between evaluations; null: only at the end")
    save_steps: int | None = Field(
        None, ge=1, description="steps between checkpoints; null: only by save_seconds", json_schema_extra=FREE
    )
    save_seconds: float | None = Field(
        120.0,
        gt=0,
        description="seconds between checkpoints, more if saving takes over 5 % of the time; null: only by save_steps",
        json_schema_extra=FREE,
    )
    save_total_limit: int = Field(2, ge=1, description="checkpoints to keep", json_schema_extra=FREE)
    metric_for_best_model: str | None = Field(
        None,
        description="keep the checkpoint with the best value of this metric, such as eval_loss; null: the last step",
    )
    greater_is_better: bool | None = Field(
        None,
        description="whether a larger metric_for_best_model is better; null: unless its name ends in loss, as in "
        "transformers",
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="stop after so many evaluations in a row without a better metric_for_best_model"
    )
    early_stopping_threshold: float = Field(
        0.0, ge=0, description="by how much metric_for_best_model must be better to count for early stopping"
    )
    report_to: list[TrackerName] = Field(
        default_factory=list, description="experiment trackers, besides the log file", json_schema_extra=FREE
    )
    self_checks: bool = Field(
        True, description="check packing, prefix sharing and the first loss before training", json_schema_extra=FREE
    )

    @property
    def recomputes_every(self) -> int | None:
        """Of how many layers one is computed again in the backward pass, 1 for all; None where none is as a whole."""
        checkpointing = self.activation_checkpointing
        return None if isinstance(checkpointing, str) or not checkpointing else int(checkpointing)

    @property
    def prefers_greater(self) -> bool:
        """Whether a larger value of `metric_for_best_model` is better."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        return not (self.metric_for_best_model or "loss").endswith("loss")

    @property
    def steps_by_rate(self) -> bool:
        """Whether the optimizer moves a weight by about the learning rate, however small its gradient."""
        return self.optim in ("adamw_torch", "adamw_8bit", "rmsprop", "lion", "schedule_free_adamw")

    @property
    def is_schedule_free(self) -> bool:
        """Whether the optimizer's average takes the place of a falling learning rate."""
        return self.optim.startswith("schedule_free")

    @field_validator("activation_checkpointing", mode="before")
    @classmethod
    def _no_bool_as_a_number(cls, given: object) -> object:
        if isinstance(given, int | float) and not isinstance(given, bool) and given < 2:  # pydantic takes 1 for true
            remedy = "true, which computes every layer again" if given == 1 else "false, which computes no layer again"
            raise ValueError(f"must be true, false, selective or a number from 2, got {given}: write {remedy}")
        return given

    @model_validator(mode="after")
    def _fit_each_other(self) -> "TrainSection":
        if self.reduce_dtype == "bfloat16" and self.precision not in ("bf16", "pure_bf16"):
            raise ValueError(f"reduce_dtype bfloat16 is for bf16 and pure_bf16, got precision {self.precision}")
        if self.activation_checkpointing == "selective" and self.compile:
            raise ValueError(
                "activation_checkpointing selective and compile are both given: compiled layers choose "
                "themselves what they compute again; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _decays_a_part(self) -> "TrainSection":
        if self.learning_rate * self.weight_decay >= 1:
            raise ValueError(
                f"learning_rate {self.learning_rate:g} x weight_decay {self.weight_decay:g} is what a step takes away "
                "of every weight, and at 1 nothing is left: lower one of them; 0.1 is a usual weight decay"
            )
        return self

    @model_validator(mode="after")
    def _one_warmup(self) -> "TrainSection":
        if self.warmup_steps is not None and self.warmup_ratio:
            raise ValueError("warmup_ratio and warmup_steps are both given: leave one out")
        return self


class LoraSection(Section):
    """Low-rank adapters instead of all weights; the stage's model has them merged."""

    r: int = Field(16, ge=1, description="rank")
    lora_alpha: float = Field(16, gt=0, description="scale: the update is multiplied by lora_alpha / r")
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout on what adapters are given; sequences that begin alike share its mask"
    )
    target_modules: list[str] | Literal["all-linear"] = Field(
        "all-linear",
        description="modules that get adapters; experts, or gate_proj, up_proj and down_proj, reach stacked experts",
    )
    modules_to_save: list[str] = Field(
        default_factory=list, description="modules trained in full, besides the adapters"
    )
    layers_to_transform: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="numbers of the layers that get adapters, from 0; null: all"
    )
    use_rslora: bool = Field(False, description="rsLoRA: multiply the update by lora_alpha / sqrt(r) instead")
    loraplus_lr_ratio: float = Field(
        1.0, gt=0, description="LoRA+: learning rate of the adapters' B matrices, as a multiple of learning_rate"
    )
    use_dora: bool = Field(False, description="DoRA: learn magnitude and direction of the weights separately")
    load_in_4bit: bool = Field(False, description="QLoRA: base weights in 4-bit nf4; needs a CUDA device")

    @model_validator(mode="after")
    def _adapters_count(self) -> "LoraSection":
        scale = self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)
        if scale < LEAST_SCALE:
            raise ValueError(
                f"lora_alpha {self.lora_alpha:g} with r {self.r} multiplies what adapters learn by {scale:.1g}, so the "
                "model would stay as it is: choose a lora_alpha near r"
            )
        return self
