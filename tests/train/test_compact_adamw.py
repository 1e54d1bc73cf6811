"""Adam with moments of eight bits, and on bfloat16 weights: its numbers, near float32, sharded, resumed to the bit."""

import pytest
import torch

from tests.train.checkpoint_runs import assert_same
from tests.train.distributed_runs import on_ranks
from tests.train.optimizer_runs import SAVED_AT, STEPS, Wide, ended, fifty_steps
from zephyr.estimate.memory import EIGHT_BIT_BYTES
from zephyr.train.compact_adamw import CompactAdamW, code


def optimizer_of(*parameters, lr=0.1, weight_decay=0.0):
    groups = [{"params": list(parameters), "weight_decay": weight_decay}]
    return CompactAdamW(groups, "byte", lr=lr, betas=(0.9, 0.99), eps=0.0)


def test_the_numbers_of_a_byte():
    signed, unsigned = code(signed=True), code(signed=False)
    assert len(signed.unique()) == len(unsigned.unique()) == 256
    # The highest decade is 0.9 wide, in 64 and in 128 parts, of which these are the last middles.
    assert signed[[0, 127, 254, 255]].tolist() == pytest.approx([-1 + 0.45 / 64, 0, 1 - 0.45 / 64, 1])
    assert unsigned[[0, 1, 2, 254, 255]].tolist() == pytest.approx([1e-7, 3.25e-7, 7.75e-7, 1 - 0.45 / 128, 1])


def test_two_steps_by_hand():
    """Two blocks in a row: one of a single gradient size, one with a gradient a thousandth of its largest."""
    weights = torch.zeros(16, 512, requires_grad=True)
    optimizer = optimizer_of(weights)
    gradient = torch.ones(16, 512)
    gradient[:, 256] = 1000.0
    weights.grad = gradient.clone()
    optimizer.step()
    # Adam's first step is the learning rate against the gradient's sign.
    assert torch.equal(weights, torch.full((16, 512), -0.1))
    state = optimizer.state[weights]
    assert {name: tuple(value.shape) for name, value in state.items() if name != "step"} == {
        "exp_avg": (16, 512), "exp_avg_scale": (16, 2), "exp_avg_sq": (16, 512), "exp_avg_sq_scale": (16, 2),
    }  # fmt: skip
    assert state["exp_avg_scale"][0].tolist() == pytest.approx([0.1, 100.0])
    assert state["exp_avg_sq_scale"][0].tolist() == pytest.approx([0.01, 10_000.0])
    # A thousandth lies between the middles 0.94375e-3 and 1.28125e-3, a millionth between 0.775e-6 and 2.125e-6.
    assert float(code(signed=True)[int(state["exp_avg"][0, 257])]) == pytest.approx(0.94375e-3)
    assert float(code(signed=False)[int(state["exp_avg_sq"][0, 257])]) == pytest.approx(0.775e-6)
    weights.grad = gradient.clone()
    optimizer.step()
    # The largest of a block loses nothing. The others go on from 0.094375 and 0.00775 instead of 0.1 and 0.01:
    # 0.1849375 / 0.19 over the root of 0.0176725 / 0.0199.
    assert weights[0, [0, 255, 256, 257, 511]].tolist() == pytest.approx([-0.2, -0.2, -0.2, -0.2032878, -0.2032878])


def test_a_second_moment_too_small_for_its_block_does_not_make_a_step_long():
    weights = torch.zeros(16, 256, requires_grad=True)
    optimizer = optimizer_of(weights)
    for size in (1.0, 0.0, 0.0):
        weights.grad = torch.full((16, 256), 1e-5 * size)
        weights.grad[:, 0] = 1.0
        before = weights.detach().clone()
        optimizer.step()
        assert float((weights.detach() - before).abs().max()) < 0.1 + 1e-6


def test_small_tensors_and_vectors_are_stepped_as_by_adam():
    drawn = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=drawn) for shape in ((40, 50), (5000,), ())]
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in start] for _ in range(2))
    mine = optimizer_of(*ours, weight_decay=0.1)
    plain = torch.optim.AdamW(theirs, lr=0.1, betas=(0.9, 0.99), eps=0.0, weight_decay=0.1)
    for _ in range(5):
        for left, right in zip(ours, theirs, strict=True):
            left.grad = right.grad = torch.randn(left.shape, generator=drawn)
        mine.step()
        plain.step()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right)


def test_its_state_takes_the_bytes_that_plans_count():
    weights = torch.zeros(64, 1024, requires_grad=True)
    optimizer = optimizer_of(weights)
    weights.grad = torch.ones_like(weights)
    optimizer.step()
    tensors = [value for value in optimizer.state[weights].values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == weights.numel() * EIGHT_BIT_BYTES


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Fifty steps in float32 and in eight bits, on one process and on two ranks."""
    folder = tmp_path_factory.mktemp("fifty")
    fifty_steps(folder, "float32", "adamw_torch")
    fifty_steps(folder, "alone", "adamw_8bit")
    on_ranks(2, folder, fifty_steps, "together", "adamw_8bit")
    return folder


@pytest.mark.parametrize("name", ["alone", "together"])
def test_fifty_steps_come_near_to_float32(runs, name):
    exact, ours, start = ended(runs, "float32"), ended(runs, name), Wide().state_dict()
    assert ours.losses[-1] < 0.5 * ours.losses[0]
    assert ours.losses == pytest.approx(exact.losses, rel=5e-3)
    for parameter, before in start.items():
        moved = (exact.tensors[parameter] - before).norm()
        assert (ours.tensors[parameter] - exact.tensors[parameter]).norm() < 0.05 * moved, parameter


def test_two_ranks_step_as_one_to_the_bit(runs):
    alone, together = ended(runs, "alone"), ended(runs, "together")
    assert together.losses == alone.losses
    assert together.scalars == alone.scalars
    assert_same(together.tensors, alone.tensors)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (2, 1)])
def test_a_run_that_was_stopped_goes_on_to_the_bit(runs, tmp_path, before, after):
    for world, until in ((before, [SAVED_AT]), (after, [])):
        for met in tmp_path.glob("meet-*"):
            met.unlink()
        if world == 1:
            fifty_steps(tmp_path, "cut", "adamw_8bit", *until)
        else:
            on_ranks(world, tmp_path, fifty_steps, "cut", "adamw_8bit", *until)
    whole, cut = ended(runs, "alone"), ended(tmp_path, "cut")
    assert cut.losses == whole.losses[SAVED_AT:]
    assert_same(cut.tensors, whole.tensors)


SMALL_LR = 5.0e-7  # that of the published dDPO
SMALL_STEPS = 200


def movement(optimizer_on, weights, signs):
    """How far weights (n, m) move against the signs of a constant gradient, on average."""
    moving = weights.clone().requires_grad_()
    optimizer = optimizer_on(moving)
    for _ in range(SMALL_STEPS):
        moving.grad = signs.to(weights.dtype)
        optimizer.step()
    return float(((weights - moving.detach()).double() * signs).mean())


def test_bfloat16_weights_move_as_float32_ones_where_rounding_to_the_nearest_loses_all():
    drawn = torch.Generator().manual_seed(0)
    weights = (0.02 * torch.randn(512, 512, generator=drawn)).bfloat16()
    signs = torch.randn(512, 512, generator=drawn).sign()
    settings = {"lr": SMALL_LR, "betas": (0.9, 0.999), "eps": 1e-8}
    plain = movement(lambda one: torch.optim.AdamW([one], weight_decay=0.0, **settings), weights.float(), signs)
    ours = movement(lambda one: CompactAdamW([{"params": [one]}], "bfloat16", **settings), weights, signs)
    nearest = movement(lambda one: torch.optim.AdamW([one], weight_decay=0.0, **settings), weights, signs)
    assert plain == pytest.approx(SMALL_LR * SMALL_STEPS, rel=1e-3)
    assert ours == pytest.approx(plain, rel=0.02)
    assert nearest < 0.05 * plain


def test_bfloat16_moments_follow_their_gradient_on_average():
    weights = torch.zeros(64, 256, dtype=torch.bfloat16, requires_grad=True)
    optimizer = CompactAdamW([{"params": [weights]}], "bfloat16", lr=1e-6, betas=(0.9, 0.999), eps=1e-8)
    for size in (1.0,) * 50 + (0.5,) * 150:
        weights.grad = torch.full_like(weights, size)
        optimizer.step()
    state = optimizer.state[weights]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    second = (1 - 0.999**50) * 0.999**150 + 0.25 * (1 - 0.999**150)
    assert float(state["exp_avg_sq"].double().mean()) == pytest.approx(second, rel=0.01)
    assert float(state["exp_avg"].double().mean()) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_of_bfloat16_weights_goes_on_with_the_same_dice(tmp_path, world):
    for name, until in (("whole", STEPS), ("cut", SAVED_AT), ("cut", STEPS)):
        for met in tmp_path.glob("meet-*"):
            met.unlink()
        arguments = (tmp_path, name, "adamw_torch", until, "pure_bf16")
        if world == 1:
            fifty_steps(*arguments)
        else:
            on_ranks(world, tmp_path, fifty_steps, *arguments[1:])
    whole, cut = ended(tmp_path, "whole"), ended(tmp_path, "cut")
    assert whole.losses[-1] < 0.5 * whole.losses[0]
    assert cut.losses == whole.losses[SAVED_AT:]
    assert_same(cut.tensors, whole.tensors)
