"""A teacher that is a vLLM engine in this process: many requests at once, on GPUs, by the extra `vllm`.

The encoder between conversations and ids comes from outside, so that prompts are the same ids as in `local`. vLLM is
imported when an engine is opened.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from zephyr.errors import TeacherError
from zephyr.recipe.teacher_section import VllmSection
from zephyr.teachers.local import Encoder, prompt_ids
from zephyr.teachers.protocol import ChatReply, ChatRequest

# Requests that the engine is given together; it schedules them itself.
WINDOW_REQUESTS = 4096


class _VllmCompletion(Protocol):
    """What is used here of a vllm.CompletionOutput."""

    token_ids: Sequence[int]
    finish_reason: str | None


class _VllmOutput(Protocol):
    """What is used here of a vllm.RequestOutput."""

    outputs: Sequence[_VllmCompletion]


class _VllmConfig(Protocol):
    """What is used here of an engine's model configuration."""

    max_model_len: int


class _VllmCore(Protocol):
    """What is used here of a vllm.LLMEngine."""

    model_config: _VllmConfig


class VllmEngine(Protocol):
    """What is used here of a vllm.LLM."""

    llm_engine: _VllmCore

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], sampling_params: Sequence[object], *, use_tqdm: bool
    ) -> Sequence[_VllmOutput]: ...


class VllmSampling(Protocol):
    """How a vllm.SamplingParams is made."""

    def __call__(
        self,
        *,
        temperature: float,
        top_p: float,
        top_k: int,
        max_tokens: int,
        seed: int,
        stop_token_ids: list[int],
        skip_special_tokens: bool,
    ) -> object: ...


class VllmTeacher:
    """Answers with a vLLM engine. A conversation that `prompt_ids` cannot encode is answered by an error.

    Equal seeds give equal answers as far as vLLM promises it: batching can change logits in the last bits.
    """

    def __init__(self, engine: VllmEngine, sampling_params: VllmSampling, encoder: Encoder, *, name: str) -> None:
        self.name = name
        self._engine = engine
        self._sampling_params = sampling_params
        self._encoder = encoder
        self._longest = engine.llm_engine.model_config.max_model_len

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for every request, in order."""
        for start in range(0, len(requests), WINDOW_REQUESTS):
            yield from self._answer_window(requests[start : start + WINDOW_REQUESTS])

    def _answer_window(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        prompts = [prompt_ids(self._encoder, request, self._longest) for request in requests]
        asked: list[dict[str, list[int]]] = []
        sampled: list[object] = []
        for (ids, problem), request in zip(prompts, requests, strict=True):
            if not problem:
                asked.append({"prompt_token_ids": ids})
                sampled.append(self._sampling(request))
        outputs = iter(self._engine.generate(asked, sampled, use_tqdm=False) if asked else ())
        for (ids, problem), request in zip(prompts, requests, strict=True):
            if problem:
                yield ChatReply(request.key, "", "error", problem, len(ids))
            else:
                yield self._reply(request, len(ids), next(outputs).outputs[0])

    def _sampling(self, request: ChatRequest) -> object:
        return self._sampling_params(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k or -1,
            max_tokens=request.max_tokens,
            seed=request.seed,
            stop_token_ids=list(self._encoder.stop_ids),
            # The encoder cuts the text at the stop token.
            skip_special_tokens=False,
        )

    def _reply(self, request: ChatRequest, prompt_tokens: int, made: _VllmCompletion) -> ChatReply:
        if made.finish_reason not in ("stop", "length"):
            return ChatReply(request.key, "", "error", f"the engine stopped by {made.finish_reason}", prompt_tokens)
        return ChatReply(
            request.key,
            self._encoder.text_of(made.token_ids),
            "stop" if made.finish_reason == "stop" else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(made.token_ids),
        )


def is_installed() -> bool:
    """Whether vLLM is there, without importing it."""
    return importlib.util.find_spec("vllm") is not None


def not_installed() -> TeacherError:
    """The error that says what to install."""
    return TeacherError("vllm", "is not installed", 'pip install "zephyr-align[vllm]" on a machine with a GPU')


def open_vllm(section: VllmSection, encoder: Encoder, *, place: str | None = None, seed: int = 0) -> VllmTeacher:
    """The teacher with an engine of its own. Raises TeacherError without vLLM.

    `place`: the folder or hub id of the model, where the section names it otherwise (`stage:sft`).
    """
    try:
        vllm = importlib.import_module("vllm")
    except ImportError as error:
        raise not_installed() from error
    engine = vllm.LLM(
        model=place or section.model,
        revision=section.revision,
        tensor_parallel_size=section.num_gpus,
        gpu_memory_utilization=section.memory_share,
        max_model_len=section.max_length,
        seed=seed,
        enable_prefix_caching=True,  # the answers to one prompt share its computation
    )
    return VllmTeacher(
        cast("VllmEngine", engine), cast("VllmSampling", vllm.SamplingParams), encoder, name=section.model
    )
