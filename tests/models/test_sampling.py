"""A nucleus that is looked for among the likeliest tokens is the one that sorting all of them finds."""

import pytest
import torch

from zephyr.models import sampling as module
from zephyr.models.sampling import LIKELY, draw, filtered_probs
from zephyr.recipe.teacher_section import SamplingSection

VOCABULARY = 6000


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_the_nucleus_of_the_likely_is_that_of_all(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    sampling = SamplingSection(temperature=0.7, top_k=0, top_p=top_p)
    # From one likely token to nearly equal ones, so that rows need the first, the second, and all.
    spread = torch.tensor([0.01, 0.5, 1, 2, 4, 8, 16]).repeat_interleave(9)[:, None]
    logits = spread * torch.randn(len(spread), VOCABULARY, generator=generator)
    uniforms = torch.rand(len(spread), generator=generator, dtype=torch.float64)
    probs = filtered_probs(logits, sampling)
    everything = (logits / 0.7).softmax(-1)
    is_enough = (everything * (everything >= LIKELY)).sum(-1) >= top_p
    assert is_enough.any()
    assert top_p < 0.999 or not is_enough.all()
    cumulative = probs.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
    drawn = draw(logits, sampling, uniforms)
    assert torch.equal(drawn, expected)
    monkeypatch.setattr(module, "CACHED_LOGITS", 4 * VOCABULARY)
    assert torch.equal(draw(logits, sampling, uniforms), drawn)
    alone = [draw(logits[row : row + 1], sampling, uniforms[row : row + 1]) for row in range(len(logits))]
    assert torch.equal(torch.cat(alone), drawn)


def test_of_equal_tokens_the_nucleus_takes_the_first() -> None:
    # Three of four equal tokens reach 0.6, however many are drawn together.
    logits, uniforms = torch.zeros(50, 4), torch.linspace(0, 1, 50, dtype=torch.float64)
    drawn = draw(logits, SamplingSection(temperature=1, top_k=0, top_p=0.6), uniforms)
    assert sorted(set(drawn.tolist())) == [0, 1, 2]


def test_the_first_of_equal_tokens_is_the_likeliest() -> None:
    logits = torch.zeros(3, VOCABULARY)
    logits[1, [5, 4000]] = 2
    logits[2, [7, 8, 5999]] = 1
    greedy = SamplingSection(temperature=0)
    assert draw(logits, greedy, torch.zeros(3)).tolist() == [0, 5, 7]
