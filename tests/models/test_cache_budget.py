"""How many tokens of keys and values may be held follows from what is wanted, or from the device's free memory."""

from types import SimpleNamespace

import pytest
import torch
from transformers import MistralConfig

from zephyr.models import engine
from zephyr.models.engine import MAX_CACHE_TOKENS, cache_budget

GIB = 2**30


def on(device, **sizes):
    """Enough of a model with 8 layers whose tokens take 2 x 2 heads x 16 numbers of two bytes in each."""
    fields = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 8}
    config = MistralConfig(**fields | sizes)
    return SimpleNamespace(config=config, device=torch.device(device), dtype=torch.bfloat16)


@pytest.fixture
def memory(monkeypatch):
    """A GPU with 10 GiB that are free, and 2 of this process that it has taken and does not use."""
    told = {"get_memory_info": (10 * GIB, 80 * GIB), "memory_reserved": 5 * GIB, "memory_allocated": 3 * GIB}
    for name, value in told.items():
        monkeypatch.setattr(torch.accelerator, name, lambda _device, value=value: value)
    monkeypatch.setattr(engine, "CACHE_SHARE", 0.5)


def test_a_cpu_has_a_fixed_budget_that_one_long_answer_may_exceed():
    assert cache_budget(on("cpu"), None, at_least=1000) == MAX_CACHE_TOKENS
    assert cache_budget(on("cpu"), None, at_least=100_000) == 100_000


def test_a_gpu_has_what_a_share_of_its_free_memory_holds(memory):
    # 6 GiB over 8 layers of 128 bytes.
    assert cache_budget(on("cuda"), None, at_least=1000) == 6 * GIB // (8 * 128)
    assert cache_budget(on("cuda", num_hidden_layers=16), None, at_least=1000) == 6 * GIB // (16 * 128)
    assert cache_budget(on("cuda", num_hidden_layers=8192), None, at_least=10_000) == 10_000


def test_what_is_wanted_is_kept(memory):
    assert cache_budget(on("cuda"), 4321, at_least=1000) == 4321
    assert cache_budget(on("cuda"), 500, at_least=1000) == 500  # the check of the prompts says so
