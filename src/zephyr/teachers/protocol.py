"""What a teacher is: requests in, replies out, in the same order and none missing; and the books of what they cost.

Judges are teachers too. How a request is made is left to those who ask, how it is answered to the teachers.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from zephyr.errors import DataError, ModelError
from zephyr.records.messages import Message, Messages, system_within_user
from zephyr.records.thinking import opens_thinking, split_thinking, whole_characters

if TYPE_CHECKING:
    from concurrent.futures import Future

_TAG_TOKENS = 16  # at the end of a prompt, which hold an opening tag of thinking
SEED_BITS = 31  # what all servers and generators accept


class ChatRequest(NamedTuple):
    """One conversation that ends with a user's turn, and how it is to be answered.

    `key` names the request within a call of `answer`. `temperature` 0 is greedy; `top_k` 0 samples from all
    tokens. Equal requests with equal `seed` have equal answers where a teacher can promise it. With `top_logprobs`
    the reply's text is a JSON object instead: the likeliest first tokens with their log-probs, as far as a server
    gives them.
    """

    key: str
    messages: Messages
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 50
    max_tokens: int = 256
    seed: int = 0
    top_logprobs: int = 0


class ChatReply(NamedTuple):
    """The answer to a request; with finish_reason "error" there is none, and `error` says why.

    `reasoning` is what the model thought before it answered; `text` holds none of it.
    """

    key: str
    text: str
    finish_reason: Literal["stop", "length", "error"]
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning: str = ""


def reply_of(key: str, text: str, finish_reason: Literal["stop", "length"], *, thinks_first: bool = False) -> ChatReply:
    """The reply of a model that wrote `text`: thinking apart, without half characters; every reply comes by this door.

    An error where the model thought and gave no answer. `thinks_first`: the prompt has opened its thinking.
    """
    spoken = split_thinking(whole_characters(text), is_open=thinks_first)
    if spoken.answer or not spoken.reasoning:
        return ChatReply(key, spoken.answer, finish_reason, reasoning=spoken.reasoning)
    return ChatReply(key, "", "error", only_thinking(is_cut=finish_reason == "length"), reasoning=spoken.reasoning)


def only_thinking(*, is_cut: bool) -> str:
    """Why there is no answer where a model has only thought; `is_cut`: at its token limit."""
    if is_cut:
        return "the reasoning used up the token limit before any answer: raise max_new_tokens"
    return "the model gave its reasoning and no answer"


class Teacher(Protocol):
    """Whoever answers: one reply for every request, in the order of the requests."""

    name: str

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]: ...


class Spend(NamedTuple):
    """Tokens of one or many calls and their price."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: Spend, sign: int = 1) -> Spend:
        """The sum of the two; with sign -1 their difference."""
        return Spend(
            self.prompt_tokens + sign * other.prompt_tokens,
            self.completion_tokens + sign * other.completion_tokens,
            self.price + sign * other.price,
        )


class Attempt(NamedTuple):
    """One try of a request. With `is_estimated` the server did not report the cost, and `spend` is an upper bound."""

    reply: ChatReply
    spend: Spend = Spend()
    is_estimated: bool = False
    number: int = 1
    latency_seconds: float = 0.0


class Books(Protocol):
    """Where tries are recorded, and what is known from earlier ones."""

    def answered(self, request: ChatRequest) -> ChatReply | None:
        """An answer that was received earlier; never a failure."""

    def reserve(self, most: Spend) -> Future[str] | None:
        """None without a cap; else an empty text once `most` is reserved, or why it never will be."""

    def record(self, request: ChatRequest, attempt: Attempt, held: Spend | None = None) -> None:
        """Record the try soon, and give back what was reserved for it."""


class NoBooks:
    """Books of a teacher without a ledger: nothing is known and nothing recorded."""

    def answered(self, request: ChatRequest) -> ChatReply | None:
        """None."""
        del request
        return None

    def reserve(self, most: Spend) -> Future[str] | None:
        """None: there is no cap."""
        del most
        return None

    def record(self, request: ChatRequest, attempt: Attempt, held: Spend | None = None) -> None:
        """Ignore the try."""


@runtime_checkable
class BookkeepingTeacher(Protocol):
    """A teacher that records its own tries: it tries more than once, or looks for an answer before it asks.

    `identity` names its answers, so that another teacher's are never taken for its own.
    """

    name: str
    identity: str

    def answer_with_books(self, requests: Sequence[ChatRequest], books: Books) -> Iterator[ChatReply]: ...


@runtime_checkable
class UnorderedTeacher(Protocol):
    """A teacher that answers many requests together, and gives each reply as soon as it is there, in any order."""

    def answer_as_made(self, requests: Sequence[ChatRequest]) -> Iterator[tuple[int, ChatReply]]:
        """One reply for every request, each with the index of its request."""


class Encoder(Protocol):
    """What teachers on this machine use of `zephyr.data.tokenize.encoding.DialogueEncoder`."""

    stop_ids: tuple[int, ...]

    def prompt(self, messages: Sequence[Message]) -> Iterable[int]: ...

    def text_of(self, completion: Sequence[int]) -> str: ...


def prompt_ids(encoder: Encoder, request: ChatRequest, longest: int) -> tuple[list[int], str]:
    """The ids of a request's prompt, and why it cannot be answered; that is empty where it can.

    A prompt is never truncated: one that leaves no room for `max_tokens` within `longest` tokens is not answered, nor
    is one that the chat template refuses. Where it refuses a system message (Gemma, Mistral), the user's has its text.
    """
    try:
        ids = _prompt_of(encoder, request.messages)
    except (DataError, ModelError) as error:
        return [], f"{error.where} {error.what}"
    if len(ids) + request.max_tokens > longest:
        return ids, f"{len(ids)} tokens and {request.max_tokens} new ones exceed {longest}"
    return ids, ""


def _prompt_of(encoder: Encoder, messages: Messages) -> list[int]:
    try:
        return [int(token) for token in encoder.prompt(messages)]
    except DataError:
        joined = system_within_user(messages)
        if joined == messages:
            raise
        return [int(token) for token in encoder.prompt(joined)]


def thinks_first(encoder: Encoder, prompt: Sequence[int]) -> bool:
    """Whether the chat template has opened the model's thinking at the end of the prompt."""
    tail = itertools.takewhile(lambda token: token not in encoder.stop_ids, reversed(prompt[-_TAG_TOKENS:]))
    return opens_thinking(encoder.text_of(list(tail)[::-1]))


def seed_for(seed: int, *parts: str | int) -> int:
    """A seed that depends on `seed` and the parts alone, never on the order in which seeds are drawn."""
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> (64 - SEED_BITS)


def paired(teacher: Teacher, requests: Sequence[ChatRequest]) -> Iterator[tuple[ChatRequest, ChatReply]]:
    """Every request with its reply. Raises ValueError if the teacher loses one or mixes them up."""
    for request, reply in zip(requests, teacher.answer(requests), strict=True):
        if request.key != reply.key:
            raise ValueError(f"{teacher.name} answered '{reply.key}' where '{request.key}' was due")
        yield request, reply
