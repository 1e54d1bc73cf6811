"""A loss of one's own: a Python function of the recipe's author, tried on a few pairs before anything is trained."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.errors import RecipeError
from zephyr.recipe.objective_section import CustomObjective
from zephyr.train.examples import expect_comparison
from zephyr.train.losses.pairs import Pairs
from zephyr.train.objectives.base import Metric, Objective, Scored, Totals, pair_metrics
from zephyr.trees.forest import ScoredSequence, completion_scored

# Log-probs of four pairs on which a function is tried, with margins of both signs.
_PROBE = (
    (-12.0, -30.0, -5.0, -22.5),  # chosen
    (-15.0, -24.0, -9.0, -23.0),  # rejected
    (-13.0, -29.0, -6.5, -20.0),  # chosen, by the reference
    (-14.0, -26.0, -9.5, -24.0),  # rejected, by the reference
)


class UserLoss(NamedTuple):
    """The function and where it stands, for messages: losses (n,) of log-probs of n pairs, under the section."""

    function: Callable[[Pairs, CustomObjective], object]
    where: str

    def __call__(self, pairs: Pairs, options: CustomObjective) -> Tensor:
        """The losses (n,). Raises RecipeError for other values, and where the function raises an error."""
        try:
            losses = self.function(pairs, options)
        except Exception as error:  # of any kind: the code is the user's
            raise RecipeError(self.where, f"raises {_told(error)}", "fix the function") from error
        if not isinstance(losses, Tensor) or losses.shape != pairs.chosen.shape:
            found = f"a tensor {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            what = f"gives {found} for {len(pairs.chosen)} pairs"
            raise RecipeError(self.where, what, f"return one loss a pair, a tensor ({len(pairs.chosen)},)")
        return losses


def load_loss(options: CustomObjective, data_dir: Path) -> UserLoss:
    """The function that a section names, tried on a few pairs.

    Raises RecipeError where there is none, where it gives no finite loss a pair with a gradient, and where the loss of
    a pair depends on other pairs without the section's word.
    """
    file = options.file(data_dir)
    name = options.function
    spec = importlib.util.spec_from_file_location("zephyr_user_loss", file)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{file}", "is no Python file", "name one as FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of any kind: the code is the user's
        raise RecipeError(f"{file}", f"raises {_told(error)}", "fix the file") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise RecipeError(f"{file}", f"has no function '{name}'", "name one of the file as FILE.py:FUNCTION")
    loss = UserLoss(cast("Callable[[Pairs, CustomObjective], object]", function), f"{file}:{name}")
    _check(loss, options)
    return loss


def _check(loss: UserLoss, options: CustomObjective) -> None:
    policy, reference = torch.tensor(_PROBE, dtype=torch.float64).chunk(2)
    policy = policy.clone().requires_grad_()
    pairs = Pairs(*policy.unbind(), *reference.unbind())
    losses = loss(pairs, options)
    if not losses.requires_grad or not bool(losses.isfinite().all()):
        what = "has no gradient" if not losses.requires_grad else f"gives {losses.tolist()}"
        raise RecipeError(loss.where, f"{what} on pairs of plain log-probs", "compute a finite loss of the log-probs")
    losses.sum().backward()  # type: ignore[no-untyped-call]
    gradient = torch.zeros_like(policy) if policy.grad is None else policy.grad
    if not bool(gradient.isfinite().all()) or not bool(gradient.any()):
        remedy = "compute the loss of pairs.chosen and pairs.rejected"
        raise RecipeError(loss.where, "has no finite gradient other than zero", remedy)
    alone = torch.cat([loss(Pairs(*(part[n : n + 1] for part in pairs)), options) for n in range(len(losses))])
    if not options.coupled and not torch.allclose(alone, losses, rtol=1e-6, atol=1e-9):
        what = "gives a pair another loss when other pairs stand beside it, and micro-batches hold any of them"
        raise RecipeError(loss.where, what, "return one loss a pair, or set coupled: true")


def _told(error: Exception) -> str:
    """The error in a line, with the line of the user's code that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (line {last.lineno} of {Path(last.filename).name})"


@dataclass(frozen=True)
class Custom(Objective):
    """The mean of a loss of one's own over the global batch. Rewards are reported as those of DPO."""

    options: CustomObjective
    user_loss: UserLoss
    name: ClassVar[str] = "custom"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("chosen", "rejected")

    @property
    def coupled(self) -> bool:
        return self.options.coupled

    def sequences(self, example: Example) -> list[ScoredSequence]:
        pair = expect_comparison(example, self.name, 2, 2)
        return [completion_scored(pair.prompt, completion) for completion in pair.completions]

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        self.check_whole(scored, totals)
        policy, reference = self._compared(scored)
        pairs = Pairs(*policy.unbind(dim=1), *reference.unbind(dim=1))
        return self.user_loss(pairs, self.options).sum() / totals.num_examples

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        policy, reference = self._compared(scored)
        return pair_metrics(scored, rewards=self.options.beta * (policy - reference), logps=policy)

    def _compared(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """The log-probs (n, 2) of policy and reference as the function is given them."""
        if not self.options.average_log_prob:
            return scored.logps, scored.reference
        return scored.logps / scored.num_tokens, scored.reference / scored.num_tokens
