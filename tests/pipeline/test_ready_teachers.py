"""Teachers as the sections of a recipe name them."""

import pytest

from tests.pipeline.mini import mini_recipe
from zephyr.errors import RecipeError, TeacherError
from zephyr.pipeline import ready
from zephyr.pipeline.endpoints import asked_together, cap_of, prices_of
from zephyr.pipeline.ready import rater, writer
from zephyr.recipe.teacher_section import EndpointSection, LocalSection, ScriptedSection, VllmSection
from zephyr.stages.stage import Work
from zephyr.teachers.endpoint import batch_file
from zephyr.teachers.endpoint import teacher as endpoint
from zephyr.teachers.ledger.prices import Cap, Prices
from zephyr.teachers.vllm_engine import EngineSettings

HERE = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(mini_recipe(tmp_path), "feedback", tmp_path, {}, tmp_path)


def test_each_section_opens_its_teacher(work, tiny_folder):
    assert writer(ScriptedSection(), work).name == "scripted teacher"
    assert rater(ScriptedSection(), work).name == "scripted judge"
    assert writer(LocalSection(model=str(tiny_folder)), work).name == str(tiny_folder)
    opened = writer(EndpointSection(**HERE, max_tries=3), work)
    assert isinstance(opened, endpoint.EndpointTeacher)
    assert opened.settings.max_tries == 3
    assert isinstance(rater(EndpointSection(**HERE, batch=True), work), batch_file.BatchTeacher)


def test_an_engine_is_opened_with_the_models_tokenizer(work, tiny_folder, monkeypatch):
    told: list[tuple] = []
    monkeypatch.setattr(ready, "is_installed", lambda: True)
    monkeypatch.setattr(ready, "open_vllm", lambda *words, **named: told.append((*words, named)))
    writer(VllmSection(model=str(tiny_folder), num_gpus=2, max_length=512), work)
    ((model, encoder, settings, named),) = told
    assert (model, named) == (str(tiny_folder), {"name": str(tiny_folder)})
    assert settings == EngineSettings(None, 2, 0.9, 512, seed=work.recipe.seed)
    assert encoder.stop_ids


def test_an_engine_that_is_not_installed_is_said_first(work, monkeypatch):
    monkeypatch.setattr(ready, "is_installed", lambda: False)
    with pytest.raises(TeacherError, match="vllm: is not installed"):
        writer(VllmSection(model="nowhere"), work)


def test_a_far_server_is_not_for_an_offline_run_and_its_key_names_the_place(work, monkeypatch):
    with pytest.raises(RecipeError, match=r"^feedback\.candidates\.teachers\.1\.base_url: is at another machine"):
        writer(EndpointSection(model="m"), work, where="candidates.teachers.1")
    with pytest.raises(RecipeError, match=r"^feedback\.judge\.headers: SOME_TOKEN is not set"):
        rater(EndpointSection(**HERE, headers={"x": "${SOME_TOKEN}"}), work)


def test_prices_and_caps_are_the_sections():
    priced = EndpointSection(**HERE, prices={"prompt": 2, "completion": 4}, max_total_price=5)
    assert prices_of(priced) == Prices(2, 4)
    by_files = priced.model_copy(update={"batch": True, "max_total_price": 3, "max_total_tokens": 7})
    assert prices_of(by_files) == Prices(1, 2)
    assert prices_of(ScriptedSection()) == Prices()
    assert cap_of([priced, by_files, ScriptedSection()]) == Cap(7, 3)
    assert cap_of([ScriptedSection()]) == Cap()
    assert asked_together(10, [priced, ScriptedSection()]) == 10
    assert asked_together(10, [priced, by_files]) == 5_000
