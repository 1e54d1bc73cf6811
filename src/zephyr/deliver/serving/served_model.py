"""The model behind the routes: requests become prompts of ids and samples, whose parts come back to the event loop."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple, Protocol

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.deliver.serving.bodies import MAX_PROMPTS, ChatBody, CompletionBody, RefusedError, SampledBody
from zephyr.errors import ZephyrError
from zephyr.models.continuous import ClosedError, QueueFullError
from zephyr.models.samples import DrawRules, Grammar, Sample
from zephyr.models.streaming import TextListener, TextPart
from zephyr.models.tokenizers import Tokenizer
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.fields import printable
from zephyr.records.messages import Message, message_faults

# OpenAI's default of a completion without max_tokens; a chat completion goes on to the end of the window.
COMPLETION_TOKENS = 16
# Below these a draw is the likeliest token, and the arithmetic of floats ends.
LEAST_TEMPERATURE, LEAST_TOP_P = 1e-4, 1e-6

_log = logging.getLogger(__name__)


class Writes(Protocol):
    """Whatever writes samples."""

    @property
    def is_alive(self) -> bool:
        """Whether samples are written."""

    def submit(self, samples: Sequence[Sample]) -> None:
        """Queue the samples, all or none."""

    def close(self, seconds: float | None = None) -> None:
        """End it."""


class EncodedPrompt(NamedTuple):
    """The ids (n,) to continue, and at most how many tokens may follow."""

    ids: list[int]
    room: int


class ChoicePart(NamedTuple):
    """A part of the choice with this number."""

    choice: int
    part: TextPart


Grammars = Callable[[str], Grammar]
Delivers = Callable[[int], Callable[[TextPart | Exception], None]]


@dataclass(frozen=True)
class ServedModel:
    """A model that is ready to answer.

    `encoder`: None where the model has no chat template that can be used; `no_chat` says why. `window`: tokens of a
    prompt and its answer. `grammars`: the grammar of a JSON schema; None where there are none.
    """

    name: str
    tokenizer: Tokenizer
    writer: Writes
    window: int
    vocab_size: int
    sampling: SamplingSection
    encoder: DialogueEncoder | None = None
    no_chat: str = ""
    grammars: Grammars | None = None
    # The library's tokenizers cannot be used by two threads at once.
    encoding: Lock = field(default_factory=Lock)

    def chat_prompt(self, body: ChatBody) -> EncodedPrompt:
        """The prompt of a conversation. Raises RefusedError for one that cannot be answered."""
        if self.encoder is None:
            raise RefusedError(400, f"{self.name} does not chat: {self.no_chat}; /v1/completions is served")
        turns = [Message("system" if one.role == "developer" else one.role, one.content) for one in body.messages]
        if faults := message_faults(turns, ends_with="user"):
            raise RefusedError(400, "messages: " + "; ".join(faults[:5]), param="messages", code="invalid_value")
        try:
            with self.encoding:
                ids = self.encoder.prompt(turns).tolist()
        except ZephyrError as error:
            what = f"messages: {error.where} {error.what}"
            raise RefusedError(400, printable(what), param="messages", code="invalid_value") from error
        most = body.max_completion_tokens or body.max_tokens
        name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        return self._prompt(ids, most, where="messages", asked_by=name)

    def completion_prompts(self, body: CompletionBody) -> list[EncodedPrompt]:
        """The prompts of a completion. Raises RefusedError for one that cannot be continued."""
        asked = body.prompts
        if not 1 <= len(asked) * body.n <= MAX_PROMPTS:
            what = f"prompt: {len(asked)} prompts times n={body.n} must be from 1 to {MAX_PROMPTS}"
            raise RefusedError(400, what, param="prompt", code="invalid_value")
        return [
            self._prompt(self._ids(one), body.max_tokens or COMPLETION_TOKENS, where="prompt", asked_by="max_tokens")
            for one in asked
        ]

    def samples(self, body: SampledBody, prompts: Sequence[EncodedPrompt], deliver: Delivers) -> list[Sample]:
        """The `n` samples of every prompt; `deliver` gives what hears of a choice. Raises RefusedError."""
        seed = secrets.randbits(62) if body.seed is None else body.seed % 2**64
        biases = {int(token): bias for token, bias in body.logit_bias.items()}
        if wrong := [token for token in biases if token >= self.vocab_size]:
            what = f"logit_bias: there is no token {wrong[0]}; the vocabulary has {self.vocab_size}"
            raise RefusedError(400, what, param="logit_bias", code="invalid_value")
        made = []
        for index, prompt in enumerate(one for one in prompts for _ in range(body.n)):
            rules = DrawRules(
                self._sampling(body, prompt.room),
                body.frequency_penalty,
                body.presence_penalty,
                biases,
                body.top_logprobs if isinstance(body, ChatBody) else 0,
            )
            listener = TextListener(self.tokenizer, deliver(index), stops=body.stop)
            made.append(Sample(prompt.ids, rules, listener, seed=(seed, index), grammar=self._grammar(body)))
        return made

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            with self.encoding:
                return [int(token) for token in self.tokenizer(prompt, verbose=False)["input_ids"]]
        if wrong := [token for token in prompt if token >= self.vocab_size]:
            what = f"prompt: there is no token {wrong[0]}; the vocabulary has {self.vocab_size}"
            raise RefusedError(400, what, param="prompt", code="invalid_value")
        return prompt

    def _prompt(self, ids: list[int], most: int | None, *, where: str, asked_by: str) -> EncodedPrompt:
        if not ids:
            raise RefusedError(400, f"{where}: holds no tokens", param=where, code="invalid_value")
        window = f"the model's maximum context length is {self.window} tokens"
        if len(ids) >= self.window:
            what = f"{window}, but {where} has {len(ids)} tokens; shorten it"
            raise RefusedError(400, what, param=where, code="context_length_exceeded")
        if most is not None and len(ids) + most > self.window:
            what = f"{window}, but {where} has {len(ids)} tokens and {asked_by} asks for {most} more"
            raise RefusedError(400, what, param=asked_by, code="context_length_exceeded")
        return EncodedPrompt(ids, most or self.window - len(ids))

    def _sampling(self, body: SampledBody, room: int) -> SamplingSection:
        temperature = self.sampling.temperature if body.temperature is None else body.temperature
        top_p = self.sampling.top_p if body.top_p is None else body.top_p
        is_greedy = temperature < LEAST_TEMPERATURE or top_p < LEAST_TOP_P
        return SamplingSection(
            temperature=0 if is_greedy else temperature,
            top_p=1 if is_greedy else top_p,
            top_k=self.sampling.top_k,
            max_new_tokens=room,
        )

    def _grammar(self, body: SampledBody) -> Grammar | None:
        schema = body.response_format.schema_text if isinstance(body, ChatBody) else None
        if schema is None:
            return None
        name = "response_format"
        if self.grammars is None:
            what = f"{name} is not supported: answers of a JSON schema need llguidance and the engine transformers"
            raise RefusedError(400, what, param=name, code="unsupported_parameter")
        try:
            return self.grammars(schema)
        except ValueError as error:
            what = f"{name}: the schema cannot be honoured ({printable(str(error))[:300]})"
            raise RefusedError(400, what, param=name, code="invalid_value") from error


class Answering:
    """An answer that is being written: the parts of its choices, from the thread of the model, in an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[tuple[int, TextPart | Exception]] = asyncio.Queue()
        self._samples: Sequence[Sample] = ()

    def deliver(self, index: int) -> Callable[[TextPart | Exception], None]:
        """What is called with the parts of this choice, in any thread."""

        def emit(part: TextPart | Exception) -> None:
            # At the very end there may be no loop any more.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._parts.put_nowait, (index, part))

        return emit

    async def begin(self, served: ServedModel, body: SampledBody, prompts: Sequence[EncodedPrompt]) -> None:
        """Queue the samples. Raises RefusedError where they cannot be had, or so many wait already."""
        self._samples = await asyncio.to_thread(served.samples, body, prompts, self.deliver)
        try:
            served.writer.submit(self._samples)
        except QueueFullError:
            raise RefusedError(429, "too many requests wait already; try again later", code="queue_full") from None
        except ClosedError:
            raise _ends() from None

    async def parts(self) -> AsyncIterator[ChoicePart]:
        """The parts as they are written. Raises RefusedError where one cannot be finished."""
        left = len(self._samples)
        while left:
            index, part = await self._parts.get()
            if isinstance(part, ClosedError):
                raise _ends()
            if isinstance(part, Exception):
                _log.error("an answer failed", exc_info=part)
                raise RefusedError(500, f"the answer failed ({type(part).__name__})", code="server_error") from part
            left -= part.reason is not None
            yield ChoicePart(index, part)

    def drop(self) -> None:
        """Free the work, whether it is done or not."""
        for sample in self._samples:
            sample.is_unwanted = True


def _ends() -> RefusedError:
    return RefusedError(503, "the server ends", code="server_ends")
