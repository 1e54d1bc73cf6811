"""A teacher by a vLLM engine, with a double in its place: what the engine is told, and what is made of its outputs."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from tests.teachers.calls import questions
from zephyr.errors import TeacherError
from zephyr.recipe.teacher_section import VllmSection
from zephyr.records.messages import Message
from zephyr.teachers.protocol import ChatReply, ChatRequest
from zephyr.teachers.vllm_engine import is_installed, open_vllm

STOP = 0


class Letters:
    """Every letter is a token."""

    stop_ids = (STOP,)

    def prompt(self, messages):
        return [ord(letter) for letter in messages[-1].content]

    def text_of(self, completion):
        return "".join(chr(token) for token in completion if token != STOP)


class Double:
    """Says what it was asked backwards, as far as it may."""

    opened: dict
    told: list

    def __init__(self, **settings):
        Double.opened, Double.told = settings, []
        longest = settings["max_model_len"] or 40
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=longest))

    def generate(self, prompts, sampling_params, *, use_tqdm):
        assert not use_tqdm
        Double.told.append((prompts, sampling_params))
        return [self._output(*one) for one in zip(prompts, sampling_params, strict=True)]

    def _output(self, prompt, params):
        ids = [*prompt["prompt_token_ids"][::-1], STOP]
        is_cut = len(ids) > params["max_tokens"]
        reason = "abort" if params["seed"] == 9 else "length" if is_cut else "stop"
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids[: params["max_tokens"]], finish_reason=reason)])


@pytest.fixture
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = Double, dict
    monkeypatch.setitem(sys.modules, "vllm", module)


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
    assert Double.opened == {
        "model": "folder",
        "revision": None,
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "max_model_len": None,
        "seed": 3,
        "enable_prefix_caching": True,
    }
    requests = [asked("abc"), asked("x" * 40), asked("abcdefghij", max_tokens=3), asked("stop", seed=9)]
    assert list(teacher.answer(requests)) == [
        ChatReply("abc", "cba", "stop", "", 3, 4),
        ChatReply("x" * 40, "", "error", "40 tokens and 8 new ones exceed 40", 40),
        ChatReply("abcdefghij", "jih", "length", "", 10, 3),
        ChatReply("stop", "", "error", "the engine stopped by abort", 4),
    ]
    assert teacher.name == "mine"


def test_sampling_is_the_requests(vllm):
    teacher = open_vllm(VllmSection(model="m", max_length=4096), Letters())
    list(teacher.answer([asked("a", temperature=0.0, top_p=0.9, top_k=0, seed=5), asked("b", top_k=7)]))
    ((prompts, params),) = Double.told
    assert prompts == [{"prompt_token_ids": [97]}, {"prompt_token_ids": [98]}]
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
    assert Double.told == []
