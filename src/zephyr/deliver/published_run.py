"""A run's settings and last evaluation beside those of the published Zephyr models."""

from zephyr.deliver.run_facts import decimals, evaluations
from zephyr.recipe.stage_sections import ALIGN
from zephyr.records.fields import Json
from zephyr.runs.reader import RunRecord, at, entries

# How the published Zephyr models were trained and how their training ended. Sources: their cards (hyper-parameters and
# last evaluation) and arXiv 2310.16944; alpha's beta follows from its card's table (`card_audit`).
PUBLISHED_RUNS = ("zephyr-7b-beta", "zephyr-7b-alpha")
_PUBLISHED_SETTINGS = {
    "objective": ("dpo", "dpo"),
    "beta": ("0.1", "0.05"),
    "learning_rate": ("5e-07", "5e-07"),
    "train_batch_size": ("32", "32"),
    "num_train_epochs": ("3", "1"),
    "lr_scheduler_type": ("linear", "linear"),
}
_PUBLISHED_EVALUATION = {
    "eval_loss": (0.7496, 0.4605),
    "eval_rewards/chosen": (-4.5221, -0.5053),
    "eval_rewards/rejected": (-8.3184, -1.8752),
    "eval_rewards/accuracies": (0.7812, 0.7812),
    "eval_rewards/margins": (3.7963, 1.3699),
    "eval_logps/rejected": (-340.1541, -327.4286),
    "eval_logps/chosen": (-299.4561, -297.1040),
    "eval_logits/rejected": (-2.3081, -2.7153),
    "eval_logits/chosen": (-2.3531, -2.7447),
}


def published_rows(run: RunRecord) -> list[list[str]]:
    """Settings and last evaluation of the preference training beside those of the published runs; of DPO alone."""
    align = run.stages.get(ALIGN)
    if align is None or at(run.recipe, ALIGN, "objective", "name") != "dpo":
        return []
    here = entries(run.recipe, ALIGN, "train") | {
        "objective": "dpo",
        "beta": at(run.recipe, ALIGN, "objective", "beta"),
    }
    rows = [[name, shown_setting(here.get(name)), *published] for name, published in _PUBLISHED_SETTINGS.items()]
    last = evaluations(align.log())[-1:]
    return rows + [
        [name, decimals(line.get(name)), *(f"{value:.4f}" for value in published)]
        for line in last
        for name, published in _PUBLISHED_EVALUATION.items()
        if name in line
    ]


def shown_setting(value: Json) -> str:
    """A setting as text."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
