"""Metrics of two compared completions, under the names of the published model cards."""

from __future__ import annotations

from torch import Tensor

from zephyr.train.objectives.base import Metric, Scored


def mean(values: Tensor, weights: Tensor | None = None) -> Metric:
    """The metric that averages values (n,), each counted once or ``weights`` (n,) times."""
    values = values.detach()
    if weights is None:
        return Metric(values.sum(), values.new_tensor(float(values.numel())))
    return Metric((values * weights).sum(), weights.sum().to(values.dtype))


def pair_metrics(scored: Scored, *, rewards: Tensor, logps: Tensor) -> dict[str, Metric]:
    """Rewards, log-probs and logits of columns 0 (chosen) and 1 (rejected); ``rewards``, ``logps`` (n, 2).

    Accuracies count strictly greater rewards, so ties are misses. Logits are means over all scored tokens.
    """
    chosen, rejected = rewards.detach().unbind(dim=1)
    return {
        "rewards/chosen": mean(chosen),
        "rewards/rejected": mean(rejected),
        "rewards/accuracies": mean((chosen > rejected).to(chosen.dtype)),
        "rewards/margins": mean(chosen - rejected),
        "logps/chosen": mean(logps[:, 0]),
        "logps/rejected": mean(logps[:, 1]),
        "logits/chosen": mean(scored.mean_logits[:, 0], scored.num_tokens[:, 0]),
        "logits/rejected": mean(scored.mean_logits[:, 1], scored.num_tokens[:, 1]),
    }


def nll_metric(scored: Scored, column: int) -> Metric:
    """Mean negative log-likelihood a token of one column."""
    logps = scored.logps[:, column].detach()
    return Metric(-logps.sum(), scored.num_tokens[:, column].sum().to(logps.dtype))
