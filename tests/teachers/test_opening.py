"""Teachers by their names on a command line, by a file, and by the sections of a recipe."""

import pytest

from tests.teachers.hostile_server import running_server
from zephyr.errors import RecipeError, TeacherError
from zephyr.models.loading import save_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.teacher_section import EndpointSection, LocalSection, PricesSection, ScriptedSection, VllmSection
from zephyr.teachers import opening, vllm_engine
from zephyr.teachers.endpoint.batch_file import BatchTeacher
from zephyr.teachers.endpoint.teacher import EndpointTeacher
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap, cap_of, prices_of
from zephyr.teachers.opening import (
    OpenedTeacher,
    StageLedgers,
    TeacherContext,
    check_teacher,
    open_teacher,
    parse_teacher,
    prompts_together,
)
from zephyr.teachers.protocol import ChatRequest
from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher
from zephyr.teachers.vllm_engine import is_installed
from zephyr.world import is_accepted, prompts

COMMAND = TeacherContext()
STAGE = TeacherContext(seed=3, offline=True, template=ChatTemplateSection())
HERE = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
SECTION = """\
name: endpoint
model: big
base_url: http://127.0.0.1:9/v1
structured: true
headers: {X-Team: "${TEAM}"}
prices: {prompt: 2.0, completion: 8.0}
max_total_price: 3.5
max_total_tokens: 1000
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("TEAM", "blue-team")
    path = tmp_path / "teacher.yaml"
    path.write_text(SECTION)
    return path


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "base"
    tokenizer = tiny_tokenizer()
    save_model(tiny_model("mistral", vocab_size=len(tokenizer)), tokenizer, folder)
    return folder


def opened(text: str, role: opening.TeacherRole = "writes") -> OpenedTeacher:
    return open_teacher(parse_teacher(text), role, COMMAND)


def test_names():
    assert isinstance(opened("scripted").teacher, ScriptedTeacher)
    assert isinstance(opened("scripted", "rates").teacher, ScriptedJudge)
    teacher, identity, _ = opened("endpoint:a/b@http://127.0.0.1:9/v1")
    assert isinstance(teacher, EndpointTeacher)
    assert identity == "a/b at http://127.0.0.1:9/v1"
    with pytest.raises(TeacherError, match=r"name scripted, local:FOLDER, vllm:FOLDER, endpoint:MODEL@URL or FILE"):
        parse_teacher("vlm:x")


@pytest.mark.parametrize("named", ["endpoint:m", "endpoint:m@nowhere", "endpoint:@http://127.0.0.1:9/v1"])
def test_an_endpoint_without_model_or_address(named):
    with pytest.raises(TeacherError, match=f"names no model and URL, got '{named}'"):
        parse_teacher(named)


def test_a_name_becomes_the_section_that_a_recipe_would_have(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-1")
    section = parse_teacher("endpoint:a@b@http://127.0.0.1:9/v1/", api_key_env="MY_KEY", concurrency=7)
    assert section == EndpointSection(
        model="a@b", base_url="http://127.0.0.1:9/v1/", api_key_env="MY_KEY", concurrency=7
    )
    assert parse_teacher("local:x") == LocalSection(model="x")
    assert parse_teacher("vllm:x") == VllmSection(model="x")


def test_a_command_calls_a_server_without_a_key_that_is_not_set(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    section = parse_teacher("endpoint:m@http://example.org/v1", api_key_env="MY_KEY")
    check_teacher(section, where="--judge", offline=False)
    assert open_teacher(section, "rates", COMMAND).identity == "m at http://example.org/v1"
    with pytest.raises(RecipeError, match=r"^--judge\.base_url: is on another machine, got example.org; .*--offline"):
        check_teacher(section, where="--judge", offline=True)


def test_the_scripted_teacher_of_a_file_errs_as_often_as_it_says(tmp_path):
    path = tmp_path / "teacher.yaml"
    path.write_text("name: scripted\n")
    assert opened(str(path)).identity == opened("scripted").identity == "scripted teacher with seed 0"
    path.write_text("name: scripted\nfault_rate: 0.0\n")
    teacher, identity, _ = opened(str(path))
    assert identity == "scripted teacher with seed 0 and fault rate 0"
    asked = prompts("train", 0, 40)
    requests = [ChatRequest(str(number), prompt.messages) for number, prompt in enumerate(asked)]
    assert all(
        is_accepted(request.messages, reply.text)
        for request, reply in zip(requests, teacher.answer(requests), strict=True)
    )


def test_a_file_holds_what_a_recipe_can_say(file):
    teacher, identity, section = opened(str(file), "rates")
    assert isinstance(teacher, EndpointTeacher)
    assert identity == opened("endpoint:big@http://127.0.0.1:9/v1", "rates").identity
    assert section.structured
    assert section.prices.completion == 8.0
    assert teacher.address.headers == {"X-Team": "blue-team"}
    assert cap_of([section, ScriptedSection()]) == Cap(1000, 3.5)
    assert cap_of([section], 10) == Cap(10, 3.5)
    assert cap_of([ScriptedSection()], 10) == Cap(10)


def test_prompts_for_batch_files_are_sent_together(file):
    assert prompts_together(256, [parse_teacher(str(file)), ScriptedSection()]) == 256
    file.write_text(SECTION + "batch: true\n")
    assert isinstance(opened(str(file)).teacher, BatchTeacher)
    assert prompts_together(256, [ScriptedSection(), parse_teacher(str(file))]) == 5_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SECTION + "concurency: 3\n", "line 9, concurency: there is no such key, got 3; did you mean 'concurrency'?"),
        ("name: oracle\n", "line 1, name: "),
        ("model: big\n", "model: "),
        ("name: endpoint\n", "model: is missing"),
        ("", "name: "),
        ("name: local\nmodel: stage:sft\n", "line 2, model: "),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, text, said):
    path = tmp_path / "teacher.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        parse_teacher(str(path))
    assert said in str(caught.value)
    assert "synth." not in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        parse_teacher(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize("context", [COMMAND, STAGE])
def test_an_engine_that_is_not_installed_is_said_first(context, monkeypatch):
    monkeypatch.setattr(vllm_engine, "is_installed", lambda: False)
    with pytest.raises(TeacherError, match="vllm: is not installed"):
        open_teacher(VllmSection(model="nowhere"), "writes", context)


def test_an_engine_without_its_library(tmp_path):
    if is_installed():
        pytest.skip("vllm is installed")
    with pytest.raises(TeacherError, match="vllm: is not installed"):
        opened(f"vllm:{tmp_path}")


def test_each_section_of_a_stage_opens_its_teacher(tiny_folder):
    assert open_teacher(ScriptedSection(), "writes", STAGE).teacher.name == "scripted teacher"
    assert open_teacher(ScriptedSection(), "rates", STAGE).teacher.name == "scripted judge"
    local = open_teacher(LocalSection(model=str(tiny_folder)), "writes", STAGE)
    assert local.teacher.name == local.identity == str(tiny_folder)
    called = open_teacher(EndpointSection(**HERE, max_tries=3), "writes", STAGE).teacher
    assert isinstance(called, EndpointTeacher)
    assert called.address.section.max_tries == 3
    batched = open_teacher(EndpointSection(**HERE, batch=True), "rates", STAGE).teacher
    assert isinstance(batched, BatchTeacher)


def test_the_model_of_a_stage_answers_under_its_name_there(tiny_folder):
    context = TeacherContext(template=ChatTemplateSection(), models={"sft": tiny_folder})
    found = open_teacher(LocalSection(model="stage:sft"), "writes", context)
    assert found.teacher.name == found.identity == "stage:sft"
    with pytest.raises(RecipeError, match=r"^feedback\.judge: stage 'stage:align' does not run before it"):
        open_teacher(LocalSection(model="stage:align"), "rates", context, where="feedback.judge")


def test_a_command_knows_a_local_model_by_its_weights(tiny_folder):
    found = opened(f"local:{tiny_folder}")
    assert found.teacher.name == str(tiny_folder)
    assert str(tiny_folder) not in found.identity


def test_an_engine_is_opened_with_the_models_tokenizer(tiny_folder, monkeypatch):
    told: list[tuple] = []

    def double(section, encoder, **named):
        told.append((section, encoder, named))

    monkeypatch.setattr(vllm_engine, "is_installed", lambda: True)
    monkeypatch.setattr(vllm_engine, "open_vllm", double)
    asked = VllmSection(model=str(tiny_folder), num_gpus=2, max_length=512)
    open_teacher(asked, "writes", STAGE)
    ((section, encoder, named),) = told
    assert (section, named) == (asked, {"place": str(tiny_folder), "seed": 3})
    assert encoder.stop_ids


def test_a_far_server_is_not_for_an_offline_run_and_its_key_names_the_place(monkeypatch):
    where = "feedback.candidates.teachers.1"
    with pytest.raises(RecipeError, match=r"^feedback\.candidates\.teachers\.1\.base_url: is on another machine"):
        open_teacher(EndpointSection(model="m"), "writes", STAGE, where=where)
    with pytest.raises(RecipeError, match=r"^judge\.headers: SOME_TOKEN is not set"):
        open_teacher(EndpointSection(**HERE, headers={"x": "${SOME_TOKEN}"}), "rates", STAGE, where="judge")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RecipeError, match=r"^judge\.api_key_env: OPENAI_API_KEY is not set"):
        check_teacher(EndpointSection(model="m"), where="judge", offline=False)
    check_teacher(EndpointSection(model="m", api_key_env=""), where="judge", offline=False)


def test_prices_and_caps_are_the_sections():
    priced = EndpointSection(**HERE, prices={"prompt": 2, "completion": 4}, max_total_price=5)
    assert prices_of(priced) == PricesSection(prompt=2, completion=4)
    by_files = priced.model_copy(update={"batch": True, "max_total_price": 3, "max_total_tokens": 7})
    assert prices_of(by_files) == PricesSection(prompt=1, completion=2)
    assert prices_of(ScriptedSection()) == PricesSection()
    assert cap_of([priced, by_files, ScriptedSection()]) == Cap(7, 3)
    assert cap_of([ScriptedSection()]) == Cap()
    assert prompts_together(10, [priced, ScriptedSection()]) == 10
    assert prompts_together(10, [priced, by_files]) == 5_000


def test_a_stage_shares_paid_answers_with_its_run_and_keeps_a_models_own(tmp_path, tiny_folder):
    sections = [EndpointSection(**HERE, max_total_tokens=9), LocalSection(model=str(tiny_folder)), ScriptedSection()]
    with StageLedgers(tmp_path / "stage", tmp_path, sections) as ledgers:
        paid, local, ruled = (ledgers.keep(open_teacher(one, "writes", STAGE)) for one in sections)
        assert isinstance(paid, LedgeredTeacher)
        assert paid.identity == "m at http://127.0.0.1:9/v1"
        with pytest.raises(TeacherError, match="of 9 tokens are spent"):
            list(paid.answer([ChatRequest("a", next(prompts("train", 0, 1)).messages)]))
        assert isinstance(local, LedgeredTeacher)
        assert isinstance(ruled, ScriptedTeacher)
        list(local.answer([ChatRequest("a", next(prompts("train", 0, 1)).messages, max_tokens=2)]))
    with Ledger(tmp_path / "stage" / "calls.sqlite") as ledger:
        assert [total.teacher for total in ledger.totals()] == [str(tiny_folder)]
    assert (tmp_path / "calls.sqlite").is_file()


def test_a_file_serves_a_command(tmp_path, capsys):
    from zephyr.cli import main as cli

    path, out = tmp_path / "teacher.yaml", tmp_path / "dialogues.jsonl"
    with running_server() as server:
        path.write_text(f"name: endpoint\nmodel: echo\nbase_url: {server.base_url}\nmax_total_tokens: 500\n")
        words = ["synth", "--generator", "world", "--teacher", str(path), "-o", str(out), "--count", "100"]
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, "--max-new-tokens", "20"])
        assert stop.value.code == 2
        assert "the spend cap would be exceeded" in capsys.readouterr().err
        asked = len(server.events())
        assert 0 < asked < 100
        path.write_text(f"name: endpoint\nmodel: echo\nbase_url: {server.base_url}\n")
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, "--max-new-tokens", "20"])
        assert not stop.value.code
        assert len({event.digest for event in server.events()}) == len(server.events())
    assert out.is_file()
