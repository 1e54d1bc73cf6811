"""Texts that end a generated answer, as lm-eval's `until` wants them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from zephyr.models.loading import Tokenizer


@dataclass(frozen=True)
class StopTexts:
    """Ends a completion as soon as one of the texts stands in it; `cut` removes it and what follows."""

    tokenizer: Tokenizer = field(compare=False)
    texts: tuple[str, ...]

    @property
    def lookback(self) -> int:
        """A token holds at least a byte, so a text is found within so many of the newest tokens."""
        return max((len(text.encode()) for text in self.texts), default=0) + 1

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether the newest ids hold one of the texts."""
        tail = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        return any(text in tail for text in self.texts)

    def cut(self, text: str) -> str:
        """The text before the first of the stop texts."""
        for stop in self.texts:
            text = text.split(stop, maxsplit=1)[0]
        return text
