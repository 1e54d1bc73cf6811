"""Training inside a run: from a model folder and tokenised rows to a model folder, through `zephyr.train`."""

import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zephyr.atomic import replace_text
from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.models.adapters import add_lora, load_4bit, load_adapter, merge_adapters, refuse_4bit
from zephyr.models.collectives import from_rank_zero
from zephyr.models.loading import load_model, save_model
from zephyr.models.meta_model import empty_model
from zephyr.models.new_model import set_generation
from zephyr.models.sampling import Sampling
from zephyr.models.scorer import CausalLM, plain_model
from zephyr.pipeline.inputs import Trains
from zephyr.pipeline.ready import Ready
from zephyr.recipe.stage_sections import PretrainSection
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.runs.layout import MODEL, TRAIN
from zephyr.runs.ranks import is_leader
from zephyr.runs.stage_folder import Facts
from zephyr.train.checkpoint.checkpoint import checkpoint_folders
from zephyr.train.distributed import built_on_rank_zero, pick_device, process_group
from zephyr.train.export import save_trained
from zephyr.train.job import TrainJob
from zephyr.train.loop import TrainOutcome, train
from zephyr.train.objectives import Objective
from zephyr.train.sample_generations import sample_writer

ADAPTER = "adapter"
OUTCOME = "outcome.json"
# How the published models were sampled, written into every model folder.
CARD_SAMPLING = Sampling(max_new_tokens=256, temperature=0.7, top_k=50, top_p=0.95)
PROBE_TOKENS = 64
SAMPLED_PROMPTS = 4


@dataclass(frozen=True)
class Training:
    """One training of a stage: what is trained on what, and how."""

    ready: Ready
    objective: Objective
    section: TrainSection
    seed: int
    examples: Sequence[Example]
    eval_examples: Sequence[Example]
    stop_ids: Collection[int] = ()
    lora: LoraSection | None = None


def refuse_device(section: Trains) -> None:
    """Nothing where this machine can train so. Raises DeviceError."""
    if not isinstance(section, PretrainSection) and section.lora is not None and section.lora.load_in_4bit:
        refuse_4bit()


def train_model(training: Training, *, folder: Path, reference_store: Path) -> Facts:
    """The facts of the training, whose model stands in `folder` afterwards; goes on where an earlier call stopped.

    Ranks other than 0 get none: as soon as the training has ended, rank 0 may move the folder.
    """
    model_folder = folder / MODEL
    if not model_folder.exists():
        with process_group(pick_device(), name=folder.name):
            _train(training, folder, reference_store)
    if not is_leader():
        return {}
    for checkpoint in checkpoint_folders(folder / TRAIN):
        shutil.rmtree(checkpoint, ignore_errors=True)  # the model is whole, and nothing resumes from here
    facts: Facts = json.loads((folder / OUTCOME).read_bytes())
    return facts


def _train(training: Training, folder: Path, reference_store: Path) -> None:
    model = _starting_model(training)
    job = TrainJob(
        model=model,
        objective=training.objective,
        settings=training.section,
        seed=training.seed,
        examples=training.examples,
        folder=folder / TRAIN,
        eval_examples=training.eval_examples,
        reference_store=reference_store,
        stop_ids=training.stop_ids,
        name=training.ready.start.name,
        sample=_sampler(training, model, folder / TRAIN),
    )
    outcome = train(job)
    from_rank_zero(lambda: replace_text(folder / OUTCOME, json.dumps(_facts(training, outcome), indent=1)))
    sampling = replace(CARD_SAMPLING, stop_ids=tuple(training.stop_ids))
    set_generation(plain_model(model), training.ready.tokenizer, sampling)
    if training.lora is None:
        save_trained(model, training.ready.tokenizer, folder / MODEL)
        return
    if not (folder / ADAPTER).exists():
        save_trained(model, training.ready.tokenizer, folder / ADAPTER)
    from_rank_zero(lambda: _merge(training, folder))


def _sampler(training: Training, model: CausalLM, folder: Path) -> Callable[[int], dict[str, float]] | None:
    """Answers to some held-out prompts at every evaluation; None where nothing is held out or nobody answers."""
    if not (training.stop_ids and training.eval_examples):
        return None
    prompts = [_prompt_ids(one) for one in training.eval_examples[:SAMPLED_PROMPTS]]
    longest = getattr(plain_model(model).config.get_text_config(), "max_position_embeddings", None)
    room = CARD_SAMPLING.max_new_tokens if longest is None else longest - max(map(len, prompts))
    if room < 1:
        return None
    new_tokens = min(CARD_SAMPLING.max_new_tokens, room)
    sampling = replace(CARD_SAMPLING, max_new_tokens=new_tokens, stop_ids=tuple(training.stop_ids))
    return sample_writer(model, training.ready.tokenizer, prompts, sampling=sampling, folder=folder)


def _prompt_ids(example: Example) -> list[int]:
    """The ids before the first answer."""
    if isinstance(example, Comparison):
        return [int(token) for token in example.prompt]
    return [int(token) for token in example.ids[: int(example.scored.argmax())]]


def _starting_model(training: Training) -> CausalLM:
    """The model to be trained, with new adapters if it is to have some; its weights on rank 0 alone."""
    lora = training.lora
    if lora is not None and lora.load_in_4bit:
        model = load_4bit(training.ready.start)
    else:
        dtype = _dtype(training.section)
        model = built_on_rank_zero(
            lambda: load_model(training.ready.start, dtype=dtype),
            lambda: empty_model(training.ready.start, dtype=dtype),
        )
    return model if lora is None else add_lora(model, lora, seed=training.seed)


def _merge(training: Training, folder: Path) -> None:
    """Write the plain model with the trained adapters in its weights."""
    lora = training.lora
    assert lora is not None
    # The base of 4-bit training computed in bfloat16; twice the memory would buy digits that it never had.
    dtype = "bfloat16" if lora.load_in_4bit else _dtype(training.section)
    base = load_model(training.ready.start, dtype=dtype)
    first = training.examples[0]
    probe = torch.from_numpy(first.ids if isinstance(first, Dialogue) else first.prompt)[None, :PROBE_TOKENS]
    merged = merge_adapters(load_adapter(base, folder / ADAPTER), probe)
    merged.model.generation_config = base.generation_config
    save_model(merged.model, training.ready.tokenizer, folder / MODEL)


def _dtype(section: TrainSection) -> str:
    return "bfloat16" if section.precision == "pure_bf16" else "float32"


def _facts(training: Training, outcome: TrainOutcome) -> Facts:
    chosen: Facts = {} if outcome.best_step is None else {"weights_of_step": outcome.best_step}
    return {
        "steps": outcome.step,
        **chosen,
        "examples": len(training.examples),
        **{name: round(value, 6) for name, value in (outcome.train_metrics | outcome.eval_metrics).items()},
        "health": [dict(note._asdict()) for note in outcome.health],
    }
