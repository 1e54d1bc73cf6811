"""A nucleus that is looked for among the likeliest tokens is the one that sorting all of them finds."""

import pytest
import torch

from zephyr.models.sampling import LIKELIEST, draw, filtered_probs
from zephyr.recipe.teacher_section import SamplingSection

VOCABULARY = 6000


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_the_nucleus_of_the_likeliest_is_that_of_all(top_p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sampling = SamplingSection(temperature=0.7, top_k=0, top_p=top_p)
    # From one likely token to nearly equal ones, so that rows need the first, the second, and all.
    spread = torch.tensor([0.01, 0.5, 1, 2, 4, 8, 16]).repeat_interleave(9)[:, None]
    logits = spread * torch.randn(len(spread), VOCABULARY, generator=generator)
    uniforms = torch.rand(len(spread), generator=generator, dtype=torch.float64)
    probs = filtered_probs(logits, sampling)
    sizes = (probs > 0).sum(-1)
    assert int(sizes.min()) < LIKELIEST[0]
    assert top_p == 0.1 or int(sizes.max()) > LIKELIEST[0]
    assert top_p < 0.9 or int(sizes.max()) > LIKELIEST[1]
    cumulative = probs.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
    drawn = draw(logits, sampling, uniforms)
    assert torch.equal(drawn, expected)
    alone = [draw(logits[row : row + 1], sampling, uniforms[row : row + 1]) for row in range(len(logits))]
    assert torch.equal(torch.cat(alone), drawn)


def test_the_first_of_equal_tokens_is_the_likeliest() -> None:
    logits = torch.zeros(3, VOCABULARY)
    logits[1, [5, 4000]] = 2
    logits[2, [7, 8, 5999]] = 1
    greedy = SamplingSection(temperature=0)
    assert draw(logits, greedy, torch.zeros(3)).tolist() == [0, 5, 7]
