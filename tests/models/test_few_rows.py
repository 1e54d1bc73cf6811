"""Products of few rows the other way round: the same numbers up to rounding, and layers as they were afterwards."""

import math

import pytest
import torch
from torch import Tensor, nn

from zephyr.models.few_rows import MAX_FEW, fast_for_few_rows

WIDTH, WIDER = 24, 40


@pytest.fixture(autouse=True)
def _amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed does not depend on the processor, only how fast."""
    monkeypatch.setattr("zephyr.models.few_rows.has_amx", lambda: True)


class _Mlp(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, WIDER, bias=False, dtype=dtype)
        self.up_proj = nn.Linear(WIDTH, WIDER, bias=False, dtype=dtype)
        self.down_proj = nn.Linear(WIDER, WIDTH, bias=False, dtype=dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        inner: Tensor = nn.functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden)
        down: Tensor = self.down_proj(inner)
        return down


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2,), (1, 3), (2, 3), (MAX_FEW,), (MAX_FEW + 1,), (0,)])
def test_the_output_is_the_same_up_to_rounding(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mlp = _Mlp().requires_grad_(requires_grad=False)
    hidden = torch.randn(*shape, WIDTH, dtype=torch.bfloat16)
    with fast_for_few_rows(mlp):
        assert all("forward" in layer.__dict__ for layer in mlp.children())
        found = mlp(hidden)
    assert not any("forward" in layer.__dict__ for layer in mlp.children())
    expected = mlp.double()(hidden.double())
    assert found.shape == expected.shape
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=2**-6, atol=2**-7)


@pytest.mark.parametrize("num_rows", [1, 2, MAX_FEW])
def test_rows_that_are_not_contiguous_are_read_as_they_are(num_rows: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, WIDER, bias=False, dtype=torch.bfloat16).requires_grad_(requires_grad=False)
    hidden = torch.randn(WIDTH, 2 * num_rows, dtype=torch.bfloat16).T[::2]
    with fast_for_few_rows(layer):
        found = layer(hidden[None])
    expected = hidden.double() @ layer.weight.double().T
    torch.testing.assert_close(found[0].double(), expected, rtol=2**-7, atol=2**-8)


def test_other_layers_keep_their_forward() -> None:
    """float32 has nothing to win; a bias would be rounded apart; a forward of its own is not ours to replace."""
    biased = nn.Linear(WIDTH, WIDER, dtype=torch.bfloat16)
    own = nn.Linear(WIDTH, WIDER, bias=False, dtype=torch.bfloat16)
    own.__dict__["forward"] = math.sqrt
    model = nn.ModuleList([_Mlp(torch.float32), biased, own])
    with fast_for_few_rows(model):
        assert [module for module in model.modules() if "forward" in module.__dict__] == [own]
    assert own.__dict__["forward"] is math.sqrt


def test_without_amx_nothing_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the other way round is slower: by half for 8 rows with AVX-512, and one row three times."""
    monkeypatch.setattr("zephyr.models.few_rows.has_amx", lambda: False)
    mlp = _Mlp()
    with fast_for_few_rows(mlp):
        assert not any("forward" in layer.__dict__ for layer in mlp.children())


def test_layers_are_put_back_after_an_error() -> None:
    mlp = _Mlp()
    with pytest.raises(ZeroDivisionError), fast_for_few_rows(mlp):
        raise ZeroDivisionError
    assert not any("forward" in layer.__dict__ for layer in mlp.children())
