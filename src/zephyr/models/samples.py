"""A completion that is to be written: its prompt, its rules, its own draws, and who listens."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from zephyr.recipe.teacher_section import SamplingSection
from zephyr.trees.forest import Ids

# What OpenAI's bounds of a bias stand for: a token that is never drawn, or always.
FULL_BIAS, DECISIVE = 100.0, 1e4

EndReason = Literal["stop", "length"]
IdTuple = tuple[int, ...]


class DrawnToken(NamedTuple):
    """A token, its log-prob under the model itself, and the likeliest tokens in its place with theirs, best first."""

    id: int
    logp: float
    top: tuple[tuple[int, float], ...] = ()


class Listener(Protocol):
    """Whoever a sample is written for; called in the thread of the model."""

    def took(self, token: DrawnToken) -> bool:
        """Take the next token, which is no stop token; whether the sample ends with it."""

    def ended(self, reason: EndReason, num_tokens: int) -> None:
        """Hear that no token follows those, the one that stopped it included."""

    def failed(self, error: Exception) -> None:
        """Hear that no token follows, for an error."""


class Grammar(Protocol):
    """What a sample must be, such as JSON of a schema."""

    def allow(self, logits: Tensor) -> None:
        """Set the logits (V,) of tokens that may not come next to -inf, in place."""

    def advance(self, token: int) -> None:
        """Take the token that came."""


@dataclass(frozen=True)
class DrawRules:
    """How tokens are drawn: `sampling`, and what is done to the logits before. `num_top`: likeliest tokens to tell."""

    sampling: SamplingSection
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    num_top: int = 0


class Sample:
    """A completion that is to be written; `where` names it in errors."""

    def __init__(
        self,
        prompt: Sequence[int],
        rules: DrawRules,
        listener: Listener,
        *,
        seed: Sequence[int],
        grammar: Grammar | None = None,
        where: str = "the model",
    ) -> None:
        self.prompt: IdTuple = tuple(int(token) for token in prompt)
        self.rules = rules
        self.listener = listener
        self.grammar = grammar
        self.where = where
        #: Whether `adjust` may change anything.
        self.is_adjusted = bool(
            rules.frequency_penalty or rules.presence_penalty or rules.logit_bias or grammar is not None
        )
        #: Whether its next token is the likeliest, whatever was drawn before.
        self.is_greedy = not self.is_adjusted and rules.sampling.temperature == 0
        self.written: list[int] = []
        #: Log-probs of what is written, under the model itself.
        self.logps: list[float] = []
        #: Set by anyone, in any thread: nobody listens any more.
        self.is_unwanted = False
        self._seed = tuple(seed)
        self._random: np.random.Generator | None = None

    @property
    def seed(self) -> int:
        """One number from the whole seed, for engines that take no more."""
        return int(np.random.SeedSequence(self._seed).generate_state(1, np.uint64)[0] >> 1)

    @property
    def ids(self) -> IdTuple:
        """The prompt and what is written so far."""
        return (*self.prompt, *self.written)

    @property
    def newest(self) -> int:
        """The last of the ids."""
        return (self.written or self.prompt)[-1]

    @cached_property
    def body(self) -> Ids:
        """The prompt without its last token, which is what can be shared with others."""
        return np.array(self.prompt[:-1], dtype=np.int64)

    def adjust(self, logits: Tensor) -> None:
        """Apply penalties, biases and the grammar to logits (V,), in place. Source: OpenAI's API reference."""
        rules = self.rules
        if self.written and (rules.frequency_penalty or rules.presence_penalty):
            for token, times in Counter(self.written).items():
                logits[token] -= rules.frequency_penalty * times + rules.presence_penalty
        for token, bias in rules.logit_bias.items():
            logits[token] += bias if abs(bias) < FULL_BIAS else DECISIVE * bias / FULL_BIAS
        if self.grammar is not None:
            self.grammar.allow(logits)

    def uniform(self) -> float:
        """The next of the sample's own uniform numbers in [0, 1)."""
        if self._random is None:
            self._random = np.random.default_rng(self._seed)
        return float(self._random.random())
