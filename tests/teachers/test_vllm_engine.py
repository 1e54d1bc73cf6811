"""A teacher by a vLLM engine, with a double in its place: what the engine is told, and what is made of its outputs."""

import json
import sys
from pathlib import Path

import pytest

from tests.teachers.calls import questions
from zephyr.errors import DataError, TeacherError
from zephyr.recipe.teacher_section import VllmSection
from zephyr.records.messages import Message
from zephyr.teachers.opening import OpenedTeacher, StageLedgers
from zephyr.teachers.protocol import ChatReply, ChatRequest
from zephyr.teachers.vllm_engine import Engine, is_installed, open_vllm

STOP = 0
# What stands in an engine's process in place of vLLM. It says what it was asked backwards, as far as it may.
DOUBLE = """
import json, os, sys
from types import SimpleNamespace as Record

def note(**what):
    with open(os.environ["VLLM_DOUBLE_LOG"], "a") as file:
        print(json.dumps({"process": os.getpid(), **what}), file=file)

class SamplingParams(dict):
    pass

class LLM:
    def __init__(self, **settings):
        note(opened=settings)
        if settings["model"] == "too large":
            sys.exit(7)
        self.llm_engine = Record(model_config=Record(max_model_len=settings["max_model_len"] or 40))

    def generate(self, prompts, sampling_params, *, use_tqdm):
        assert not use_tqdm
        note(prompts=prompts, params=sampling_params)
        return [self.output(*one) for one in zip(prompts, sampling_params, strict=True)]

    def output(self, prompt, params):
        ids = [*prompt["prompt_token_ids"][::-1], 0]
        is_cut = len(ids) > params["max_tokens"]
        reason = "abort" if params["seed"] == 9 else "length" if is_cut else "stop"
        return Record(outputs=[Record(token_ids=tuple(ids[: params["max_tokens"]]), finish_reason=reason)])
"""


class Letters:
    """Every letter is a token."""

    stop_ids = (STOP,)

    def prompt(self, messages):
        if messages[0].role == "system" or messages[-1].content == "refused":
            raise DataError("the template", "refuses these messages", "mend it")
        return [ord(letter) for letter in messages[-1].content]

    def text_of(self, completion):
        return "".join(chr(token) for token in completion if token != STOP)


@pytest.fixture
def vllm(monkeypatch, tmp_path):
    """Reads what the doubles have noted, one line each."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "vllm.py").write_text(DOUBLE)
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setenv("VLLM_DOUBLE_LOG", str(tmp_path / "log"))
    yield lambda: [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    for engine in list(Engine.running):
        engine.close()
    sys.modules.pop("vllm", None)


def asked(text: str, **changes: object) -> ChatRequest:
    return ChatRequest(text, (Message("user", text),), max_tokens=8)._replace(**changes)


def test_without_vllm_the_error_says_what_to_install():
    if is_installed():
        pytest.skip("vllm is installed")
    with pytest.raises(TeacherError, match=r"^vllm: is not installed; pip install \"zephyr-align\[vllm\]\""):
        open_vllm(VllmSection(model="m"), Letters())


def test_replies_are_the_engines_in_order(vllm):
    section = VllmSection(model="mine", num_gpus=2, memory_share=0.5)
    teacher = open_vllm(section, Letters(), place="folder", seed=3)
    requests = [asked("abc"), asked("x" * 40), asked("abcdefghij", max_tokens=3), asked("stop", seed=9)]
    replies = list(teacher.answer(requests))
    assert vllm()[0]["opened"] == {
        "model": "folder",
        "revision": None,
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "max_model_len": None,
        "seed": 3,
        "enable_prefix_caching": True,
    }
    assert replies == [
        ChatReply("abc", "cba", "stop", "", 3, 4),
        ChatReply("x" * 40, "", "error", "40 tokens and 8 new ones exceed 40", 40),
        ChatReply("abcdefghij", "jih", "length", "", 10, 3),
        ChatReply("stop", "", "error", "the engine stopped by abort", 4),
    ]
    assert teacher.name == "mine"


def test_sampling_is_the_requests(vllm):
    teacher = open_vllm(VllmSection(model="m", max_length=4096), Letters())
    list(teacher.answer([asked("a", temperature=0.0, top_p=0.9, top_k=0, seed=5), asked("b", top_k=7)]))
    _, told = vllm()
    params = told["params"]
    assert told["prompts"] == [{"prompt_token_ids": [97]}, {"prompt_token_ids": [98]}]
    assert params[0] == {
        "temperature": 0.0,
        "top_p": 0.9,
        "top_k": -1,
        "max_tokens": 8,
        "seed": 5,
        "stop_token_ids": [STOP],
        "skip_special_tokens": False,
    }
    assert params[1]["top_k"] == 7


def test_nothing_that_fits_asks_the_engine_nothing(vllm):
    teacher = open_vllm(VllmSection(model="m", max_length=10), Letters())
    (reply,) = teacher.answer(questions(1))
    assert reply.finish_reason == "error"
    assert len(vllm()) == 1


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def test_a_conversation_that_the_template_refuses_is_an_error_and_the_others_are_answered(vllm):
    with_system = (Message("system", "a"), Message("user", "b"))
    asked = [ChatRequest("0", (Message("user", "refused"),), max_tokens=9), ChatRequest("1", with_system, max_tokens=9)]
    teacher = open_vllm(VllmSection(model="m", max_length=20), Letters())
    assert list(teacher.answer(asked)) == [
        ChatReply("0", "", "error", "the template refuses these messages"),
        ChatReply("1", "b\n\na", "stop", prompt_tokens=4, completion_tokens=5),
    ]


def test_engines_run_one_after_the_other_where_a_gpu_holds_no_two(vllm):
    large, small, half = (
        open_vllm(VllmSection(model=name, memory_share=share), Letters())
        for name, share in (("large", 0.9), ("small", 0.5), ("half", 0.5))
    )
    for teacher in (large, small, half):
        (reply,) = teacher.answer([asked("abc")])
        assert reply.text == "cba"
    assert Engine.running == [small.engine, half.engine]
    (reply,) = large.answer([asked("abc")])
    assert Engine.running == [large.engine]
    opened = [line for line in vllm() if "opened" in line]
    assert [line["opened"]["model"] for line in opened] == ["large", "small", "half", "large"]
    assert [is_alive(line["process"]) for line in opened] == [False, False, False, True]


def test_a_stage_ends_its_engines(vllm, tmp_path):
    section = VllmSection(model="m")
    teacher = open_vllm(section, Letters())
    with StageLedgers(tmp_path, tmp_path, [section]) as ledgers:
        kept = ledgers.keep(OpenedTeacher(teacher, "m", section))
        assert [reply.text for reply in kept.answer([asked("abc")])] == ["cba"]
        assert Engine.running == [teacher.engine]
    assert Engine.running == []
    assert not is_alive(vllm()[-1]["process"])


def test_an_engine_that_cannot_start_is_an_error_in_words(vllm):
    teacher = open_vllm(VllmSection(model="too large"), Letters())
    expected = "vllm: too large: its engine has ended, exit code 7; see its output above; a smaller memory_share or"
    with pytest.raises(TeacherError, match=expected):
        list(teacher.answer([asked("abc")]))
    assert Engine.running == []


def test_memory_that_is_not_used_is_given_back_before_an_engine_starts(vllm, monkeypatch):
    torch = pytest.importorskip("torch")
    freed = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(len(Engine.running)))
    list(open_vllm(VllmSection(model="m"), Letters()).answer([asked("abc")]))
    assert freed == [0]
