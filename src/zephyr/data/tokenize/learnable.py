"""What the rows of a stage can teach, counted from their tokens after template and truncation.

A row without a gradient trains without an error: a dialogue of which no token is learned, a pair whose answers are the
same tokens. Pairs that contradict each other and labels of one kind alone teach nothing that is meant. So they are
counted over all rows, by check and run alike, and told in card and report.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from zephyr.data.tokenize.plain_text import TokenIds
from zephyr.errors import DataError
from zephyr.records.fields import SHOWN_FAULTS

UNLEARNED = "no token is learned"
SAME_ANSWERS = "the answers are the same tokens"
CONTRADICTED = "another row prefers the other answer"
ONE_LABEL = "all labels are {label}"
# Pairs that later ones are compared with, at 100 bytes of memory each.
COMPARED_PAIRS = 1_000_000
_WITHOUT_GRADIENT = (UNLEARNED, SAME_ANSWERS)


@dataclass
class Learnable:
    """Counts of what rows cannot teach, by defect, with the names of the first rows."""

    rows: int = 0
    defects: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    labels: Counter[bool] = field(default_factory=Counter)
    _pairs: set[bytes] = field(default_factory=set)

    def add_dialogue(self, name: str, num_learned: int) -> None:
        """Count a dialogue of which so many tokens are learned."""
        self.rows += 1
        if not num_learned:
            self._note(UNLEARNED, name)

    def add_preference(
        self, name: str, prompt: TokenIds, completions: Sequence[TokenIds], ratings: Sequence[float]
    ) -> None:
        """Count a row of preference training, its completions best first."""
        self.rows += 1
        texts = [completion.tobytes() for completion in completions]
        if len(texts) == 1:
            self.labels[ratings[0] > 0] += 1
        elif len(set(texts)) == 1:
            self._note(SAME_ANSWERS, name)
        elif len(texts) == 2:
            asked = prompt.tobytes()
            if _digest(asked, *reversed(texts)) in self._pairs:
                self._note(CONTRADICTED, name)
            if len(self._pairs) < COMPARED_PAIRS:
                self._pairs.add(_digest(asked, *texts))

    def counts(self) -> dict[str, int]:
        """The number of rows with each defect; those of labels are all or none."""
        found = dict(self.defects)
        if len(self.labels) == 1 and self.labels.total() > 1:
            label = str(next(iter(self.labels))).lower()
            found[ONE_LABEL.format(label=label)] = self.labels.total()
        return found

    def lines(self) -> list[str]:
        """A line for each defect, with the first row that has it."""
        firsts = {defect: f"; {names[0]}" for defect, names in self.names.items()}
        return [
            f"{defect}: {count:,} of {self.rows:,} rows{firsts.get(defect, '')}"
            for defect, count in self.counts().items()
        ]

    def check(self) -> None:
        """Raise DataError if no row has a gradient."""
        without = sum(self.defects[defect] for defect in _WITHOUT_GRADIENT)
        if self.rows and without == self.rows:
            first = [name for defect in _WITHOUT_GRADIENT for name in self.names.get(defect, [])]
            reasons = " or ".join(defect for defect in _WITHOUT_GRADIENT if self.defects[defect])
            raise DataError(
                "training rows",
                f"none of the {self.rows:,} has a gradient, because {reasons} ({', '.join(first[:SHOWN_FAULTS])})",
                "give rows that differ within data.max_length, or raise it",
            )

    def _note(self, defect: str, name: str) -> None:
        self.defects[defect] += 1
        names = self.names.setdefault(defect, [])
        if len(names) < SHOWN_FAULTS:
            names.append(name)


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
