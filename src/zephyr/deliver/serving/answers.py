"""The bodies of answers as OpenAI's clients read them: whole, or as the chunks of a stream.

A choice is text and the tokens it is made of; where its parts come from is left to others.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from zephyr.models.samples import DrawnToken
from zephyr.models.streaming import TextPart
from zephyr.records.fields import Json

LAST_EVENT = b"data: [DONE]\n\n"
TokenBytes = Callable[[int], bytes]


@dataclass
class AnswerChoice:
    """One of the completions so far."""

    text: str = ""
    tokens: list[DrawnToken] = field(default_factory=list)
    reason: str | None = None
    num_tokens: int = 0

    def add(self, part: TextPart) -> None:
        """Take a part of it."""
        self.text += part.text
        self.tokens += part.tokens
        self.reason, self.num_tokens = part.reason, part.num_tokens


@dataclass
class ApiAnswer:
    """The answer to one request, of `kind` chat or completion. `token_bytes`: None where no log-probs are asked for."""

    kind: Literal["chat", "completion"]
    model: str
    num_choices: int
    prompt_tokens: int
    token_bytes: TokenBytes | None = None

    def __post_init__(self) -> None:
        self._id = f"{'chatcmpl' if self.kind == 'chat' else 'cmpl'}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self.choices = [AnswerChoice() for _ in range(self.num_choices)]

    def whole(self) -> dict[str, Json]:
        """The whole answer."""
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self.choices)]
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self._head(name), "choices": choices, "usage": self.usage()}

    def first_chunks(self) -> list[dict[str, Json]]:
        """The chunks before any text: in a chat each choice says who speaks."""
        if self.kind == "completion":
            return []
        delta: dict[str, Json] = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk([self._chat_choice(index, delta)]) for index in range(self.num_choices)]

    def chunk(self, index: int, part: TextPart) -> dict[str, Json]:
        """The chunk of a part of the choice with this index."""
        reason: Json = part.reason
        if self.kind == "completion":
            return self._chunk([{"index": index, "text": part.text, "logprobs": None, "finish_reason": reason}])
        delta: dict[str, Json] = {"content": part.text} if part.text else {}
        return self._chunk([self._chat_choice(index, delta, part.tokens, reason)])

    def usage_chunk(self) -> dict[str, Json]:
        """The last chunk of a stream that counts: no choice, and the usage of all."""
        return self._chunk([]) | {"usage": self.usage()}

    def usage(self) -> dict[str, Json]:
        """The tokens that were read and written."""
        written = sum(choice.num_tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }

    def _head(self, name: str) -> dict[str, Json]:
        return {"id": self._id, "object": name, "created": self._created, "model": self.model}

    def _chunk(self, choices: list[Json]) -> dict[str, Json]:
        return {
            **self._head("chat.completion.chunk" if self.kind == "chat" else "text_completion"),
            "choices": choices,
        }

    def _whole_choice(self, index: int, choice: AnswerChoice) -> Json:
        if self.kind == "completion":
            return {"index": index, "text": choice.text, "logprobs": None, "finish_reason": choice.reason}
        message: Json = {"role": "assistant", "content": choice.text, "refusal": None}
        logprobs = self._logprobs(choice.tokens)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.reason}

    def _chat_choice(
        self, index: int, delta: Mapping[str, Json], tokens: Sequence[DrawnToken] = (), reason: Json = None
    ) -> Json:
        logprobs = self._logprobs(tokens) if tokens else None
        return {"index": index, "delta": dict(delta), "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[DrawnToken]) -> Json:
        if self.token_bytes is None:
            return None
        content: list[Json] = [
            {
                **self._logprob(token.id, token.logp, self.token_bytes),
                "top_logprobs": [self._logprob(one, logp, self.token_bytes) for one, logp in token.top],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    @staticmethod
    def _logprob(token: int, logp: float, token_bytes: TokenBytes) -> dict[str, Json]:
        raw = token_bytes(token)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            # As OpenAI writes parts of characters.
            text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
        # JSON knows no infinity; what cannot be is told as OpenAI tells it.
        return {"token": text, "logprob": max(logp, -9999.0), "bytes": list(raw)}


def event(chunk: Mapping[str, Json]) -> bytes:
    """A chunk as a server-sent event."""
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
