"""Compiled layers give what they gave, and one compilation serves micro-batches of every layout."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.train.test_simulation import SIZES, examples
from zephyr.models.batch_scoring import forest_of
from zephyr.recipe.objective_section import DpoObjective
from zephyr.recipe.train_section import TrainSection
from zephyr.train.job import build_scorer
from zephyr.train.objectives import build_objective


def forests():
    """Of pairs: one, several, and several again in another number."""
    objective, pairs = build_objective(DpoObjective()), examples("dpo", 11)
    rows = [objective.sequences(pair) for pair in pairs]
    return [forest_of(rows[start:end], 2) for start, end in ((0, 1), (1, 4), (4, 6), (6, 11))]


def drawn(architecture):
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if architecture == "mixtral" else {}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **SIZES, **experts))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["mistral", "llama", "qwen3", "gemma", "mixtral"])
def test_compiled_layers_give_what_they_gave_whatever_the_layout(architecture, monkeypatch):
    graphs, settings = [], {"learning_rate": 1e-5, "precision": "float32"}
    plain = build_scorer(drawn(architecture), TrainSection(**settings))

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiles = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiles(module, backend=backend, **options))
    torch.compiler.reset()
    compiled = build_scorer(drawn(architecture), TrainSection(**settings, compile=True))
    numbers = []
    for forest in forests():
        for scorer in (plain, compiled):
            scorer(forest).logps.sum().backward()
        numbers.append(len(graphs))
    assert numbers[0] > 0
    # The first forest may be compiled for its own size, the second for every size; none of the others is.
    assert numbers[1] == numbers[-1], numbers
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=1e-4, rtol=1e-3, msg=name)
