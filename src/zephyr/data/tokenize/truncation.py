"""Truncation of rows to `data.max_length` by the rule of `data.truncation`, and statistics of what is lost.

The law of every rule: an answer that is learned keeps its first token, and before it the last `prompt_tokens_kept` of
what preceded it, or all of that if it is shorter. A row that cannot keep them is unfit: it is left out and counted.

The rules: `keep_start` cuts the ends of answers and never a prompt; `keep_end` cuts the start of the prompt and only
then the ends of answers; `trl_0.7` cuts a prompt to its last `max_prompt_length` tokens and then the answers to the
room left beside a prompt of that length (dialogues as `keep_start`); `drop` drops rows that are too long. In a dialogue
the prompt of an answer is all that precedes it: of the answers that `keep_end` cuts into, or before which it leaves too
little, the rest stays as context and is not learned. The first token of a sequence is never scored, even after a cut.
Source of trl_0.7: TRL 0.7.2, DPOTrainer.tokenize_batch_element.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Literal, NamedTuple, get_args

import numpy as np

from zephyr.data.tokenize.encoding import Encoded
from zephyr.data.tokenize.plain_text import TokenIds
from zephyr.data.tokenize.templates import ASSISTANT
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSection

Outcome = Literal["whole", "cut", "dropped", "unfit"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
LISTED_ROWS = 5
# The part of max_length that a cut prompt keeps, whatever the length of the answer.
PROMPT_PART = 4


class Loss(NamedTuple):
    """The tokens and stop tokens that a row of `tokens` tokens has lost, and the reason if it is unusable.

    `answers_unlearned`: answers that lost their start, or their prompt, and whose rest is context alone.
    """

    outcome: Outcome
    tokens: int
    tokens_lost: int = 0
    stops_lost: int = 0
    reason: str = ""
    answers_unlearned: int = 0

    @property
    def usable(self) -> bool:
        """Whether the row can be trained on."""
        return self.outcome in ("whole", "cut")


class FittedDialogue(NamedTuple):
    """A dialogue truncated to fit, if `loss.usable`: the part of `whole` that begins at its token `start`.

    `answers`: of a dialogue that is trained in several sequences, the answers that are learnt in this one.
    """

    encoded: Encoded
    loss: Loss
    whole: Encoded
    start: int = 0
    answers: tuple[int, ...] = ()


class FittedPreference(NamedTuple):
    """A prompt with its completions, each truncated to fit after it, if `loss.usable`.

    `cut_prompt` is what is cut before the prompt, `cut_ends` what is cut after each completion.
    """

    prompt: TokenIds
    completions: tuple[TokenIds, ...]
    loss: Loss
    cut_prompt: TokenIds = np.zeros(0, np.int64)
    cut_ends: tuple[TokenIds, ...] = ()


def prompt_tokens_kept(data: DataSection) -> int:
    """The tokens that a prompt of this length or more keeps at least: a quarter of the window, or its own limit."""
    part = max(1, data.max_length // PROMPT_PART)
    return min(part, data.max_prompt_length or part)


def fit_dialogue(encoded: Encoded, data: DataSection) -> FittedDialogue:
    """The dialogue truncated to `data.max_length`; unfit if no answer of it can be learned."""
    tokens, kept = len(encoded.ids), prompt_tokens_kept(data)
    whole = FittedDialogue(encoded, Loss("whole", tokens), encoded)
    if tokens <= data.max_length:
        return whole
    if data.truncation.rule == "drop":
        return whole._replace(loss=_lost("dropped", tokens, f"it has {tokens} tokens"))
    answers = _learned_answers(encoded)
    begins = answers[:, 0]
    start = 0
    if data.truncation.rule == "keep_end" and len(answers):
        start = min(tokens - data.max_length, max(0, int(begins[-1]) - kept))
    end = start + data.max_length
    cut = encoded.part(start, end)
    has_prompt = begins - start >= np.minimum(begins, kept)
    for begin, stop in np.maximum(answers[~has_prompt] - start, 0):
        cut.scored[begin:stop] = False
    if len(answers) and not (has_prompt & (begins < end)).any():
        return whole._replace(loss=_lost("unfit", tokens, f"{begins[0]} tokens precede its first answer"))
    if not cut.scored.any():
        return whole._replace(loss=_lost("unfit", tokens, "none of its tokens would be learned"))
    learned = encoded.scored & (encoded.roles == ASSISTANT)
    is_open = end < tokens and learned[end - 1] and learned[end]
    loss = Loss("cut", tokens, tokens - data.max_length, int(is_open), answers_unlearned=int((~has_prompt).sum()))
    return FittedDialogue(cut, loss, encoded, start)


def _learned_answers(encoded: Encoded) -> TokenIds:
    """Where each answer with a learned token starts and ends, (answers, 2)."""
    said = np.concatenate([[False], encoded.roles == ASSISTANT, [False]])
    edges = np.flatnonzero(said[1:] != said[:-1]).reshape(-1, 2)
    learned = [bool(encoded.scored[begin:end].any()) for begin, end in edges]
    return edges[np.array(learned, np.bool_)]


def fit_preference(prompt: TokenIds, completions: Sequence[TokenIds], data: DataSection) -> FittedPreference:
    """The prompt (n,) and its completions truncated to `data.max_length` together, by the section's rule."""
    longest = max(map(len, completions))
    whole = FittedPreference(prompt, tuple(completions), Loss("whole", len(prompt) + sum(map(len, completions))))
    fits = len(prompt) + longest <= data.max_length
    # TRL 0.7 limits the prompt only in rows that are too long.
    prompt_fits = data.truncation.rule == "trl_0.7" or len(prompt) <= (data.max_prompt_length or len(prompt))
    if fits and prompt_fits:
        return whole
    if data.truncation.rule == "drop":
        reason = f"{len(prompt)} tokens of prompt and up to {longest} of answer"
        return whole._replace(loss=_lost("dropped", whole.loss.tokens, reason))
    room_for_prompt = _room_for_prompt(longest, data)
    if len(prompt) > room_for_prompt and data.truncation.rule == "keep_start":
        return whole._replace(loss=_lost("unfit", whole.loss.tokens, f"its prompt has {len(prompt)} tokens"))
    kept_prompt = prompt[-room_for_prompt:]
    taken = len(kept_prompt)
    if data.truncation.rule == "trl_0.7" and taken + longest > data.max_length:
        # Room beside the longest prompt, not this one: as in TRL's code.
        taken = data.max_prompt_length or taken
    return _cut(whole, kept_prompt, data.max_length - taken)


def split_text(encoded: Encoded, data: DataSection) -> Iterator[Encoded]:
    """The text in consecutive pieces of at most `data.max_length` tokens; no token is lost."""
    max_length = data.max_length
    for start in range(0, len(encoded.ids), max_length):
        if len(encoded.ids) > start + 1:  # a single token has nothing to predict
            yield encoded.part(start, start + max_length)


def _room_for_prompt(longest: int, data: DataSection) -> int:
    """The maximum number of prompt tokens that the rule keeps."""
    most = min(data.max_prompt_length or data.max_length, data.max_length - 1)
    if data.truncation.rule == "keep_end":
        return min(most, max(prompt_tokens_kept(data), data.max_length - longest))
    return most


def _cut(whole: FittedPreference, prompt: TokenIds, room: int) -> FittedPreference:
    completions = tuple(completion[:room] for completion in whole.completions)
    lost = len(whole.prompt) - len(prompt) + sum(max(0, len(each) - room) for each in whole.completions)
    stops_lost = sum(len(each) > room for each in whole.completions)
    cut_prompt = whole.prompt[: len(whole.prompt) - len(prompt)]
    cut_ends = tuple(completion[room:] for completion in whole.completions)
    return FittedPreference(prompt, completions, Loss("cut", whole.loss.tokens, lost, stops_lost), cut_prompt, cut_ends)


def _lost(outcome: Outcome, tokens: int, reason: str) -> Loss:
    return Loss(outcome, tokens, tokens, reason=reason)


class WorstRow(NamedTuple):
    """A row that lost tokens: how many, its name, and what was lost or why."""

    tokens_lost: int
    name: str
    what: str


@dataclass
class TruncationReport:
    """Truncation statistics over the rows of a stage."""

    data: DataSection
    rows: Counter[Outcome] = field(default_factory=Counter)
    tokens: int = 0
    tokens_lost: int = 0
    stops_lost: int = 0
    answers_unlearned: int = 0
    worst: list[WorstRow] = field(default_factory=list)
    unfit: list[WorstRow] = field(default_factory=list)

    def add(self, name: str, loss: Loss) -> bool:
        """Count a row; returns whether it can be used."""
        self.rows[loss.outcome] += 1
        self.tokens += loss.tokens
        self.tokens_lost += loss.tokens_lost
        self.stops_lost += loss.stops_lost
        self.answers_unlearned += loss.answers_unlearned
        row = WorstRow(loss.tokens_lost, name, loss.reason or f"lost {loss.tokens_lost} of {loss.tokens} tokens")
        if loss.tokens_lost:
            self.worst = nlargest(LISTED_ROWS, [*self.worst, row])
        if loss.outcome == "unfit" and len(self.unfit) < LISTED_ROWS:
            self.unfit.append(row)
        return loss.usable

    @property
    def rows_share(self) -> float:
        """The share of rows that were truncated or dropped."""
        num_rows = self.rows.total()
        return 1 - self.rows["whole"] / num_rows if num_rows else 0.0

    @property
    def tokens_share(self) -> float:
        """The share of tokens that were lost."""
        return self.tokens_lost / max(1, self.tokens)

    def summary(self) -> str:
        """The statistics in one line."""
        left_out = self.rows["dropped"] + self.rows["unfit"]
        unlearned = f", {self.answers_unlearned:,} answers cut at their start and not learned"
        return (
            f"{self.rows.total():,} rows of {self.tokens:,} tokens, max_length {self.data.max_length:,}: "
            f"{self.rows['cut']:,} truncated, {left_out:,} dropped ({self.rows_share:.1%} of the rows), "
            f"{self.tokens_lost:,} tokens lost ({self.tokens_share:.1%}), "
            f"{self.stops_lost:,} answers without their stop token{unlearned * bool(self.answers_unlearned)}"
        )

    def to_fields(self) -> dict[str, object]:
        """The statistics as JSON values."""
        return {
            "window": {
                "max_length": self.data.max_length,
                "rule": self.data.truncation.rule,
                "max_prompt_length": self.data.max_prompt_length,
            },
            "rows": {outcome: self.rows[outcome] for outcome in OUTCOMES},
            "tokens": self.tokens,
            "tokens_lost": self.tokens_lost,
            "stops_lost": self.stops_lost,
            "answers_unlearned": self.answers_unlearned,
            "worst": [row._asdict() for row in self.worst],
        }

    def check(self, *, shares: bool = True) -> None:
        """Raise DataError where a row has no room for an answer, or where more was lost than the section allows.

        Under the rule `drop` rows without room are left out like others that are too long. Without `shares` only rows
        without room are refused: of a few rows the shares prove nothing.
        """
        limits, problems = self.data.truncation, []
        num_unfit = 0 if limits.rule == "drop" else self.rows["unfit"]
        if num_unfit:
            rows = "1 row leaves" if num_unfit == 1 else f"{num_unfit:,} rows leave"
            problems.append(f"{rows} no room for an answer: {_listed(self.unfit)}")
        for noun, share, limit in (
            ("rows", self.rows_share, limits.max_rows_share),
            ("tokens", self.tokens_share, limits.max_tokens_share),
        ):
            if shares and share > limit:
                problems.append(f"{share:.1%} of the {noun} are truncated or dropped, allowed are {limit:.1%}")
        if not problems:
            return
        if len(problems) > bool(num_unfit):
            problems.append(f"the worst are {_listed(self.worst)}")
        raise DataError(
            f"max_length of {self.data.max_length} tokens, rule {self.data.truncation.rule}",
            "; ".join(problems),
            "raise data.max_length, shorten these rows, raise the limits of data.truncation, or choose another rule: "
            "keep_end cuts prompts, drop drops rows that are too long",
        )


def _listed(rows: Sequence[WorstRow]) -> str:
    return ", ".join(f"{row.name} ({row.what})" for row in rows)
