"""Two assistants' answers to a prompt, how they are put to a judge, and how its verdict is read.

The wording is that of MT-Bench's prompts, of AlpacaEval's, or our own.
"""

import json
from typing import NamedTuple, Protocol

from zephyr.judging import required_word
from zephyr.judging.published_prompts import JudgePrompts, TurnsPrompt
from zephyr.judging.questions import JUDGE_TEMPLATE_VERSION, ComparisonQuestion, ask_comparison
from zephyr.judging.verdicts import Winner, published_winner, ranked_preference, read_verdict, token_preference
from zephyr.records.messages import Messages

PUBLISHED_PAIR = ("pair-v2", "pair-math-v1", "pair-v2-multi-turn", "pair-math-v1-multi-turn")
_SHARES: dict[Winner, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


class Match(NamedTuple):
    """The answers of assistants A and B to a user's turns; None where an answer failed to come.

    `prompt` names what is drawn together in intervals: the turns of one question have one. `context` was said
    before the first turn; `reason` is why an answer is missing.
    """

    key: str
    prompt: str
    category: str
    turns: tuple[str, ...]
    first: tuple[str | None, ...]
    second: tuple[str | None, ...]
    references: tuple[str, ...] = ()
    context: Messages = ()
    reason: str = ""

    @property
    def swapped(self) -> "Match":
        """The match with its assistants exchanged."""
        return self._replace(first=self.second, second=self.first)

    @property
    def shown(self) -> tuple[str, ...]:
        """The texts that a judge is shown, which it may repeat."""
        answers = (answer for answer in (*self.first, *self.second) if answer is not None)
        return (*(message.content for message in self.context), *self.turns, *answers)

    @property
    def is_whole(self) -> bool:
        """Whether no answer is missing."""
        return None not in (*self.first, *self.second)


class PairWording(Protocol):
    """A way to have two assistants compared: the texts by their version, and how the judge answers."""

    @property
    def version(self) -> str: ...

    @property
    def temperature(self) -> float: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def top_logprobs(self) -> int: ...

    def ask(self, match: Match) -> Messages:
        """The judge's prompt about a whole match."""

    def read(self, reply: str, match: Match) -> float | None:
        """The share of the verdict that goes to the assistant shown first, None if there is no verdict.

        `match` is what `ask` asked about: what the judge repeats of it is no verdict.
        """


class OwnPairs(NamedTuple):
    """Our own wording: fenced texts, and a verdict that only the last line can give."""

    seed: int = 0
    version: str = f"own comparison {JUDGE_TEMPLATE_VERSION}"
    temperature: float = 0.0
    max_tokens: int = 2048
    top_logprobs: int = 0

    def ask(self, match: Match) -> Messages:
        """See PairWording."""
        first, second = _whole(match)
        return ask_comparison(
            ComparisonQuestion(match.turns, first, second, match.references, match.context), seed=self.seed
        )

    def read(self, reply: str, match: Match) -> float | None:
        """See PairWording."""
        return _share(read_verdict(reply, word=required_word(self.ask(match))))


class PublishedPairs(NamedTuple):
    """FastChat's pairwise prompts and their reading of replies."""

    prompts: JudgePrompts
    version: str
    temperature: float = 0.0
    max_tokens: int = 2048
    top_logprobs: int = 0

    def ask(self, match: Match) -> Messages:
        """See PairWording."""
        first, second = _whole(match)
        kind = "pair-math-v1" if match.references else "pair-v2"
        texts = {f"ref_answer_{turn}": text for turn, text in enumerate(match.references, start=1)}
        if len(match.turns) == 1:
            texts |= {"question": _question(match), "answer_a": first[0], "answer_b": second[0]}
            return self.prompts.by_name[kind].messages(texts)
        for name, given in (("question", match.turns), ("answer_a", first), ("answer_b", second)):
            texts |= {f"{name}_{turn}": text for turn, text in enumerate(given, start=1)}
        return self.prompts.by_name[f"{kind}-multi-turn"].messages(texts)

    def read(self, reply: str, match: Match) -> float | None:
        """See PairWording."""
        return _share(published_winner(reply, match.shown, asked=self.ask(match)[-1].content))


class RankedPairs(NamedTuple):
    """AlpacaEval 1's prompt, answered by a Python list of ranks."""

    prompt: TurnsPrompt
    version: str
    temperature: float = 0.0
    max_tokens: int = 100
    top_logprobs: int = 0

    def ask(self, match: Match) -> Messages:
        """See PairWording."""
        return _ask_alpaca(self.prompt, match)

    def read(self, reply: str, match: Match) -> float | None:
        """See PairWording."""
        preference = ranked_preference(reply, match.shown)
        return None if preference is None else 2 - preference


class WeightedPairs(NamedTuple):
    """AlpacaEval 2's prompt, answered by one token whose log-probs are the verdict."""

    prompt: TurnsPrompt
    version: str
    temperature: float = 1.0
    max_tokens: int = 1
    top_logprobs: int = 5

    def ask(self, match: Match) -> Messages:
        """See PairWording."""
        return _ask_alpaca(self.prompt, match)

    def read(self, reply: str, match: Match) -> float | None:
        """See PairWording."""
        del match
        try:
            logprobs: object = json.loads(reply)
        except (ValueError, RecursionError):  # The server knows no log-probs, and has said a word instead.
            return None
        preference = token_preference(logprobs) if isinstance(logprobs, dict) else None
        return None if preference is None else 2 - preference


def _ask_alpaca(prompt: TurnsPrompt, match: Match) -> Messages:
    first, second = _whole(match)
    return prompt.messages({"instruction": _question(match), "output_1": first[-1], "output_2": second[-1]})


def _question(match: Match) -> str:
    """The first turn, with what was said before it written out: published prompts have no place for that."""
    earlier = [f"{message.role}: {message.content}" for message in match.context]
    return "\n\n".join([*earlier, f"user: {match.turns[0]}"]) if earlier else match.turns[0]


def _whole(match: Match) -> tuple[tuple[str, ...], tuple[str, ...]]:
    assert match.is_whole
    first = tuple(answer or "" for answer in match.first)
    return first, tuple(answer or "" for answer in match.second)


def _share(winner: Winner | None) -> float | None:
    return None if winner is None else _SHARES[winner]
