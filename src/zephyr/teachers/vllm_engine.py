"""A teacher that is a vLLM engine in a process of its own: many requests at once, on GPUs, by the extra `vllm`.

An engine gives its memory back only with its process, so that is what an engine is: started when it is first asked,
after this process has given back what it does not use, and ended before something else needs the GPU. The encoder
between conversations and ids comes from outside, so that prompts are the same ids as in `local`.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import multiprocessing
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from zephyr.errors import TeacherError
from zephyr.recipe.teacher_section import VllmSection
from zephyr.teachers.protocol import ChatReply, ChatRequest, Encoder, prompt_ids, reply_of, thinks_first

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

# Requests that the engine is given together; it schedules them itself.
WINDOW_REQUESTS = 4096
# An engine that is told to end is given so long before it is killed.
END_SECONDS = 30.0

# What vLLM's classes are made with.
Settings: TypeAlias = dict[str, object]


class EngineCompletion(NamedTuple):
    """What an engine made of one prompt."""

    ids: list[int]
    finish_reason: str | None


class _Asked(NamedTuple):
    """Prompts of token ids, and how each is to be sampled."""

    prompts: list[list[int]]
    samplings: list[Settings]


class Engine:
    """A vLLM engine: its process, while there is one. `settings` are those of vllm.LLM."""

    # The engines whose processes run; together they reserve no more than a GPU has.
    running: ClassVar[list[Engine]] = []

    def __init__(self, settings: Mapping[str, object], *, memory_share: float) -> None:
        self.memory_share = memory_share
        self._settings = dict(settings)
        self._process: BaseProcess | None = None
        self._connection: Connection[object, object] | None = None
        self._longest = 0

    @property
    def longest(self) -> int:
        """The most tokens of a prompt and its answer together; the engine is started to know."""
        self._start()
        return self._longest

    def generate(self, prompts: list[list[int]], samplings: list[Settings]) -> list[EngineCompletion]:
        """A completion for every prompt, in order. Raises TeacherError where the engine ends instead."""
        connection = self._start()
        connection.send(_Asked(prompts, samplings))
        made: list[EngineCompletion] = self._received(connection)  # type: ignore[assignment]
        return made

    def close(self) -> None:
        """End the engine's process, if there is one; the next prompt starts another."""
        if self in Engine.running:
            Engine.running.remove(self)
        if self._process is not None and self._connection is not None:
            _end(self._process, self._connection)
        self._process = self._connection = None

    def _start(self) -> Connection[object, object]:
        if self._connection is not None:
            return self._connection
        while Engine.running and sum(one.memory_share for one in (*Engine.running, self)) > 1:
            Engine.running[0].close()
        _free_accelerator()
        ours, theirs = multiprocessing.Pipe()
        # Spawned, not forked: CUDA does not survive a fork. Not a daemon: it may have processes of its own.
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=(self._settings, theirs))
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        Engine.running.append(self)
        weakref.finalize(self, _end, process, ours)
        self._longest = int(self._received(ours))  # type: ignore[call-overload]
        return ours

    def _received(self, connection: Connection[object, object]) -> object:
        try:
            return connection.recv()
        except (EOFError, ConnectionError) as error:
            assert self._process is not None
            self._process.join(END_SECONDS)
            code = self._process.exitcode
            self.close()
            raise TeacherError(
                f"vllm: {self._settings['model']}",
                f"its engine has ended, exit code {code}",
                "see its output above; a smaller memory_share or max_length takes less memory",
            ) from error


def _serve(settings: Settings, connection: Connection[object, object]) -> None:
    """Answer what comes over the connection with an engine, until None comes; the work of its process."""
    vllm = importlib.import_module("vllm")
    engine = vllm.LLM(**settings)
    connection.send(engine.llm_engine.model_config.max_model_len)
    while isinstance(asked := connection.recv(), _Asked):
        prompts = [{"prompt_token_ids": ids} for ids in asked.prompts]
        samplings = [vllm.SamplingParams(**one) for one in asked.samplings]
        made = [output.outputs[0] for output in engine.generate(prompts, samplings, use_tqdm=False)]
        connection.send([EngineCompletion([int(token) for token in one.token_ids], one.finish_reason) for one in made])


def _end(process: BaseProcess, connection: Connection[object, object]) -> None:
    """End a process by a word, and by force if it does not listen."""
    with suppress(OSError):
        connection.send(None)
        connection.close()
    process.join(END_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _free_accelerator() -> None:
    """Give back the memory of an accelerator that this process holds and does not use, such as after a training."""
    if "torch" not in sys.modules:
        return
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class VllmTeacher:
    """Answers with a vLLM engine. A conversation that `prompt_ids` cannot encode is answered by an error.

    Equal seeds give equal answers as far as vLLM promises it: batching can change logits in the last bits.
    """

    def __init__(self, engine: Engine, encoder: Encoder, *, name: str) -> None:
        self.name = name
        self.engine = engine
        self._encoder = encoder

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for every request, in order."""
        for start in range(0, len(requests), WINDOW_REQUESTS):
            yield from self._answer_window(requests[start : start + WINDOW_REQUESTS])

    def _answer_window(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        encoded = [prompt_ids(self._encoder, request, self.engine.longest) for request in requests]
        asked = [(ids, one) for (ids, problem), one in zip(encoded, requests, strict=True) if not problem]
        prompts, samplings = [ids for ids, _ in asked], [self._sampling(one) for _, one in asked]
        made = iter(self.engine.generate(prompts, samplings) if asked else ())
        for (ids, problem), request in zip(encoded, requests, strict=True):
            if problem:
                yield ChatReply(request.key, "", "error", problem, len(ids))
            else:
                yield self._reply(request, ids, next(made))

    def _sampling(self, request: ChatRequest) -> Settings:
        return {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k or -1,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "stop_token_ids": list(self._encoder.stop_ids),
            # The encoder cuts the text at the stop token.
            "skip_special_tokens": False,
        }

    def _reply(self, request: ChatRequest, prompt: Sequence[int], made: EngineCompletion) -> ChatReply:
        if made.finish_reason not in ("stop", "length"):
            return ChatReply(request.key, "", "error", f"the engine stopped by {made.finish_reason}", len(prompt))
        text, finish = self._encoder.text_of(made.ids), made.finish_reason
        reply = reply_of(
            request.key,
            text,
            "stop" if finish == "stop" else "length",
            thinks_first=thinks_first(self._encoder, prompt),
        )
        return reply._replace(prompt_tokens=len(prompt), completion_tokens=len(made.ids))


def is_installed() -> bool:
    """Whether vLLM is there, without importing it."""
    return importlib.util.find_spec("vllm") is not None


def not_installed() -> TeacherError:
    """The error that says what to install."""
    return TeacherError("vllm", "is not installed", 'pip install "zephyr-align[vllm]" on a machine with a GPU')


def open_vllm(section: VllmSection, encoder: Encoder, *, place: str | None = None, seed: int = 0) -> VllmTeacher:
    """The teacher, whose engine starts when it is first asked. Raises TeacherError without vLLM.

    `place`: the folder or hub id of the model, where the section names it otherwise (`stage:sft`).
    """
    if not is_installed():
        raise not_installed()
    settings: Settings = {
        "model": place or section.model,
        "revision": section.revision,
        "tensor_parallel_size": section.num_gpus,
        "gpu_memory_utilization": section.memory_share,
        "max_model_len": section.max_length,
        "seed": seed,
        "enable_prefix_caching": True,  # the answers to one prompt share its computation
    }
    return VllmTeacher(Engine(settings, memory_share=section.memory_share), encoder, name=section.model)
