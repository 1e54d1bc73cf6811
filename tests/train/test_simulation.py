"""A simulated step holds, sends and computes what follows by hand; every kind of training passes on a fake device."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from tests.train.loading_runs import save_tiny, train_stored
from tests.trees.test_attention import random_forest
from zephyr.data.tokenize.token_store import Comparison, Dialogue
from zephyr.models.adapters import add_lora
from zephyr.recipe.objective_section import DpoObjective, OrpoObjective, SftObjective
from zephyr.recipe.train_section import LoraSection, TrainSection
from zephyr.runs.layout import TRAIN_LOG
from zephyr.train import simulation
from zephyr.train.distributed import weights_dtype
from zephyr.train.ledger import ALLOCATION, MemoryLedger
from zephyr.train.objectives import build_objective
from zephyr.train.optimizers import OPTIMIZER_BUILDERS
from zephyr.train.simulation import seen_keys, simulate_step
from zephyr.trees.rule import visible

SIZES = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 256, "vocab_size": 500,
}  # fmt: skip
OBJECTIVES = {"sft": SftObjective(), "dpo": DpoObjective(), "orpo": OrpoObjective()}
# How often a step may wait for the device, to tell a number or to be told one, besides the two of its log line: never.
WAITS = 0


def model(architecture="mistral", dtype=torch.float32, **more):
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2} if architecture == "mixtral" else {}
    config = AutoConfig.for_model(architecture, **SIZES, **experts, **more)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def examples(objective, number):
    draw = np.random.default_rng(0)

    def ids(length):
        return draw.integers(0, SIZES["vocab_size"], length)

    if objective == "sft":
        return [Dialogue(f"row {n}", ids(90), np.arange(90) >= 30) for n in range(number)]
    return [Comparison(f"row {n}", ids(30), (ids(30), ids(30)), (1.0, 0.0)) for n in range(number)]


def simulated(of="dpo", ranks=1, architecture="mistral", lora=None, rows=8, **settings):
    train = TrainSection(**{"learning_rate": 1e-5, "max_tokens_per_micro_batch": 512} | settings)
    policy = model(architecture, weights_dtype(train))
    if lora:
        policy = add_lora(policy, lora)
    return simulate_step(policy, train, build_objective(OBJECTIVES[of]), examples(of, rows), num_ranks=ranks)


def rounded(tensors):
    return sum(-(-tensor.nbytes // ALLOCATION) * ALLOCATION for tensor in tensors)


def test_one_rank_holds_weights_gradients_and_two_moments():
    step = simulated(precision="pure_bf16")
    whole = rounded(model(dtype=torch.bfloat16).parameters())
    assert step.peak["weights"] == step.peak["gradients"] == whole
    # Moments in bfloat16, of the small norms in float32, which fill their allocation.
    assert step.peak["optimizer"] == 2 * whole
    assert step.traffic == {}
    assert step.tokens == [360, 360]


def test_ranks_hold_their_shard_and_gather_layers_twice_and_tables_once():
    step = simulated(ranks=4, rows=4, precision="bf16", activation_checkpointing=True)
    every = model()
    weights = sum(parameter.nbytes for parameter in every.parameters())
    layers = sum(parameter.numel() for parameter in every.model.layers.parameters())
    others = sum(parameter.numel() for parameter in every.parameters()) - layers
    assert step.peak["weights"] == pytest.approx(weights / 4, rel=0.02)
    gathers = step.traffic["c10d._allgather_base_"]
    assert gathers.calls == 2 * 2 + 1
    assert gathers.num_bytes == 2 * (2 * layers + others)  # in bfloat16
    assert step.traffic["c10d._reduce_scatter_base_"].num_bytes == 4 * (layers + others)  # in float32


def test_the_next_layer_is_asked_for_before_a_layer_computes(monkeypatch):
    calls = []

    class Noting(MemoryLedger):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(str(func))
            return super().__torch_dispatch__(func, types, args, kwargs)

    monkeypatch.setattr(simulation, "MemoryLedger", Noting)
    simulated(ranks=4, rows=4, precision="bf16")
    # The tables, the first layer and the second one.
    assert sum("allgather_base" in call for call in calls[: calls.index("torch_attn._varlen_attn.default")]) == 3


def test_operations_are_six_for_a_weight_and_token_and_recomputing_adds_two():
    plain, again, second = (
        simulated(precision="pure_bf16", activation_checkpointing=each).flops for each in (False, True, 2)
    )
    matrices = 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256)
    head = 500 * 128 * 8 * 60  # of scored tokens alone
    keys = 8 * (30 * 31 / 2 + 2 * (30 * 30 + 30 * 31 / 2))
    attention = 4 * 2 * 128 * keys
    assert plain == pytest.approx(6 * (matrices * 720 + head) + 3 * attention, rel=1e-6)
    # Of a layer that is computed again, the last product is not needed.
    assert again - plain == pytest.approx(2 * (matrices - 2 * 128 * 256) * 720 + attention, rel=1e-6)
    assert second - plain == pytest.approx((again - plain) / 2, rel=1e-6)


@pytest.mark.slow
def test_checkpointing_holds_less_and_selective_computes_no_product_again():
    plain, again, selective = (
        simulated(precision="pure_bf16", activation_checkpointing=each) for each in (False, True, "selective")
    )
    assert again.peak["activations"] < plain.peak["activations"] / 2
    assert again.peak_bytes < selective.peak_bytes < plain.peak_bytes
    assert selective.flops == plain.flops


@pytest.mark.parametrize(("reduce_dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_gradients_are_added_up_in_the_dtype_that_was_chosen(reduce_dtype, size):
    step = simulated(ranks=4, rows=4, precision="bf16", reduce_dtype=reduce_dtype)
    numbers = sum(parameter.numel() for parameter in model().parameters())
    assert step.traffic["c10d._reduce_scatter_base_"].num_bytes == size * numbers


@pytest.mark.parametrize("window", [None, 3])
def test_keys_that_are_seen_are_those_of_the_rule(window):
    for seed in range(5):
        forest = random_forest(seed)
        assert seen_keys(forest, window) == int(visible(forest, window).sum())


def test_a_simulation_leaves_its_process_as_it_was(tmp_path):
    save_tiny(tmp_path / "base", "llama")
    save_tiny(tmp_path / "reference", "mistral")
    logs = []
    for _ in range(2):
        train_stored(tmp_path, tmp_path / "base")
        logs.append((tmp_path / "on-1").rename(tmp_path / f"run {len(logs)}") / TRAIN_LOG)
        simulated(ranks=4, rows=4, precision="bf16", activation_checkpointing="selective")
    before, after = ([json.loads(line)["loss"] for line in log.read_text().splitlines()] for log in logs)
    assert before == after


@dataclass
class Watched:
    """What a device would have refused, and how often it was waited for."""

    attention: int = 0
    waits: int = 0
    faults: list[str] = field(default_factory=list)


class CopiedNumbers(TorchFunctionMode):
    """Counts tensors made of numbers: a CUDA device gets them by a copy from memory that the system may swap out."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # Where no device is named the tensor may stay on the host; a model without data is made of such ones.
        is_sent = func is torch.tensor and kwargs.get("device") not in (None, torch.device("meta"))
        self.seen.waits += is_sent or func is torch.Tensor.new_tensor
        return func(*args, **kwargs)


@pytest.fixture
def watched(monkeypatch):
    seen = Watched()

    class Watching(MemoryLedger):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.waits += "_local_scalar_dense" in str(func)
            if str(func) == "torch_attn._varlen_attn.default":
                seen.attention += 1
                query, key, value, *lengths = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
                if not query.dtype == key.dtype == value.dtype == torch.bfloat16:
                    seen.faults.append(f"attention of {query.dtype}, {key.dtype}, {value.dtype}")
                if any(x.stride(-1) != 1 or x.shape[-1] % 8 for x in (query, key, value)):
                    seen.faults.append("a head is not contiguous, or no multiple of 8")
                if any(x.dtype != torch.int32 for x in lengths):
                    seen.faults.append("lengths must be int32")
            return super().__torch_dispatch__(func, types, args, kwargs)

    monkeypatch.setattr(simulation, "MemoryLedger", Watching)
    with CopiedNumbers(seen):
        yield seen


EVERY = [
    (architecture, of, precision, ranks)
    for architecture in ("mistral", "llama", "qwen3", "gemma", "gemma2", "mixtral")
    for of in ("dpo", "orpo", "sft", "lora")
    for precision in ("bf16", "pure_bf16")
    for ranks in (1, 8)
]
FEW = [
    ("mixtral", "orpo", "pure_bf16", 8),
    ("gemma2", "dpo", "bf16", 1),
    ("mixtral", "lora", "bf16", 1),
]
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("architecture", "of", "precision", "ranks"),
    [pytest.param(*one, marks=() if one in FEW else slow) for one in EVERY],
)
def test_kernels_take_what_every_kind_of_training_hands_them(watched, architecture, of, precision, ranks):
    lora = LoraSection(r=4) if of == "lora" else None
    step = simulated("dpo" if lora else of, ranks, architecture, lora=lora, precision=precision, rows=8 * min(ranks, 2))
    assert watched.faults == []
    assert (watched.attention > 0) == (architecture != "gemma2")  # capped scores are FlexAttention's
    assert watched.waits <= WAITS
    assert step.peak_bytes == sum(step.peak.values()) > 0


SETTINGS = [
    *({"optim": name} for name in OPTIMIZER_BUILDERS),
    {"activation_checkpointing": True},
    {"activation_checkpointing": "selective"},
    {"activation_checkpointing": 2},
    {"reduce_dtype": "bfloat16"},
]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 8])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_optimizer_and_way_to_save_memory_waits_for_nothing(watched, settings, ranks):
    step = simulated("dpo", ranks, "mixtral", precision="bf16", rows=16, **settings)
    assert watched.faults == []
    assert watched.waits <= WAITS
    assert step.peak_bytes > 0
