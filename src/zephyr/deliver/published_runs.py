"""How the published Zephyr models were trained, and how their training ended, to set a run beside them.

Sources: the models' cards (hyper-parameters and last evaluation) and arXiv 2310.16944; alpha's beta is the one that
its card's table gives away (`card_audit`).
"""

from collections.abc import Mapping
from typing import NamedTuple


class PublishedRun(NamedTuple):
    """Settings under the recipe's names, and the last evaluation under the log's."""

    settings: Mapping[str, str]
    evaluation: Mapping[str, float]


_EVAL_NAMES = (
    "eval_loss", "eval_rewards/chosen", "eval_rewards/rejected", "eval_rewards/accuracies", "eval_rewards/margins",
    "eval_logps/rejected", "eval_logps/chosen", "eval_logits/rejected", "eval_logits/chosen",
)  # fmt: skip
_SETTINGS = ("objective", "beta", "learning_rate", "train_batch_size", "num_train_epochs", "lr_scheduler_type")


def _run(settings: tuple[str, ...], *evaluation: float) -> PublishedRun:
    return PublishedRun(dict(zip(_SETTINGS, settings, strict=True)), dict(zip(_EVAL_NAMES, evaluation, strict=True)))


PUBLISHED_RUNS: Mapping[str, PublishedRun] = {
    "zephyr-7b-beta": _run(
        ("dpo", "0.1", "5e-07", "32", "3", "linear"),
        0.7496, -4.5221, -8.3184, 0.7812, 3.7963, -340.1541, -299.4561, -2.3081, -2.3531,
    ),
    "zephyr-7b-alpha": _run(
        ("dpo", "0.05", "5e-07", "32", "1", "linear"),
        0.4605, -0.5053, -1.8752, 0.7812, 1.3699, -327.4286, -297.1040, -2.7153, -2.7447,
    ),
}  # fmt: skip
