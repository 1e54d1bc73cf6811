"""Trainings on several gloo processes; worker processes import this file, so it holds no tests."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

# Imported at first use by transformers; loaded here, forked workers start warm.
import transformers.models.mistral.modeling_mistral
import transformers.models.mixtral.modeling_mixtral  # noqa: F401
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutput

from tests.models.exact_norms import with_exact_norms
from tests.models.scorer_runs import small_model
from tests.train.checkpoint_runs import forked
from tests.train.sections import make_objective
from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.errors import ZephyrError
from zephyr.models.adapters import add_lora
from zephyr.models.collectives import on_every_rank, rank
from zephyr.models.generation import generate
from zephyr.models.scorer import CausalLM, plain_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.runs.layout import TRAIN_LOG
from zephyr.train.distributed import process_group, whole_state_dict
from zephyr.train.job import TrainJob
from zephyr.train.stored_model import save_trained
from zephyr.train.train import train

VOCABULARY = 300  # as many as the tiny tokenizer needs
# Seven examples in batches of three: the last step has one, and most of its ranks none.
SETTINGS: dict[str, object] = {
    "logging_steps": 1,
    "save_seconds": None,
    "learning_rate": 1.0e-2,
    "train_batch_size": 3,
    "max_tokens_per_micro_batch": 48,
    "max_grad_norm": 0.5,
    "precision": "float64",
    "eval_steps": 2,
    "weight_decay": 0.1,
    # With 1e-8, Adam's first step would amplify what rounding leaves of a gradient that is 0.
    "adam_epsilon": 1.0e-4,
}
FLOAT32 = {"precision": "float32"}


class StoppedError(Exception):
    """A run was stopped as if by a fault."""


@dataclass(frozen=True)
class Case:
    """A training to be run; `changes` are made to `SETTINGS`."""

    objective: str
    options: dict[str, object] = field(default_factory=dict)
    model: str = "mistral"
    changes: dict[str, object] = field(default_factory=dict)
    lora: bool = False
    tied: bool = False
    experts: int | None = None  # of a mixture; None: as many as the tiny one has
    meta: bool = False  # ranks above 0 make their model on the meta device
    other_reference: bool = False

    @property
    def name(self) -> str:
        """What tells it from others, as a folder's name."""
        words = [f"{name} {value}" for name, value in (*self.options.items(), *self.changes.items())]
        flags = [flag for flag in ("lora", "tied", "meta", "other_reference") if getattr(self, flag)]
        experts = [] if self.experts is None else [f"{self.experts} experts"]
        return "-".join([self.objective, self.model, *words, *flags, *experts])


class Ended(NamedTuple):
    """The log lines of a run and its final weights."""

    lines: list[dict[str, float]]
    weights: dict[str, Tensor]


def make_examples(objective: str, num: int, *, seed: int = 0) -> list[Example]:
    """Examples of uneven lengths for an objective; every third pair shares the prompt of its predecessor."""
    draw = np.random.default_rng(seed)

    def text(low: int, high: int) -> np.ndarray:
        return draw.integers(4, VOCABULARY, draw.integers(low, high), dtype=np.int64)

    prompt = text(3, 9)
    examples: list[Example] = []
    for number in range(num):
        prompt = prompt if number % 3 == 2 and objective != "kto" else text(3, 9)
        name = f"row {number} of {seed}"
        if objective == "sft":
            ids = np.concatenate([prompt, text(2, 14)])
            examples.append(Dialogue(name, ids, np.arange(len(ids)) >= len(prompt)))
        elif objective == "kto":
            examples.append(Comparison(name, prompt, (text(2, 12),), (float(number % 2),)))
        else:
            examples.append(Comparison(name, prompt, (text(2, 12), text(2, 12)), (1.0, 0.0)))
    return examples


def make_model(case: Case, *, seed: int = 0) -> CausalLM:
    dtype = torch.float64 if case.changes.get("precision", "float64") == "float64" else torch.float32
    if case.model == "nemotron":  # the table of tiny models has none whose layers drop the forest
        torch.manual_seed(seed)
        return small_model("Nemotron", vocab_size=VOCABULARY, hidden_size=16).to(dtype)
    model = tiny_model(case.model, seed=seed, vocab_size=VOCABULARY, hidden=16, dtype=dtype)
    if case.experts is not None:
        model.config.num_local_experts = case.experts
        torch.manual_seed(seed)
        model = type(model)(model.config).to(dtype)
    if case.tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    if case.meta and rank() > 0:
        with torch.device("meta"):
            model = type(model)(model.config).to(dtype)
    if dtype == torch.float64:
        with_exact_norms(model)
    return add_lora(model, LoraSection(r=2, lora_alpha=8)) if case.lora else model


def make_job(case: Case, folder: Path) -> TrainJob:
    changes = dict(case.changes)
    fields = {name: changes.pop(name) for name in list(changes) if name in TrainJob.__dataclass_fields__}
    settings = TrainSection(**{**SETTINGS, **changes})
    return TrainJob(
        model=make_model(case),
        objective=make_objective(case.objective, case.options),
        settings=settings,
        examples=make_examples(case.objective, 7),
        eval_examples=make_examples(case.objective, 3, seed=1) if settings.eval_steps else (),
        folder=folder,
        reference=make_model(replace(case, lora=False), seed=1) if case.other_reference else None,
        **fields,
    )


def run_job(job: TrainJob) -> None:
    """Train to the end; afterwards the job's folder holds what `ended` reads."""
    train(job)
    weights = whole_state_dict(job.model)
    if rank() == 0:
        torch.save(weights, job.folder / "weights.pt")


def ended(folder: Path) -> Ended:
    lines = [json.loads(line) for line in (folder / TRAIN_LOG).read_text().splitlines()]
    return Ended(lines, torch.load(folder / "weights.pt", weights_only=True))


def assert_equal_runs(one: Ended, other: Ended, *, within: float) -> None:
    """Same steps, same metric names, same values, same weights."""
    assert len(one.lines) == len(other.lines) > 0
    for left, right in zip(one.lines, other.lines, strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            # Whether a margin of 0 counts as won is left to rounding.
            if name.endswith("rewards/accuracies") and within > 1e-8 and abs(left["rewards/margins"]) < within:
                continue
            assert abs(value - right[name]) <= within * max(1.0, abs(value)), (name, left, right)
    assert one.weights.keys() == other.weights.keys()
    for name, weight in one.weights.items():
        difference = float((weight - other.weights[name]).abs().max())
        assert difference <= within, (name, difference)


def on_ranks(world: int, folder: Path, work: Callable[..., None], *arguments: object) -> None:
    """Run `work(folder, *arguments)` on gloo ranks, each a forked process; all must end well.

    Ranks that wait for one another for ever are ended by torch, after its half hour.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranks = [forked().Process(target=_enter, args=(number, world, folder, work, arguments)) for number in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0] * world


def _enter(number: int, world: int, folder: Path, work: Callable[..., None], arguments: Sequence[object]) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet-{work.__name__}-{world}"
    dist.init_process_group("gloo", init_method=meet, rank=number, world_size=world)
    work(folder, *arguments)
    dist.destroy_process_group()


def fail_on_rank_one(number: int, port: int, folder: Path) -> None:
    """Two ranks as torchrun starts them, of which one fails while the other waits for it."""
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "RANK": f"{number}", "WORLD_SIZE": "2"}
    os.environ |= meet
    try:
        with process_group(torch.device("cpu")):
            everybody = on_every_rank(rank)
            {0: 0}[number]  # a mistake of ours on rank 1
            on_every_rank(rank)
    except (ZephyrError, KeyError) as error:
        (folder / f"said-{number}").write_text(f"{everybody} {error}")


def run_cases(folder: Path, cases: Sequence[Case]) -> None:
    """One training after the other, each in a folder of its own."""
    for case in cases:
        run_job(make_job(case, folder / case.name))


def run_and_stop(folder: Path, case: Case, after: int) -> None:
    """A training that saves every step and dies when it evaluates step `after`."""

    def stop(step: int) -> dict[str, float]:
        if step == after:
            raise StoppedError
        return {}

    job = make_job(case, folder / case.name)
    try:
        train(replace(job, sample=stop))
    except StoppedError:
        return
    raise AssertionError("the run was not stopped")


def run_and_sample(folder: Path, case: Case) -> None:
    """A training that writes texts with its model when it is evaluated, and keeps them in a file a rank."""
    job = make_job(case, folder / case.name)
    texts = []

    def sample(step: int) -> dict[str, float]:
        prompts = [[5, 6, 7], [5, 9]]
        written = generate(
            plain_model(job.model),
            prompts,
            SamplingSection(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=4),
            seed=step,
        )
        texts.append([one.ids.tolist() if hasattr(one.ids, "tolist") else list(one.ids) for one in written])
        return {}

    run_job(replace(job, sample=sample))
    (folder / f"texts-{rank()}.json").write_text(json.dumps(texts))


def run_and_save(folder: Path, cases: Sequence[Case]) -> None:
    """Trainings whose models are saved for others to read."""
    for case in cases:
        job = make_job(case, folder / case.name)
        run_job(job)
        save_trained(job.model, tiny_tokenizer(vocab_size=VOCABULARY), folder / case.name / "saved")


def run_and_count(folder: Path, case: Case) -> None:
    """Ends a training, saves its model, and writes how many weights the rank holds, in a file a rank."""
    job = make_job(case, folder / case.name)
    run_job(job)
    save_trained(job.model, tiny_tokenizer(vocab_size=VOCABULARY), folder / case.name / "saved")
    held = sum(parameter.to_local().numel() for parameter in job.model.parameters())
    (folder / f"held-{rank()}").write_text(f"{held}")


def refused(folder: Path) -> None:
    """Jobs that no rank can train, each with what every rank says of it, in a file a rank."""
    said = {}
    for fault, commit in FAULTS.items():
        job = commit(make_job(Case("dpo", {"beta": 0.1}), folder / fault))
        try:
            train(job)
        except (ZephyrError, ValueError) as error:
            said[fault] = f"{error}"
    (folder / f"said-{rank()}.json").write_text(json.dumps(said))


def _other_data(job: TrainJob) -> TrainJob:
    return replace(job, examples=list(job.examples)[:: 1 - 2 * rank()])


def _other_weights(job: TrainJob) -> TrainJob:
    next(job.model.parameters()).data[0, 0] += rank()
    return job


def _nan_on_rank_one(job: TrainJob) -> TrainJob:
    if rank() == 1:
        next(job.model.parameters()).data[0, 0] = float("nan")
    return job


def _too_fast(job: TrainJob) -> TrainJob:
    settings = TrainSection(**{**SETTINGS, "learning_rate": 1e200, "weight_decay": 0.0})
    return replace(job, settings=settings)


def _no_weights_anywhere(job: TrainJob) -> TrainJob:
    return replace(job, model=job.model.to("meta"))


def _other_adapters(job: TrainJob) -> TrainJob:
    return replace(job, model=add_lora(job.model, LoraSection(r=2 + rank())))


def _misread_head(job: TrainJob) -> TrainJob:
    forward = job.policy.forward

    def halved(**inputs: object) -> CausalLMOutput:
        return CausalLMOutput(logits=forward(**inputs).logits / 2)

    job.policy.forward = halved
    return job


FAULTS: dict[str, Callable[[TrainJob], TrainJob]] = {
    "other data": _other_data,
    "other weights": _other_weights,
    "NaN on one rank": _nan_on_rank_one,
    "too fast": _too_fast,
    "no weights anywhere": _no_weights_anywhere,
    "other adapters": _other_adapters,
    "misread head": _misread_head,
}
