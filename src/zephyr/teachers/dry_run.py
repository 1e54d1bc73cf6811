"""A teacher that answers nothing of worth and counts what answering would take: for forecasts, without a call."""

from collections.abc import Iterator, Sequence

from zephyr.recipe.teacher_section import PricesSection
from zephyr.teachers.ledger.prices import BYTES_A_TOKEN, likely_prompt_tokens, spend_of
from zephyr.teachers.protocol import ChatReply, ChatRequest, Spend

_WORD = " lorem"


class DryTeacher:
    """Counts calls and tokens. Its texts differ from each other and are as long as they may be.

    With `fails` it answers by errors, so that nothing is asked again.
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
                # First what no other text begins with, of this teacher or of another.
                told_apart = f"{self.calls} {self.name}"
                longest = request.max_tokens * BYTES_A_TOKEN
                yield ChatReply(request.key, f"{told_apart}{_WORD * (longest // len(_WORD))}", "stop")
