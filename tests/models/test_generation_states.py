"""Sampling from models that keep more than keys and values: their states move with the rows, or they are refused."""

import pytest
import torch

from tests.models.scorer_runs import small_model
from zephyr.errors import ModelError
from zephyr.models.generation import generate
from zephyr.models.sampling import Stopping
from zephyr.recipe.teacher_section import SamplingSection

SAMPLING = SamplingSection(temperature=1.0, max_new_tokens=12)


def test_states_of_linear_attention_leave_with_their_rows() -> None:
    """MiniMax keeps them beside its cache; a third of the vocabulary ends a sample, so rows leave at all times."""
    model = small_model("MiniMax", num_local_experts=4, head_dim=8).eval()
    prompt = list(range(40, 60))
    drawn = generate(model, [prompt], SAMPLING, num_samples=6, stop=Stopping(ids=tuple(range(40))))
    assert len({len(completion.ids) for completion in drawn}) > 2
    for completion in drawn:
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([[*prompt, *completion.ids]])).logits[0].log_softmax(-1)
        theirs = sum(float(logps[len(prompt) - 1 + place, token]) for place, token in enumerate(completion.ids))
        assert completion.logprob == pytest.approx(theirs, abs=1e-3)


def test_a_model_that_gives_no_cache_is_refused() -> None:
    with pytest.raises(ModelError, match="RecurrentGemmaForCausalLM: its forward gives no cache to go on from"):
        generate(small_model("RecurrentGemma").eval(), [[5, 6, 7]], SAMPLING)
