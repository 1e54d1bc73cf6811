"""What is done to log-probs and ratios before a loss: formulas, limits, and the ends of floating point."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from zephyr.recipe.objective_section import Divergence
from zephyr.train.losses.pairs import desensitised, divergence_scores


def vector(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype)


def test_desensitised_runs_from_head_to_whole():
    whole, head = vector(-50.0, -60.0), vector(-50.0, -40.0)
    assert_close(desensitised(whole, head, 1.0), whole)
    assert_close(desensitised(whole, head, 0.0), head)
    assert_close(desensitised(whole, head, 0.3), vector(-50.0, -46.0))


def test_divergences_by_their_formulas():
    ratios = vector(2.0, -5.0, 0.0)
    t = ratios.exp()
    assert_close(divergence_scores(ratios, "reverse_kl"), t.log())
    assert_close(divergence_scores(ratios, "forward_kl"), 1 - 1 / t)
    assert_close(divergence_scores(ratios, "js_divergence"), (2 * t / (1 + t)).log())
    assert_close(divergence_scores(ratios, "alpha_divergence", 0.5), (t**-0.5 - 1) / -0.5)
    chosen, rejected = divergence_scores(ratios, "js_divergence")[:2]
    assert (chosen - rejected).item() == pytest.approx((7 - (F.softplus(ratios[0]) - F.softplus(ratios[1]))).item())


@pytest.mark.parametrize("name", get_args(Divergence))
def test_divergences_pass_through_zero_and_stay_finite(name):
    ratios = torch.tensor([0.0, -500.0, 500.0], requires_grad=True)
    scores = divergence_scores(ratios, name, 0.5)
    scores.sum().backward()
    assert scores[0].item() == pytest.approx(0.0, abs=1e-7)
    assert ratios.grad[0].item() == pytest.approx(0.5 if name == "js_divergence" else 1.0)
    assert torch.isfinite(scores).all()
    assert torch.isfinite(ratios.grad).all()


def test_divergences_need_the_alpha_of_alpha_divergence():
    assert_close(divergence_scores(vector(3.0), "alpha_divergence", 1.0), vector(3.0))
    with pytest.raises(ValueError, match="alpha_divergence needs alpha"):
        divergence_scores(vector(3.0), "alpha_divergence")
