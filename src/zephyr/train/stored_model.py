"""The model on disk: read when training begins, sampled while it is trained, and written as a folder at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from zephyr.atomic import replace_text
from zephyr.data.tokenize.token_store import Comparison, Example
from zephyr.models.adapters import add_lora, fill_magnitudes, load_adapter, save
from zephyr.models.collectives import from_rank_zero, is_distributed, on_every_rank, rank
from zephyr.models.generation import generate
from zephyr.models.loading import (
    save_model,
)
from zephyr.models.merging import merge_adapters, merged_weights
from zephyr.models.new_model import set_generation
from zephyr.models.quantised import load_4bit, load_dequantised
from zephyr.models.reward_model import NewHead, empty_start, load_start, with_head
from zephyr.models.sampling import Stopping
from zephyr.models.scorer import CausalLM, plain_model
from zephyr.models.source import Source
from zephyr.models.stored_weights import EmptyModel, StoredWeights, names_to_write, write_weights
from zephyr.models.tokenizers import Tokenizer
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.runs.layout import ADAPTER, MODEL
from zephyr.train.checks.health import GENERATED_TOKENS
from zephyr.train.distributed import built_on_rank_zero, whole_state_dict, whole_tensors

TRAIN_SAMPLES = "samples.jsonl"
# How the published models were sampled, written into every model folder.
CARD_SAMPLING = SamplingSection(max_new_tokens=256, temperature=0.7, top_k=50, top_p=0.95)
PROBE_TOKENS = 64
SAMPLED_PROMPTS = 4


@dataclass(frozen=True)
class StoredModel:
    """A model to be trained that is read from ``source``, and written to ``folder`` with its tokenizer at the end.

    With ``lora`` adapters are trained; the folder then holds them, and a plain model with them merged in. ``head``: of
    a model that becomes a reward model. ``reference``: another model to compare with.
    """

    source: Source
    tokenizer: Tokenizer
    folder: Path
    lora: LoraSection | None = None
    head: NewHead | None = None
    reference: Source | None = None

    @property
    def model_folder(self) -> Path:
        """The folder of the trained model."""
        return self.folder / MODEL


class OpenedModel(NamedTuple):
    """A model, and where the ranks read its weights if it is on the meta device on all of them."""

    model: CausalLM
    weights: StoredWeights | None = None


def open_model(stored: StoredModel, train: TrainSection, *, seed: int) -> OpenedModel:
    """The model to be trained, with new adapters if it is to have some.

    Several ranks read their shards of its weights later; where the files are unusual, rank 0 alone has the weights.
    Raises ModelError, and DeviceError for 4-bit weights without a GPU.
    """
    lora, dtype = stored.lora, _dtype(train)
    if lora is not None and lora.load_in_4bit:
        return OpenedModel(add_lora(with_head(load_4bit(stored.source), stored.head), lora, seed=seed))
    model, weights = _opened(stored.source, stored.head, dtype)
    if lora is None:
        return OpenedModel(model, weights)
    adapted = add_lora(model, lora, seed=seed)
    if weights is not None:
        fill_magnitudes(adapted, weights)
    return OpenedModel(adapted, weights)


def open_reference(source: Source, train: TrainSection) -> OpenedModel:
    """A model to compare with, whose weights are read as those of `open_model`. Raises ModelError."""
    return OpenedModel(*_opened(source, None, _dtype(train)))


def _opened(source: Source, head: NewHead | None, dtype: str) -> EmptyModel:
    """The model on the meta device with its weights, for several ranks; else, in several on rank 0, with them in it."""
    if not is_distributed():
        return EmptyModel(load_start(source, head, dtype=dtype), None)
    opened: list[EmptyModel] = []
    on_every_rank(lambda: opened.append(empty_start(source, head, dtype=dtype)))
    if all(on_every_rank(lambda: opened[0].weights is not None)):
        return opened[0]
    model = built_on_rank_zero(lambda: load_start(source, head, dtype=dtype), lambda: opened[0].model)
    return EmptyModel(model, None)


def write_model(
    stored: StoredModel, model: CausalLM, train: TrainSection, *, stop_ids: Collection[int], probe: Example
) -> None:
    """Write the trained model to ``stored.model_folder``; a collective call.

    ``probe``: an example on which merged adapters must give the logits of separate ones. Raises ModelError where they
    do not, ResourceError when the disk is full.
    """
    if stored.head is None:
        set_generation(plain_model(model), stored.tokenizer, CARD_SAMPLING, stop_ids=stop_ids)
    lora = stored.lora
    if lora is None:
        save_trained(model, stored.tokenizer, stored.model_folder)
        return
    if not (stored.folder / ADAPTER).exists():
        save_trained(model, stored.tokenizer, stored.folder / ADAPTER)
    from_rank_zero(lambda: _merge(stored, lora, train, stop_ids=stop_ids, probe=probe))


def save_trained(model: CausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a plain model folder, or an adapter folder for LoRA; ``folder`` is new, and whole in the end.

    A collective call: the weights are gathered one by one on the CPU of rank 0, which writes them as they come, but for
    those that are stored joined with others. Its failure, as for a folder that is there already (ModelError) or a full
    disk (ResourceError), is raised on every rank.
    """
    has_adapters = hasattr(model, "peft_config")
    if is_distributed() and not has_adapters:
        names = from_rank_zero(lambda: names_to_write(plain_model(model)))
        if names is not None:
            _save_one_by_one(model, tokenizer, folder, names)
            return
    weights = whole_state_dict(model, trained_only=has_adapters) if is_distributed() else None
    from_rank_zero(lambda: save(model, tokenizer, folder, weights=weights))


def _save_one_by_one(trained: CausalLM, tokenizer: Tokenizer, folder: Path, names: Sequence[str]) -> None:
    """Write a sharded model, each weight gathered on rank 0 and written before the next; a collective call."""
    model = plain_model(trained)

    def write() -> None:
        gathered = whole_tensors(model, names)
        try:
            if rank() == 0:
                write_weights(model, tokenizer, folder, gathered)
        finally:
            for _ in gathered:  # the ranks gather together, whatever became of rank 0
                pass

    on_every_rank(write)


def _merge(
    stored: StoredModel, lora: LoraSection, train: TrainSection, *, stop_ids: Collection[int], probe: Example
) -> None:
    """Write the plain model with the trained adapters in its weights; where ranks share it, weight by weight."""
    if is_distributed() and _merge_one_by_one(stored, lora, train, stop_ids=stop_ids):
        return
    if lora.load_in_4bit:
        base = with_head(load_dequantised(stored.source), stored.head)
    else:
        base = load_start(stored.source, stored.head, dtype=_dtype(train))
    ids = torch.from_numpy(probe.prompt if isinstance(probe, Comparison) else probe.ids)[None, :PROBE_TOKENS]
    merged = merge_adapters(load_adapter(base, stored.folder / ADAPTER), ids).model
    if stored.head is None:
        set_generation(merged, stored.tokenizer, CARD_SAMPLING, stop_ids=stop_ids)
    save_model(merged, stored.tokenizer, stored.model_folder)


def _merge_one_by_one(
    stored: StoredModel, lora: LoraSection, train: TrainSection, *, stop_ids: Collection[int]
) -> bool:
    """Write the merged model from file to file, one weight at a time; False where it must be whole in memory."""
    if lora.load_in_4bit:
        return False
    model, weights = empty_start(stored.source, stored.head, dtype=_dtype(train))
    names = names_to_write(model)
    # One of a tied pair that was trained in full is a weight of its own from then on.
    unties = model.config.get_text_config().tie_word_embeddings and lora.modules_to_save
    if weights is None or names is None or unties:
        return False
    if stored.head is None:
        set_generation(model, stored.tokenizer, CARD_SAMPLING, stop_ids=stop_ids)
    merged = merged_weights(model, lora, stored.folder / ADAPTER, weights, names)
    write_weights(model, stored.tokenizer, stored.model_folder, merged)
    return True


def _dtype(train: TrainSection) -> str:
    return "bfloat16" if train.precision == "pure_bf16" else "float32"


def sampler(
    stored: StoredModel, model: CausalLM, held_out: Sequence[Example], *, stop_ids: Collection[int], folder: Path
) -> Callable[[int], dict[str, float]] | None:
    """A ``TrainJob.sample`` that answers some held-out prompts; None without held-out examples or stop ids."""
    if not (stop_ids and held_out):
        return None
    prompts = [_prompt_ids(one) for one in held_out[:SAMPLED_PROMPTS]]
    longest = getattr(plain_model(model).config.get_text_config(), "max_position_embeddings", None)
    room = CARD_SAMPLING.max_new_tokens if longest is None else longest - max(map(len, prompts))
    if room < 1:
        return None
    sampling = CARD_SAMPLING.model_copy(update={"max_new_tokens": min(CARD_SAMPLING.max_new_tokens, room)})
    return sample_writer(model, stored.tokenizer, prompts, sampling=sampling, stop_ids=stop_ids, folder=folder)


def sample_writer(
    model: CausalLM,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingSection,
    stop_ids: Collection[int],
    folder: Path,
) -> Callable[[int], dict[str, float]]:
    """A ``TrainJob.sample``: answers the prompts and appends them to ``samples.jsonl``, with the step.

    It returns the mean length of the answers, which the health checks watch. Same seed at every evaluation.
    """

    def sample(step: int) -> dict[str, float]:
        completions = generate(plain_model(model), prompts, sampling, stop=Stopping(stop_ids))
        if rank() == 0:
            lines = [
                {
                    "step": step,
                    "prompt": str(tokenizer.decode(list(prompts[one.prompt_index]))),
                    "completion": str(tokenizer.decode(list(one.ids), skip_special_tokens=True)),
                    "finish_reason": one.finish_reason,
                }
                for one in completions
            ]
            _append(folder / TRAIN_SAMPLES, step, [json.dumps(line, ensure_ascii=False) for line in lines])
        return {GENERATED_TOKENS: float(np.mean([len(completion.ids) for completion in completions]))}

    return sample


def _append(path: Path, step: int, lines: Sequence[str]) -> None:
    """Write the lines behind those of earlier steps; what a run wrote after its checkpoint comes again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    earlier = [line for line in written if json.loads(line)["step"] < step]
    replace_text(path, "\n".join([*earlier, *lines]) + "\n")


def _prompt_ids(example: Example) -> list[int]:
    """The ids before the first answer."""
    ids = example.prompt if isinstance(example, Comparison) else example.ids[: int(example.scored.argmax())]
    return [int(token) for token in ids]
