"""vLLM as the writer of samples: its engine without its server, in a thread of this process.

vLLM runs the model in processes of its own, which it speaks with over sockets; they lie in a folder that only this user
may enter, and go with it.
"""

import asyncio
import importlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from threading import Thread
from typing import Protocol

from zephyr.errors import ResourceError
from zephyr.models.continuous import MAX_WAITING, ClosedError, QueueFullError
from zephyr.models.engine import MAX_ROWS
from zephyr.models.samples import DrawnToken, Sample
from zephyr.teachers.vllm_engine import is_installed, not_installed

# Where vLLM lays its sockets.
_SOCKETS = "VLLM_RPC_BASE_PATH"


class _Completion(Protocol):
    token_ids: Sequence[int]
    logprobs: Sequence["dict[int, _Logprob]"] | None
    finish_reason: str | None


class _Logprob(Protocol):
    logprob: float


class _Output(Protocol):
    outputs: Sequence[_Completion]


class _Engine(Protocol):
    def generate(self, prompt: object, sampling: object, request_id: str) -> AsyncIterator[_Output]: ...

    def shutdown(self) -> None: ...


class VllmWriter:
    """Writes samples with a vLLM engine until closed. Raises TeacherError without vLLM, ResourceError if it cannot run.

    `window`: the most tokens of a prompt and its answer.
    """

    def __init__(self, model: str, stop_ids: Collection[int], *, window: int) -> None:
        if not is_installed():
            raise not_installed()
        self._stops = sorted(stop_ids)
        self._numbers = count()
        self._at_work: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._engine: _Engine | None = None
        self._folder = tempfile.mkdtemp(prefix="zephyr-vllm-")  # with mode 0700
        os.environ |= {_SOCKETS: self._folder, "VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"}
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="writer", daemon=True)
        self._thread.start()
        try:
            self._engine = asyncio.run_coroutine_threadsafe(_open(model, window), self._loop).result()
        except (RuntimeError, ValueError, OSError) as error:
            self.close()
            reason = str(error).partition("\n")[0]
            raise ResourceError(f"vllm: {model}", f"does not start ({reason})", "try --engine transformers") from error

    @property
    def is_alive(self) -> bool:
        """Whether samples are written."""
        return self._thread.is_alive() and not self._is_closed

    def submit(self, samples: Sequence[Sample]) -> None:
        """Queue the samples, all or none. Raises QueueFullError, and ClosedError after `close`."""
        if self._is_closed:
            raise ClosedError
        if len(self._at_work) + len(samples) > MAX_ROWS + MAX_WAITING:
            raise QueueFullError
        for sample in samples:
            self._loop.call_soon_threadsafe(self._begin, sample)

    def close(self, seconds: float | None = None) -> None:
        """End the engine, waiting at most so long; whoever still listens hears a ClosedError."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._end()))
        self._thread.join(seconds)
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---- the thread ----

    def _begin(self, sample: Sample) -> None:
        task = self._loop.create_task(self._write(sample))
        self._at_work.add(task)
        task.add_done_callback(partial(self._done, sample))

    def _done(self, sample: Sample, task: asyncio.Task[None]) -> None:
        self._at_work.discard(task)
        if task.cancelled():
            sample.listener.failed(ClosedError())

    async def _end(self) -> None:
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        if self._engine is not None:
            self._engine.shutdown()
        self._loop.stop()

    async def _write(self, sample: Sample) -> None:
        try:
            await self._tell(sample)
        except Exception as error:  # noqa: BLE001 - the boundary between the samples of different requests
            sample.listener.failed(error)

    async def _tell(self, sample: Sample) -> None:
        """Tell the listener of every token; leaving the loop makes the engine end the request."""
        assert self._engine is not None
        prompt = {"prompt_token_ids": list(sample.prompt)}
        async for output in self._engine.generate(prompt, self._sampling(sample), f"zephyr-{next(self._numbers)}"):
            made = output.outputs[0]
            for token, logps in zip(made.token_ids, made.logprobs or [], strict=True):
                sample.written.append(token)
                if sample.is_unwanted:
                    return
                if token not in self._stops and sample.listener.took(_drawn(token, logps, sample.rules.num_top)):
                    sample.listener.ended("stop", len(sample.written))
                    return
            if made.finish_reason is not None:
                if made.finish_reason not in ("stop", "length"):
                    raise RuntimeError(f"the engine stopped by {made.finish_reason}")
                sample.listener.ended("stop" if made.finish_reason == "stop" else "length", len(sample.written))
                return

    def _sampling(self, sample: Sample) -> object:
        vllm = importlib.import_module("vllm")
        kinds = importlib.import_module("vllm.sampling_params").RequestOutputKind
        rules, sampling = sample.rules, sample.rules.sampling
        return vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,
            max_tokens=sampling.max_new_tokens,
            seed=sample.seed,
            frequency_penalty=rules.frequency_penalty,
            presence_penalty=rules.presence_penalty,
            logit_bias=dict(rules.logit_bias) or None,
            logprobs=rules.num_top,
            stop_token_ids=self._stops,
            detokenize=False,
            output_kind=kinds.DELTA,
        )


async def _open(model: str, window: int) -> _Engine:
    """The engine, made in the loop in which it works."""
    arguments = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs(model=model, max_model_len=window)
    engine: _Engine = importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM.from_engine_args(arguments)
    return engine


def _drawn(token: int, logps: "dict[int, _Logprob]", num_top: int) -> DrawnToken:
    best = sorted(((one, told.logprob) for one, told in logps.items()), key=lambda pair: -pair[1])[:num_top]
    return DrawnToken(token, logps[token].logprob, tuple(best))
