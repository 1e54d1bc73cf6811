"""Hours that published runs took, to stand beside a plan of the same recipe."""

from typing import NamedTuple


class PublishedRun(NamedTuple):
    """Hours of a published stage from `low` to `high`, and the machines it ran on."""

    low: float
    high: float
    num_devices: int
    device: str
    source: str

    def line(self) -> str:
        """The run in words."""
        hours = f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return f"published: {hours} h on {self.num_devices} {self.device} ({self.source})"


_ON_16_A100 = PublishedRun(2, 4, 16, "a100-80g", "arXiv 2310.16944, section 4")
# By the recipe's name and the stage.
PUBLISHED = {
    ("zephyr-7b-alpha", "align"): _ON_16_A100,
    ("zephyr-7b-beta", "sft"): _ON_16_A100,
    ("zephyr-7b-beta", "align"): _ON_16_A100,
    ("zephyr-7b-beta-handbook", "sft"): _ON_16_A100._replace(source="arXiv 2310.16944, for its own settings"),
    ("zephyr-7b-beta-handbook", "align"): _ON_16_A100._replace(source="arXiv 2310.16944, for its three epochs"),
    ("zephyr-141b-a39b-orpo", "align"): PublishedRun(1.3, 1.3, 32, "h100-80g", "the model's card"),
}
