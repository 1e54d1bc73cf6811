"""Lengths of public data sets that recipes name, so that a plan needs neither network nor download.

Rows are those of the hub's cards. UltraChat 200k: about 139,000 packed sequences of 2,048 tokens in training, so 1,370
a dialogue. UltraFeedback: 6,636 bytes a row, in which the prompt stands four times and three answers, and its paper's
185 tokens a prompt (arXiv 2310.01377, table 1), so 275 an answer. Capybara's card says over 1,000 tokens a
conversation; how they part into prompt and answer is a guess. Averages are in Mistral's tokens.
"""

from typing import NamedTuple

from zephyr.estimate.work import RowLengths


class Known(NamedTuple):
    """A split's rows and average lengths, and a word on where they come from."""

    rows: RowLengths
    origin: str


def _talks(num_rows: int) -> Known:
    return Known(RowLengths(num_rows, 0, 1370), "1,370 tokens a dialogue, from the published steps")


def _pairs(num_rows: int) -> Known:
    return Known(RowLengths(num_rows, 195, 275, 2), "195 tokens a prompt and 275 an answer, from the card's bytes")


_KNOWN = {
    ("HuggingFaceH4/ultrachat_200k", "train_sft"): _talks(207_865),
    ("HuggingFaceH4/ultrachat_200k", "test_sft"): _talks(23_110),
    ("HuggingFaceH4/ultrafeedback_binarized", "train_prefs"): _pairs(61_135),
    ("HuggingFaceH4/ultrafeedback_binarized", "test_prefs"): _pairs(2_000),
    ("openbmb/UltraFeedback", "train"): _pairs(63_967),
    ("argilla/distilabel-capybara-dpo-7k-binarized", "train"): Known(
        RowLengths(7_563, 700, 350, 2), "700 tokens a prompt and 350 an answer, a guess by its card"
    ),
}


def known_rows(path: str, split: str) -> Known | None:
    """What is known of a split of a public data set; None for others."""
    return _KNOWN.get((path, split))


def full_rows(num_rows: int, max_length: int, num_completions: int) -> RowLengths:
    """Rows that fill the window, the most there can be; of pairs the prompt takes half of it."""
    if num_completions == 1:
        return RowLengths(num_rows, 0, max_length)
    return RowLengths(num_rows, max_length / 2, max_length / 2, num_completions)
