"""How many rows a training stage has and how long they are, and the lengths of public data sets that recipes name.

With the known lengths a plan needs neither network nor download. Numbers of rows are those of the hub's cards.
UltraChat 200k: about 139,000 packed sequences of 2,048 tokens in training, so 1,370 a dialogue. UltraFeedback: 6,636
bytes a row, in which the prompt occurs four times beside three answers, and its paper's 185 tokens a prompt (arXiv
2310.01377, table 1), so 275 an answer. Capybara's card says over 1,000 tokens a conversation; how they split into
prompt and answer is a guess. Averages are in Mistral's tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class RowLengths:
    """How many rows there are, and how long one is on average, in tokens.

    Each of `num_completions` answers follows the same prompt. `held_out`: rows that are evaluated, never trained on.
    """

    num_rows: int
    prompt_tokens: float
    completion_tokens: float
    num_completions: int = 1
    held_out: int = 0
    scored_share: float = 1.0  # of the answers' tokens, those in the loss

    @property
    def tokens(self) -> float:
        """Tokens of a row with its prompt once."""
        return self.prompt_tokens + self.num_completions * self.completion_tokens

    @property
    def repeated_tokens(self) -> float:
        """Tokens of a row with its prompt before every answer."""
        return self.num_completions * self.sequence_tokens

    @property
    def sequence_tokens(self) -> float:
        """Tokens of the prompt and one answer."""
        return self.prompt_tokens + self.completion_tokens


class KnownRows(NamedTuple):
    """Number and average lengths of a split's rows, and where the numbers come from."""

    rows: RowLengths
    origin: str


def _dialogues(num_rows: int) -> KnownRows:
    return KnownRows(RowLengths(num_rows, 0, 1370), "1,370 tokens a dialogue, from the published steps")


def _pairs(num_rows: int) -> KnownRows:
    origin = "195 tokens a prompt and 275 an answer, from the card's bytes"
    return KnownRows(RowLengths(num_rows, 195, 275, 2), origin)


_KNOWN = {
    ("HuggingFaceH4/ultrachat_200k", "train_sft"): _dialogues(207_865),
    ("HuggingFaceH4/ultrachat_200k", "test_sft"): _dialogues(23_110),
    ("HuggingFaceH4/ultrafeedback_binarized", "train_prefs"): _pairs(61_135),
    ("HuggingFaceH4/ultrafeedback_binarized", "test_prefs"): _pairs(2_000),
    ("openbmb/UltraFeedback", "train"): _pairs(63_967),
    ("argilla/distilabel-capybara-dpo-7k-binarized", "train"): KnownRows(
        RowLengths(7_563, 700, 350, 2), "700 tokens a prompt and 350 an answer, a guess by its card"
    ),
}


def known_rows(path: str, split: str) -> KnownRows | None:
    """What is known of a split of a public data set; None for others."""
    return _KNOWN.get((path, split))
