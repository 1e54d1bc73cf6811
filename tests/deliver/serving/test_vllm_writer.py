"""vLLM as the writer, with an engine of the same interface in its place: no GPU is needed to hold its contract."""

import asyncio
import os
import stat
import sys
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType, SimpleNamespace

import pytest

from zephyr.deliver.serving import vllm_writer
from zephyr.deliver.serving.vllm_writer import VllmWriter
from zephyr.errors import TeacherError
from zephyr.models.continuous import ClosedError
from zephyr.models.samples import DrawRules, Sample
from zephyr.recipe.teacher_section import SamplingSection

STOP = 2


class FakeEngine:
    """Writes the numbers from 10 on, two at a time, and the stop token as the seventh."""

    def __init__(self):
        self.asked, self.left = [], 0
        folder = Path(os.environ["VLLM_RPC_BASE_PATH"])
        self.folder, self.mode = folder, stat.S_IMODE(folder.stat().st_mode)

    async def generate(self, prompt, sampling, request_id):
        self.asked.append((prompt, sampling, request_id))
        try:
            ids = [*range(10, 16), STOP][: sampling.max_tokens]
            for start in range(0, len(ids), 2):
                await asyncio.sleep(0.01 if sampling.max_tokens < 100 else 0.2)
                new = ids[start : start + 2]
                logprobs = [{token: SimpleNamespace(logprob=-0.5), 7: SimpleNamespace(logprob=-0.1)} for token in new]
                last = start + 2 >= len(ids)
                reason = ("stop" if ids[-1] == STOP else "length") if last else None
                yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=new, logprobs=logprobs, finish_reason=reason)])
        finally:
            self.left += 1

    def shutdown(self):
        self.asked.append("shutdown")


@pytest.fixture
def opened(monkeypatch):
    engines = []

    def from_engine_args(arguments):
        engines.append(FakeEngine())
        engines[-1].arguments = arguments
        return engines[-1]

    parts = {
        "vllm": {"SamplingParams": SimpleNamespace},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA="delta")},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": SimpleNamespace},
        "vllm.v1.engine.async_llm": {"AsyncLLM": SimpleNamespace(from_engine_args=from_engine_args)},
    }
    for name, held in parts.items():
        module = ModuleType(name)
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vllm_writer, "is_installed", lambda: True)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    writer = VllmWriter("model", [STOP], window=64)
    yield writer, engines[0]
    writer.close(5)


class Heard:
    def __init__(self, limit=None):
        self.tokens, self.end, self.limit = [], SimpleQueue(), limit

    def took(self, token):
        self.tokens.append(token)
        return len(self.tokens) == self.limit

    def ended(self, reason, num_tokens):
        self.end.put((reason, num_tokens))

    def failed(self, error):
        self.end.put(error)


def one(limit=None, max_new_tokens=50):
    heard = Heard(limit)
    rules = DrawRules(SamplingSection(max_new_tokens=max_new_tokens, top_k=0), logit_bias={3: 1.0}, num_top=1)
    return Sample([4, 5], rules, heard, seed=(1, 0)), heard


def test_tokens_come_without_the_stop_token_and_rules_go_to_the_engine(opened):
    writer, engine = opened
    sample, heard = one()
    writer.submit([sample])
    assert heard.end.get(timeout=60) == ("stop", 7)
    assert [token.id for token in heard.tokens] == [*range(10, 16)]
    assert heard.tokens[0].top == ((7, -0.1),)
    prompt, sampling, _ = engine.asked[0]
    assert prompt == {"prompt_token_ids": [4, 5]}
    assert (sampling.top_k, sampling.logit_bias, sampling.logprobs, sampling.stop_token_ids) == (-1, {3: 1.0}, 1, [2])
    assert engine.arguments.max_model_len == 64


def test_a_listener_that_ends_or_leaves_ends_the_request(opened):
    writer, _ = opened
    (first, heard), (second, told) = one(limit=3), one(max_new_tokens=5)
    writer.submit([first, second])
    assert heard.end.get(timeout=60) == ("stop", 3)
    assert told.end.get(timeout=60) == ("length", 5)


def test_the_sockets_lie_in_a_folder_of_this_user_that_goes(opened):
    writer, engine = opened
    assert engine.mode == 0o700
    sample, heard = one(max_new_tokens=200)
    writer.submit([sample])
    writer.close(5)
    assert isinstance(heard.end.get(timeout=60), ClosedError)
    assert engine.asked[-1] == "shutdown"
    assert not engine.folder.exists()
    with pytest.raises(ClosedError):
        writer.submit([one()[0]])


def test_without_vllm_that_is_said(monkeypatch):
    monkeypatch.setattr(vllm_writer, "is_installed", lambda: False)
    with pytest.raises(TeacherError, match="is not installed"):
        VllmWriter("model", [STOP], window=64)
