"""Teachers by their names on a command line, and by a file with a recipe's section."""

import pytest

from tests.teachers.hostile_server import running_server
from zephyr.errors import RecipeError, TeacherError
from zephyr.pipeline.asked_teachers import TeacherOptions, asked_together, cap_for, open_plain, section_of
from zephyr.teachers.endpoint.batch_file import BatchTeacher
from zephyr.teachers.endpoint.teacher import EndpointTeacher
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.protocol import ChatRequest
from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher
from zephyr.teachers.vllm_engine import is_installed
from zephyr.world import check, prompts

OPTIONS = TeacherOptions(concurrency=7)
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


def test_names():
    assert isinstance(open_plain("scripted", "writes", OPTIONS)[0], ScriptedTeacher)
    assert isinstance(open_plain("scripted", "rates", OPTIONS)[0], ScriptedJudge)
    teacher, identity = open_plain("endpoint:a/b@http://127.0.0.1:9/v1", "writes", OPTIONS)
    assert isinstance(teacher, EndpointTeacher)
    assert (identity, teacher.settings.concurrency) == ("a/b at http://127.0.0.1:9/v1", 7)
    with pytest.raises(TeacherError, match=r"name scripted, local:FOLDER, vllm:FOLDER, endpoint:MODEL@URL or FILE"):
        open_plain("vlm:x", "writes", OPTIONS)


@pytest.mark.parametrize("named", ["endpoint:m", "endpoint:m@nowhere", "endpoint:@http://127.0.0.1:9/v1"])
def test_an_endpoint_without_model_or_address(named):
    for asked in (section_of, lambda name: open_plain(name, "writes", OPTIONS)):
        with pytest.raises(TeacherError, match=f"names no model at an address, got '{named}'"):
            asked(named)


def test_a_name_becomes_the_section_that_a_recipe_would_have():
    section = section_of("endpoint:a@b@http://127.0.0.1:9/v1/")
    assert (section.model, section.base_url) == ("a@b", "http://127.0.0.1:9/v1/")
    assert [section_of(f"{form}:x").name for form in ("local", "vllm")] == ["local", "vllm"]
    assert section_of(section) is section


def test_the_scripted_teacher_of_a_file_errs_as_often_as_it_says(tmp_path):
    path = tmp_path / "teacher.yaml"
    path.write_text("name: scripted\n")
    usual = open_plain(str(path), "writes", OPTIONS)[1]
    assert usual == open_plain("scripted", "writes", OPTIONS)[1] == "scripted teacher with seed 0"
    path.write_text("name: scripted\nfault_rate: 0.0\n")
    teacher, identity = open_plain(str(path), "writes", OPTIONS)
    assert identity == "scripted teacher with seed 0 and fault rate 0"
    asked = prompts("train", 0, 40)
    requests = [ChatRequest(str(number), prompt.messages) for number, prompt in enumerate(asked)]
    assert all(
        check(request.messages, reply.text) for request, reply in zip(requests, teacher.answer(requests), strict=True)
    )


def test_a_file_holds_what_a_recipe_can_say(file):
    teacher, identity = open_plain(str(file), "rates", OPTIONS)
    assert isinstance(teacher, EndpointTeacher)
    assert identity == open_plain("endpoint:big@http://127.0.0.1:9/v1", "rates", OPTIONS)[1]
    assert teacher.settings.structured
    assert teacher.settings.prices.completion == 8.0
    assert teacher.address.headers == {"X-Team": "blue-team"}
    assert cap_for([str(file), "scripted"], None) == Cap(1000, 3.5)
    assert cap_for([str(file)], 10) == Cap(10, 3.5)
    assert cap_for(["scripted"], 10) == Cap(10)


def test_files_of_calls_are_asked_about_together(file):
    assert asked_together(256, [str(file), "scripted"]) == 256
    file.write_text(SECTION + "batch: true\n")
    assert isinstance(open_plain(str(file), "writes", OPTIONS)[0], BatchTeacher)
    assert asked_together(256, ["scripted", str(file)]) == 5_000


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
        open_plain(str(path), "writes", OPTIONS)
    assert said in str(caught.value)
    assert "synth." not in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        open_plain(str(tmp_path / "absent.yaml"), "writes", OPTIONS)


def test_an_engine_without_its_library(tmp_path):
    if is_installed():
        pytest.skip("vllm is installed")
    with pytest.raises(TeacherError, match="vllm: is not installed"):
        open_plain(f"vllm:{tmp_path}", "writes", OPTIONS)


def test_a_file_serves_a_command(tmp_path, capsys):
    from zephyr.cli import main as cli

    path, out = tmp_path / "teacher.yaml", tmp_path / "dialogues.jsonl"
    with running_server() as server:
        path.write_text(f"name: endpoint\nmodel: echo\nbase_url: {server.base_url}\nmax_total_tokens: 500\n")
        words = ["synth", "--generator", "world", "--teacher", str(path), "-o", str(out), "--count", "100"]
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, "--max-new-tokens", "20"])
        assert stop.value.code == 2
        assert "the spend cap would be passed" in capsys.readouterr().err
        asked = len(server.events())
        assert 0 < asked < 100
        path.write_text(f"name: endpoint\nmodel: echo\nbase_url: {server.base_url}\n")
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, "--max-new-tokens", "20"])
        assert not stop.value.code
        assert len({event.digest for event in server.events()}) == len(server.events())
    assert out.is_file()
