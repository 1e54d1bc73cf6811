"""A reward model as a judge: a function of prompts and their answers, a number for each."""

from collections.abc import Sequence

import numpy as np

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.data.tokenize.examples import encoded_preference
from zephyr.models.batch_scoring import device_of, score_table
from zephyr.models.loading import check_token_ids, num_embeddings, placement
from zephyr.models.own_forward import NUM_COMPARED, proven_scorer
from zephyr.models.reward_model import load_reward_model, read_ids
from zephyr.models.scorer import ForestScorer
from zephyr.models.source import Source
from zephyr.models.tokenizers import load_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.fields import unusable
from zephyr.records.messages import Messages
from zephyr.records.rows import Preference
from zephyr.trees.forest import Ids, last_scored

TOKENS_TOGETHER = 8192  # that are scored together


class RewardJudge:
    """A reward model in memory, placed as `placement` says, with the chat template of its own tokenizer.

    It is proven on the first answers that it is given. Raises ModelError for a source that is none.
    """

    def __init__(self, source: Source, dtype: str | None = None) -> None:
        device, self.dtype = placement(dtype)
        self.model = load_reward_model(source, dtype=self.dtype, device=device)
        self.encoder = DialogueEncoder(load_tokenizer(source), ChatTemplateSection(name="own"))
        self.name = source.name
        self._scorer: ForestScorer | None = None

    def dialogues(self, prompt: Messages, answers: Messages) -> list[Ids]:
        """The whole dialogues of a prompt and each of its answers, in tokens.

        Raises UnusableError for what cannot be encoded, or is longer than the model's positions.
        """
        row = Preference("the prompt", prompt, (), ()).with_answers(answers)
        start, ends = encoded_preference(row, self.encoder, to_end=True)
        found = [np.concatenate([start, end]) for end in ends]
        longest, length = (
            getattr(self.model.config.get_text_config(), "max_position_embeddings", None),
            max(map(len, found)),
        )
        if longest is not None and length > longest:
            raise unusable("too long for the reward model", f"has {length:,} tokens, the model {longest:,} positions")
        return found

    def rewards(self, rows: Sequence[Sequence[Ids]]) -> list[list[float]]:
        """The rewards of whole dialogues (n,) in tokens, row by row; what those of a row begin with is computed once.

        Raises ModelError for ids that the model does not know, or if its own forward gives other rewards.
        """
        if not any(rows):
            return [[] for _ in rows]
        pad, known = self.model.config.get_text_config().pad_token_id, num_embeddings(self.model)
        read = [[read_ids(ids, pad) for ids in row] for row in rows]
        for ids in (ids for row in read for ids in row):
            check_token_ids(ids, known, self.name)
        if self._scorer is None:
            self._scorer = proven_scorer(self.model, [ids for row in read[:NUM_COMPARED] for ids in row])
        scored = [[last_scored([], ids) for ids in row] for row in read]
        max_tokens = max([TOKENS_TOGETHER, *(sum(map(len, row)) for row in read)])
        table = score_table(self._scorer, scored, max_tokens=max_tokens, device=device_of(self._scorer)).logps
        return [[float(value) for value in table[number, : len(row)]] for number, row in enumerate(read)]
