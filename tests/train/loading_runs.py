"""Ranks that read one stored model and train it; worker processes import this file, so it holds no tests."""

import copy
import json
from collections.abc import Collection
from pathlib import Path

from transformers import MixtralConfig, MixtralForCausalLM

from tests.train.distributed_runs import SETTINGS, VOCABULARY, make_examples
from tests.train.sections import make_objective
from zephyr.models.adapters import add_lora, save_adapter
from zephyr.models.collectives import rank, world_size
from zephyr.models.loading import load_model, save_model
from zephyr.models.merging import merged_weights
from zephyr.models.reward_model import NewHead, empty_start
from zephyr.models.source import Source
from zephyr.models.stored_weights import names_to_write, stored_hash
from zephyr.models.tiny import EOS_ID, tiny_model, tiny_tokenizer
from zephyr.models.weight_hash import weights_hash
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.train.job import TrainJob, build_scorer
from zephyr.train.stored_model import StoredModel, open_model
from zephyr.train.train import train


def save_mixtral(folder: Path, *, intermediate: int) -> None:
    """A mixture of eight experts, whose weights lie in several files."""
    config = MixtralConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=intermediate, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder, max_shard_size="40MB")


def read_shards(folder: Path, warm_up: str, name: str) -> None:
    """Read a model's shards, and write what that took of memory, and the hash of what was read, in a file a rank."""
    train = TrainSection(learning_rate=1.0e-3, precision="bf16")
    for one in (warm_up, name):
        before = _peak_bytes(reset=True)
        stored = StoredModel(Source(str(folder / one)), tiny_tokenizer(), folder)
        opened = open_model(stored, train, seed=0)
        assert opened.weights is not None
        read = stored_hash(opened.weights, opened.model)
        scorer = build_scorer(opened.model, train, weights=opened.weights)
        taken = _peak_bytes() - before
    found = {"taken": taken, "read": read, "held": weights_hash(scorer.transformers_model)}
    (folder / f"read-{rank()}.json").write_text(json.dumps(found))


def merge_shards(folder: Path, warm_up: str, name: str) -> None:
    """Merge new adapters into a model weight by weight, and write what that took of memory."""
    lora = LoraSection(r=2, target_modules=["q_proj", "experts"])
    for one in (warm_up, name):
        model, weights = empty_start(Source(str(folder / one)), None, dtype="float32")
        assert weights is not None
        save_adapter(add_lora(copy.deepcopy(model), lora), folder / f"adapter-{one}")
        sizes, before = [], _peak_bytes(reset=True)
        for _, weight in merged_weights(model, lora, folder / f"adapter-{one}", weights, names_to_write(model) or ()):
            sizes.append(weight.nbytes)
        taken = _peak_bytes() - before
    found = {"taken": taken, "largest": max(sizes), "total": sum(sizes)}
    (folder / "merged.json").write_text(json.dumps(found))


def _peak_bytes(*, reset: bool = False) -> int:
    """The most memory that this process has held at a time since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def save_tiny(folder: Path, name: str, *, tied: bool = False) -> None:
    model = tiny_model(name, vocab_size=VOCABULARY, hidden=16)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    save_model(model, tiny_tokenizer(vocab_size=VOCABULARY), folder)


def train_stored(
    folder: Path, base: Path, lora: LoraSection | None = None, objective: str = "dpo", *, stop_ids: Collection[int] = ()
) -> None:
    """Train the stored model by an objective to a folder named after the number of ranks.

    The reference is the model `reference` in the folder, where there is one.
    """
    to, tokenizer = folder / f"on-{world_size()}", tiny_tokenizer(vocab_size=VOCABULARY)
    head = NewHead(tokenizer, {EOS_ID}, 7) if objective == "bradley_terry" else None
    other = Source(str(folder / "reference")) if (folder / "reference").exists() else None
    job = TrainJob(
        model=StoredModel(Source(str(base)), tokenizer, to, lora, head, other),
        objective=make_objective(objective),
        settings=TrainSection(**{**SETTINGS, "precision": "float32", "save_steps": 1}),
        examples=make_examples("dpo", 7),
        eval_examples=make_examples("dpo", 3, seed=1),
        folder=to,
        stop_ids=stop_ids,
    )
    train(job)


def hash_of(folder: Path) -> str:
    return weights_hash(load_model(Source(str(folder)), dtype="float32"))
