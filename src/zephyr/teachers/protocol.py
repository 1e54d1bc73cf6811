"""What a teacher is: requests in, replies out, in the same order and none missing.

Judges are teachers too. How a request is made is left to those who ask, how it is answered to the teachers.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from zephyr.records.messages import Messages

SEED_BITS = 31  # what servers and generators all take


class ChatRequest(NamedTuple):
    """One conversation that ends with a user's turn, and how it is to be answered.

    `key` names the request within a call of `answer`. `temperature` 0 is greedy; `top_k` 0 draws from all
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
    """What came back; with finish_reason "error" there is no answer, and `error` says why."""

    key: str
    text: str
    finish_reason: Literal["stop", "length", "error"]
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Teacher(Protocol):
    """Whoever answers: one reply for every request, in the order of the requests."""

    name: str

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]: ...


def seed_for(seed: int, *parts: str | int) -> int:
    """A seed that depends on `seed` and the parts alone, never on the order in which seeds are asked for."""
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> (64 - SEED_BITS)


def paired(teacher: Teacher, requests: Sequence[ChatRequest]) -> Iterator[tuple[ChatRequest, ChatReply]]:
    """Every request with its reply; ValueError if the teacher loses one or mixes them up."""
    for request, reply in zip(requests, teacher.answer(requests), strict=True):
        if request.key != reply.key:
            raise ValueError(f"{teacher.name} answered '{reply.key}' where '{request.key}' was due")
        yield request, reply
