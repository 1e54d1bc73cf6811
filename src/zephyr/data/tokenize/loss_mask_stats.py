"""The account of the loss mask: which share of each role's tokens is learned, and whether stop tokens are.

A model that is never shown where an answer stops never stops; one that learns nothing, or everything where answers
were meant, trains without a complaint. So this is counted over all rows before training.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from zephyr.data.tokenize.encoding import Encoded
from zephyr.errors import DataError
from zephyr.recipe.train_section import LossOn
from zephyr.records.messages import ROLES

TEMPLATE = "template"
_NAMES = (*ROLES, TEMPLATE)  # the last by its role -1


class ScoredShare(NamedTuple):
    """Of `tokens` so many are learned."""

    scored: int
    tokens: int

    @property
    def value(self) -> float:
        """The share as a fraction; 0 of nothing is 0."""
        return self.scored / self.tokens if self.tokens else 0.0


@dataclass
class LossMaskStats:
    """The account of the mask over all rows of a stage, as they are after truncation."""

    stop_ids: Sequence[int]
    rows: int = 0
    stops: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    scored: Counter[str] = field(default_factory=Counter)

    def add(self, encoded: Encoded) -> None:
        """Nothing; afterwards the row is counted."""
        for counts, roles in ((self.tokens, encoded.roles), (self.scored, encoded.roles[encoded.scored])):
            # Shifted by one: nobody's role is -1 and comes first.
            by_role = np.bincount(roles + 1, minlength=len(_NAMES))
            counts.update({_NAMES[index - 1]: int(count) for index, count in enumerate(by_role) if count})
        self.stops += int(np.isin(encoded.ids[encoded.scored], self.stop_ids).sum())
        self.rows += 1

    @property
    def total(self) -> ScoredShare:
        """The share over all tokens."""
        return ScoredShare(self.scored.total(), self.tokens.total())

    def shares(self) -> dict[str, ScoredShare]:
        """The share of each role that has tokens, and of the template's own text."""
        return {name: ScoredShare(self.scored[name], self.tokens[name]) for name in _NAMES if self.tokens[name]}

    def summary(self) -> str:
        """The account in one line."""
        shares = ", ".join(f"{name} {share.value:.0%}" for name, share in self.shares().items())
        scored, tokens = self.total
        return f"{scored:,} of {tokens:,} tokens are learned ({shares}), {self.stops:,} stop tokens among them"

    def check(self, *, loss_on: LossOn) -> None:
        """Nothing; a DataError where the mask cannot be meant."""
        if self.total.scored == 0:
            self._refuse("none of its tokens would be learned", "give rows with answers, or raise data.max_length")
        if self.stops == 0:
            self._refuse(
                "no stop token would be learned, so the model would never end an answer",
                "raise data.max_length, or choose a chat template whose answers end with a control token",
            )
        beside = self.scored.total() - self.scored["assistant"]
        if loss_on == "assistant" and beside:
            self._refuse(f"{beside:,} tokens that the assistant does not say would be learned", "report this as a bug")

    def _refuse(self, what: str, remedy: str) -> None:
        raise DataError(f"loss mask of {self.rows} rows", f"{what} ({self.summary()})", remedy)
