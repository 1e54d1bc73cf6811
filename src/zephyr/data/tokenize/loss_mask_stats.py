"""Statistics of the loss mask: the share of each role's tokens that is learned, and the learned stop tokens.

A model that never learns a stop token never stops, and a wrong mask trains without an error. So the mask is counted
over all rows before training.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from zephyr.data.tokenize.encoding import Encoded
from zephyr.errors import DataError
from zephyr.recipe.objective_section import LossOn
from zephyr.records.messages import ROLES

TEMPLATE = "template"
_NAMES = (*ROLES, TEMPLATE)  # the last is role -1


class ScoredShare(NamedTuple):
    """The number of learned tokens among `tokens`."""

    scored: int
    tokens: int

    @property
    def value(self) -> float:
        """The share as a fraction; 0 if there are no tokens."""
        return self.scored / self.tokens if self.tokens else 0.0


@dataclass
class LossMaskStats:
    """Loss mask statistics over the rows of a stage after truncation."""

    stop_ids: Sequence[int]
    rows: int = 0
    stops: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    scored: Counter[str] = field(default_factory=Counter)

    def add(self, encoded: Encoded) -> None:
        """Count a row."""
        for counts, roles in ((self.tokens, encoded.roles), (self.scored, encoded.roles[encoded.scored])):
            # Shifted by one: the template's role is -1 and comes first.
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
        """The statistics in one line."""
        shares = ", ".join(f"{name} {share.value:.0%}" for name, share in self.shares().items())
        scored, tokens = self.total
        return f"{scored:,} of {tokens:,} tokens are learned ({shares}), {self.stops:,} stop tokens among them"

    def check(self, *, loss_on: LossOn) -> None:
        """Raise DataError if the mask is certainly wrong: nothing learned, no stop token, or more than the answers."""
        if self.total.scored == 0:
            self._refuse("none of its tokens would be learned", "give rows with answers, or raise data.max_length")
        if self.stops == 0:
            self._refuse(
                "no stop token would be learned, so the model would never end an answer",
                "raise data.max_length, or choose a chat template whose answers end with a control token",
            )
        beside = self.scored.total() - self.scored["assistant"]
        if loss_on == "assistant" and beside:
            self._refuse(f"{beside:,} tokens outside the assistant's answers would be learned", "report this as a bug")

    def _refuse(self, what: str, remedy: str) -> None:
        raise DataError(f"loss mask of {self.rows} rows", f"{what} ({self.summary()})", remedy)
