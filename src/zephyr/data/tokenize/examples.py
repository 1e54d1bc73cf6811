"""A row as training examples: the one way from records to tokens, for check, inspect, plan and run alike."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from zephyr.data.tokenize.encoding import RowEncoder
from zephyr.data.tokenize.learnable import Learnable
from zephyr.data.tokenize.loss_mask_stats import LossMaskStats
from zephyr.data.tokenize.plain_text import TokenIds
from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.data.tokenize.truncation import (
    FittedDialogue,
    FittedPreference,
    TruncationReport,
    fit_dialogue,
    fit_preference,
    split_text,
)
from zephyr.errors import DataError, ModelError
from zephyr.recipe.data_section import DataSection
from zephyr.recipe.section import Plain
from zephyr.recipe.stage_sections import (
    AlignSection,
    PreferenceSection,
    PretrainSection,
    RewardSection,
    SftSection,
    TrainingSection,
)
from zephyr.records.fields import UnusableError, unusable
from zephyr.records.messages import Messages
from zephyr.records.rows import Chat, Preference, Record, Text

# What a row of each section is.
ROW_KINDS: dict[type[TrainingSection], type[Record]] = {
    PretrainSection: Text, SftSection: Chat, RewardSection: Preference, AlignSection: Preference,
}  # fmt: skip


def fitted_rows(
    row: Record, section: TrainingSection, encoder: RowEncoder
) -> Iterator[FittedDialogue | FittedPreference]:
    """The row in tokens within the section's window: of a long text its pieces, of a dialogue its sequences, else one.

    Raises UnusableError for a row that cannot be encoded, DataError for a preference of another number of completions
    than the objective learns from.
    """
    if isinstance(row, Text) and isinstance(section, PretrainSection):
        with _as_row_fault():
            text = encoder.text(row.text)
        yield from (fit_dialogue(piece, section.data) for piece in split_text(text, section.data))
    elif isinstance(row, Chat) and isinstance(section, SftSection):
        with _as_row_fault():
            turns = encoder.dialogues(row.messages, row.inputs, loss_on=section.objective.loss_on)
        for answers, encoded in turns:
            yield fit_dialogue(encoded, section.data)._replace(answers=answers if len(turns) > 1 else ())
    else:
        assert isinstance(row, Preference) and isinstance(section, PreferenceSection), (row, section)  # noqa: PT018
        problem = section.objective.completions_problem(len(row.completions))
        if problem is not None:
            remedy = "choose the objective that fits this data, or rebuild the data for it"
            raise DataError(row.name, problem, remedy)
        if section.objective.scores_prompt and not all(message.learn for message in row.prompt):
            what = "has a message marked as not to be learnt, and the objective learns the prompt"
            raise unusable("mark in a learnt prompt", f"{what}; objective.nll_on_prompt: false leaves it out")
        yield fitted_preference(row, section.data, encoder, to_end=isinstance(section, RewardSection))


def fitted_preference(
    row: Preference, data: DataSection, encoder: RowEncoder, *, to_end: bool = False
) -> FittedPreference:
    """The prompt and its completions in tokens within the window, however many completions there are.

    `to_end`: as of `encoded_preference`. Raises UnusableError for a row that cannot be encoded.
    """
    prompt, completions = encoded_preference(row, encoder, to_end=to_end)
    return fit_preference(prompt, completions, data)


def encoded_preference(
    row: Preference, encoder: RowEncoder, *, to_end: bool = False
) -> tuple[TokenIds, list[TokenIds]]:
    """The ids of the prompt and of its completions. Raises UnusableError for a row that cannot be encoded.

    `to_end`: completions go on to the end of the dialogue, as the chat template writes it for a reward model to read.
    """
    with _as_row_fault():
        answers = [encoder.completion_of(answer, row.prompt, row.inputs) for answer in row.answers]
        if to_end:
            answers = [np.concatenate([answer, encoder.end_ids]) for answer in answers]
        return encoder.prompt(row.prompt, row.inputs), answers


def encoded_prompt(messages: Messages, encoder: RowEncoder) -> TokenIds:
    """The ids of a prompt, (n,). Raises UnusableError for one that cannot be encoded."""
    with _as_row_fault():
        return encoder.prompt(messages)


def example_name(row: Record, fitted: FittedDialogue | FittedPreference) -> str:
    """The name of the row; of a dialogue that is trained in several sequences, with the answers learnt in this one."""
    if isinstance(fitted, FittedPreference) or not fitted.answers:
        return row.name
    return f"{row.name} {'answer' if len(fitted.answers) == 1 else 'answers'} {', '.join(map(str, fitted.answers))}"


@contextmanager
def _as_row_fault() -> Iterator[None]:
    """Raise UnusableError in place of what the encoder raises about the texts of a row."""
    try:
        yield
    except (DataError, ModelError) as error:
        what = f"{error.where} {error.what}"
        # What differs between rows is in parentheses.
        raise unusable(what.partition(" (")[0], what) from error


@dataclass
class Tokenized:
    """Rows as examples, counted as they are made: what was truncated or dropped, and what the loss mask learns.

    A dialogue counts as one completion without a prompt. `refuse` is told of every row that cannot be encoded.
    """

    section: TrainingSection
    encoder: RowEncoder
    refuse: Callable[[Record, UnusableError], object]
    num_rows: int = 0
    num_examples: int = 0
    num_prompt_tokens: int = 0
    num_completions: int = 0
    num_scored: int = 0
    learnable: Learnable = field(default_factory=Learnable)
    truncation: TruncationReport = field(init=False)
    loss_mask: LossMaskStats | None = field(init=False)

    def __post_init__(self) -> None:
        self.truncation = TruncationReport(self.section.data)
        self.loss_mask = LossMaskStats(self.encoder.stop_ids) if isinstance(self.section, SftSection) else None

    @property
    def num_tokens(self) -> int:
        """Tokens of the examples; a prompt counts once, however many completions it has."""
        return self.truncation.tokens - self.truncation.tokens_lost

    def examples(self, rows: Iterable[Record]) -> Iterator[Example]:
        """The examples of the rows in their order; rows that cannot be used are counted alone."""
        for row in rows:
            self.num_rows += 1
            try:
                pieces = list(fitted_rows(row, self.section, self.encoder))
            except UnusableError as error:
                self.refuse(row, error)
                continue
            for fitted in pieces:
                if self.truncation.add(example_name(row, fitted), fitted.loss):
                    self.num_examples += 1
                    yield self._example(row, fitted)

    def _example(self, row: Record, fitted: FittedDialogue | FittedPreference) -> Example:
        if isinstance(fitted, FittedPreference):
            assert isinstance(row, Preference)
            self.num_prompt_tokens += len(fitted.prompt)
            self.num_completions += len(fitted.completions)
            self.num_scored += sum(map(len, fitted.completions))
            self.learnable.add_preference(row.name, fitted.prompt, fitted.completions, row.ratings)
            return Comparison(row.name, fitted.prompt, fitted.completions, row.ratings)
        if self.loss_mask is not None:
            self.loss_mask.add(fitted.encoded)
        self.num_completions += 1
        num_learned = int(fitted.encoded.scored.sum())
        self.learnable.add_dialogue(row.name, num_learned)
        self.num_scored += num_learned
        return Dialogue(example_name(row, fitted), fitted.encoded.ids, fitted.encoded.scored)

    def facts(self) -> dict[str, Plain]:
        """The counts as plain values."""
        rows = self.truncation.rows
        lost = f"{rows['cut']:,} cut, {rows['dropped'] + rows['unfit']:,} left out"
        facts: dict[str, Plain] = {"rows": rows.total(), "tokens": self.num_tokens, "truncation": lost}
        if self.loss_mask is not None:
            shares = self.loss_mask.shares()
            facts["learned"] = {role: round(share.value, 4) for role, share in shares.items()}
        if self.learnable.counts():
            facts["defects"] = dict(self.learnable.counts())
        return facts

    def check(self) -> None:
        """Check that no more was lost than the section allows, that the loss mask can be meant and a row teaches.

        Raises DataError.
        """
        self.truncation.check()
        if self.loss_mask is not None and isinstance(self.section, SftSection):
            self.loss_mask.check(loss_on=self.section.objective.loss_on)
        self.learnable.check()
