"""Where a model answers: never on a device that is not there."""

from dataclasses import replace

import pytest
import torch

from zephyr.models.loading import Placement, fastest_placement, load_to_score, placement
from zephyr.models.matmul_speed import MatmulSpeed
from zephyr.models.source import Source
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.teacher_section import LocalSection
from zephyr.teachers.opening import TeacherContext, open_teacher


@pytest.mark.parametrize(
    ("is_there", "expected"), [(True, Placement("cuda", "bfloat16")), (False, Placement("cpu", "float32"))]
)
def test_a_gpu_that_torch_was_built_for_is_taken_only_where_it_is_there(monkeypatch, is_there, expected):
    def current(check_available=False):
        return torch.device("cuda") if is_there or not check_available else None

    monkeypatch.setattr("torch.accelerator.current_accelerator", current)
    assert placement() == expected


def test_the_faster_dtype_is_taken_where_it_is_worth_its_rounding(monkeypatch):
    assert MatmulSpeed(333e9, 2175e9).dtype == "bfloat16"
    assert MatmulSpeed(58e9, 0.6e9).dtype == "float32"
    assert MatmulSpeed(100e9, 149e9).dtype == "float32"
    monkeypatch.setattr("zephyr.models.loading.matmul_speed", lambda: MatmulSpeed(333e9, 2175e9))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert fastest_placement() == ("cpu", "bfloat16")
    # What a run stores does not hang on the machine.
    assert placement() == ("cpu", "float32")


def test_what_scores_and_what_answers_for_a_stage_is_on_the_accelerator(monkeypatch, tiny_folder):
    # Told by its dtype, as there is no accelerator here.
    monkeypatch.setattr("zephyr.models.loading.placement", lambda dtype=None: Placement("cpu", dtype or "bfloat16"))
    assert load_to_score(Source(str(tiny_folder))).dtype == torch.bfloat16
    context = TeacherContext(template=ChatTemplateSection(), models={"sft": tiny_folder})
    for model in (str(tiny_folder), "stage:sft"):
        assert open_teacher(LocalSection(model=model), "writes", context).teacher._model.dtype == torch.bfloat16
    # And in the dtype that a recipe asks for.
    assert load_to_score(Source(str(tiny_folder)), "float32").dtype == torch.float32
    asked = replace(context, dtype="float32")
    assert open_teacher(LocalSection(model="stage:sft"), "writes", asked).teacher._model.dtype == torch.float32
