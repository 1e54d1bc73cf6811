"""Where a model answers: never on a device that is not there."""

import pytest
import torch

from zephyr.models.loading import Placement, placement


@pytest.mark.parametrize(
    ("is_there", "expected"), [(True, Placement("cuda", "bfloat16")), (False, Placement("cpu", "float32"))]
)
def test_a_gpu_that_torch_was_built_for_is_taken_only_where_it_is_there(monkeypatch, is_there, expected):
    def current(check_available=False):
        return torch.device("cuda") if is_there or not check_available else None

    monkeypatch.setattr("torch.accelerator.current_accelerator", current)
    assert placement() == expected
