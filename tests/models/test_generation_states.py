"""Sampling from models that keep more than keys and values: their states move with the rows, or they are refused."""

import pytest
import torch

from tests.models.architectures import small_model as small_causal_model
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


@pytest.mark.parametrize("model_type", ["roberta", "camembert", "xlm-roberta", "data2vec-text"])
def test_positions_that_are_counted_from_the_padding_go_on(model_type) -> None:
    """RoBERTa's family: the first token has the position behind the padding's id."""
    model = small_causal_model(model_type).eval()
    prompt = list(range(40, 52))
    for completion in generate(model, [prompt, prompt[:5]], SAMPLING, num_samples=2):
        ids = [*(prompt, prompt[:5])[completion.prompt_index], *completion.ids]
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        begin = len(ids) - len(completion.ids) - 1
        theirs = sum(float(logps[begin + place, token]) for place, token in enumerate(completion.ids))
        assert completion.logprob == pytest.approx(theirs, abs=1e-3)


def test_a_model_that_gives_no_cache_is_refused() -> None:
    with pytest.raises(ModelError, match="RecurrentGemmaForCausalLM: its forward gives no cache to go on from"):
        generate(small_model("RecurrentGemma").eval(), [[5, 6, 7]], SAMPLING)
