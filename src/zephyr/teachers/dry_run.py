"""A teacher for estimates: it makes up filler answers and counts the calls and tokens, without a real call."""

from collections.abc import Iterator, Sequence

from zephyr.recipe.teacher_section import PricesSection
from zephyr.teachers.ledger.prices import BYTES_A_TOKEN, likely_prompt_tokens, spend_of
from zephyr.teachers.protocol import ChatReply, ChatRequest, Spend

_WORD = " lorem"


class DryTeacher:
    """Counts calls and tokens. Its answers differ from each other and are of the maximum length.

    With `fails` it answers by errors, so that no question is repeated.
    """

    def __init__(self, name: str, prices: PricesSection | None = None, *, fails: bool = False) -> None:
        self.name = name
        self.calls = 0
        self.spend = Spend()
        self._prices = prices or PricesSection()
        self._fails = fails

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for every request, in order."""
        for request in requests:
            self.calls += 1
            self.spend = self.spend.plus(spend_of(self._prices, likely_prompt_tokens(request), request.max_tokens))
            if self._fails:
                yield ChatReply(request.key, "", "error", "dry run")
            else:
                # A beginning that no other answer has, of this teacher or of another.
                beginning = f"{self.calls} {self.name}"
                longest = request.max_tokens * BYTES_A_TOKEN
                yield ChatReply(request.key, f"{beginning}{_WORD * (longest // len(_WORD))}", "stop")
