"""What calls cost: token estimates from above, prices, and the cap on what may be spent.

An estimate is never too low, so that a cap holds whatever a server says afterwards; the books in `ledger` keep it.
"""

from dataclasses import dataclass
from typing import NamedTuple

from zephyr.teachers.protocol import ChatRequest

MILLION = 1_000_000
# What chat templates add to a message, and to a conversation (some add a system prompt of their own).
TOKENS_A_MESSAGE = 16
TOKENS_A_CONVERSATION = 64
BYTES_A_TOKEN = 4  # of English text, for forecasts only


class Spend(NamedTuple):
    """Tokens of one or many calls and their price."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: "Spend", sign: int = 1) -> "Spend":
        """The sum of the two; with sign -1 their difference."""
        return Spend(
            self.prompt_tokens + sign * other.prompt_tokens,
            self.completion_tokens + sign * other.completion_tokens,
            self.price + sign * other.price,
        )


@dataclass(frozen=True)
class Prices:
    """Prices of a million tokens, in whatever currency the cap is in."""

    prompt: float = 0.0
    completion: float = 0.0

    def spend(self, prompt_tokens: int, completion_tokens: int) -> Spend:
        """The tokens with their price."""
        price = (prompt_tokens * self.prompt + completion_tokens * self.completion) / MILLION
        return Spend(prompt_tokens, completion_tokens, price)

    def halved(self) -> "Prices":
        """What the same costs by the Batch API."""
        return Prices(self.prompt / 2, self.completion / 2)


@dataclass(frozen=True)
class Cap:
    """The most that all calls of a ledger may cost together; None: no limit."""

    max_tokens: int | None = None
    max_price: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is any limit."""
        return self.max_tokens is not None or self.max_price is not None

    def words(self) -> str:
        """The limits as they are told."""
        tokens = f"{self.max_tokens:,} tokens" if self.max_tokens is not None else ""
        price = f"price {self.max_price:,.2f}" if self.max_price is not None else ""
        return " and ".join(part for part in (tokens, price) if part)

    def allows(self, spend: Spend) -> bool:
        """Whether so much may be spent in all."""
        tokens_fit = self.max_tokens is None or spend.tokens <= self.max_tokens
        return tokens_fit and (self.max_price is None or spend.price <= self.max_price)


def most_prompt_tokens(request: ChatRequest) -> int:
    """Tokens that the request's messages cannot exceed: no tokenizer in use makes more tokens than bytes."""
    texts = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
    return texts + TOKENS_A_MESSAGE * len(request.messages) + TOKENS_A_CONVERSATION


def likely_prompt_tokens(request: ChatRequest) -> int:
    """Tokens that the request's messages are likely to be."""
    texts = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
    return texts // BYTES_A_TOKEN + 4 * len(request.messages)


def most_spend(request: ChatRequest, prices: Prices) -> Spend:
    """What one try of the request costs at most."""
    return prices.spend(most_prompt_tokens(request), request.max_tokens)
