"""How far a policy has drifted: how long and how varied its answers are, and how far it is from where it began."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.examples import encoded_preference
from zephyr.models.batch_scoring import device_of, score_table
from zephyr.models.loading import load_to_score
from zephyr.models.own_forward import NUM_COMPARED, proven_scorer
from zephyr.models.source import Source
from zephyr.records.fields import UnusableError
from zephyr.records.rows import Preference, Rated
from zephyr.trees.forest import ScoredSequence, completion_scored

SCORED_PROMPTS = 64
_MAX_TOKENS = 8192  # that are scored together


class AnswerStatistics(NamedTuple):
    """AnswerStatistics of a policy: their number, words in one on average, and the share of distinct pairs of words.

    Distinct-2 as in arXiv 1510.03055, over the answers together.
    """

    num_answers: int
    words: float
    distinct: float


def answer_statistics(rows: Sequence[Rated], model: str) -> AnswerStatistics:
    """What the answers of one of the models in these rows are like; all is 0 where it has none."""
    words = [answer.text.split() for row in rows for answer in row.answers if answer.model == model]
    pairs = [pair for one in words for pair in pairwise(one)]
    if not words:
        return AnswerStatistics(0, 0.0, 0.0)
    return AnswerStatistics(len(words), sum(map(len, words)) / len(words), len(set(pairs)) / max(1, len(pairs)))


def divergence(
    rows: Sequence[Rated],
    model: str,
    policy: Source,
    first: Source,
    encoder: DialogueEncoder,
    *,
    dtype: str | None = None,
) -> float:
    """The mean over the policy's answers of its log-prob minus that of the first model, in nats an answer.

    An estimate of the KL divergence from the first model, as the answers are drawn from the policy; 0 where no answer
    can be encoded. Raises ModelError for a model that cannot be loaded.
    """
    sequences = [one for row in rows[:SCORED_PROMPTS] if (one := _scored(row, model, encoder))]
    if not sequences:
        return 0.0
    totals = []
    for source in (policy, first):
        scorer = proven_scorer(load_to_score(source, dtype), [one.ids for one in sequences[0]][:NUM_COMPARED])
        table = score_table(scorer, sequences, max_tokens=_MAX_TOKENS, device=device_of(scorer))
        totals.append(float(table.logps.sum()))
    return (totals[0] - totals[1]) / sum(map(len, sequences))


def _scored(row: Rated, model: str, encoder: DialogueEncoder) -> list[ScoredSequence]:
    """The model's answers behind their prompt, to be scored; none where they cannot be encoded."""
    texts = tuple(answer.text for answer in row.answers if answer.model == model)
    try:
        prompt, answers = encoded_preference(Preference(row.name, row.prompt, texts, ()), encoder)
    except UnusableError:
        return []
    return [completion_scored(prompt, answer) for answer in answers]
