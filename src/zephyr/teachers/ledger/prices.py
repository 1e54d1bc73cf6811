"""What calls cost: upper bounds and estimates of tokens, prices, and the cap on what may be spent.

An upper bound is never too low, so that a cap holds whatever a server says afterwards; the ledger keeps the account.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from zephyr.recipe.teacher_section import EndpointSection, PricesSection, TeacherSection
from zephyr.teachers.protocol import ChatRequest, Spend

MILLION = 1_000_000
# What chat templates add to a message, and to a conversation (some add a system prompt of their own).
TOKENS_A_MESSAGE = 16
TOKENS_A_CONVERSATION = 64
BYTES_A_TOKEN = 4  # of English text, for estimates only


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
        """The limits in words."""
        tokens = f"{self.max_tokens:,} tokens" if self.max_tokens is not None else ""
        price = f"price {self.max_price:,.2f}" if self.max_price is not None else ""
        return " and ".join(part for part in (tokens, price) if part)

    def allows(self, spend: Spend) -> bool:
        """Whether a total of `spend` is within the cap."""
        tokens_fit = self.max_tokens is None or spend.tokens <= self.max_tokens
        return tokens_fit and (self.max_price is None or spend.price <= self.max_price)


def cap_of(sections: Iterable[TeacherSection], max_tokens: int | None = None) -> Cap:
    """The cap of a ledger that these teachers share: the lowest of theirs, and of `max_tokens` if given."""
    endpoints = [section for section in sections if isinstance(section, EndpointSection)]
    tokens = [limit for limit in (max_tokens, *(one.max_total_tokens for one in endpoints)) if limit is not None]
    prices = [one.max_total_price for one in endpoints if one.max_total_price is not None]
    return Cap(min(tokens, default=None), min(prices, default=None))


def prices_of(section: TeacherSection) -> PricesSection:
    """The prices of the teacher's tokens: nothing but for an endpoint; half by the Batch API."""
    if not isinstance(section, EndpointSection):
        return PricesSection()
    prices, share = section.prices, 0.5 if section.batch else 1.0
    return PricesSection(prompt=prices.prompt * share, completion=prices.completion * share)


def spend_of(prices: PricesSection, prompt_tokens: int, completion_tokens: int) -> Spend:
    """The tokens with their price."""
    price = (prompt_tokens * prices.prompt + completion_tokens * prices.completion) / MILLION
    return Spend(prompt_tokens, completion_tokens, price)


def most_spend(request: ChatRequest, prices: PricesSection) -> Spend:
    """The most that one try of the request can cost."""
    return spend_of(prices, most_prompt_tokens(request), request.max_tokens)


def most_prompt_tokens(request: ChatRequest) -> int:
    """Tokens that the request's messages cannot exceed: no tokenizer in use makes more tokens than bytes."""
    return _num_bytes(request) + TOKENS_A_MESSAGE * len(request.messages) + TOKENS_A_CONVERSATION


def likely_prompt_tokens(request: ChatRequest) -> int:
    """An estimate of the tokens of the request's messages."""
    return _num_bytes(request) // BYTES_A_TOKEN + 4 * len(request.messages)


def _num_bytes(request: ChatRequest) -> int:
    return sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
