"""Guesses of what a greedy sample says next, from what it has said before, so that a step may write several tokens.

Where its last tokens stood before, what followed them then is guessed to follow again. The guesses are computed beside
the newest token, and one is kept where it is the token that is drawn anyway: the text stays what it is. Answers that
quote their prompt, keep to a form or go round in circles take fewer steps. Source: A. Saxena, Prompt Lookup Decoding
(2023); `prompt_lookup_num_tokens` of transformers.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from zephyr.models.few_rows import has_amx
from zephyr.models.samples import Sample

# So many tokens must have stood before, and so many more are guessed at most.
MATCHED, MOST_GUESSED = 3, 7
# Tokens of a step up to which more of them hardly take longer: reading weights and cache does. On a CPU in float32 that
# is so for few alone.
WIDE_STEP, NARROW_STEP = 256, 16


def step_width(model: PreTrainedModel) -> int:
    """How many tokens a step of decoding computes before a token that is only guessed costs as much as another step."""
    is_fast = model.device.type != "cpu" or (has_amx() and model.dtype == torch.bfloat16)
    return WIDE_STEP if is_fast else NARROW_STEP


class Lookup:
    """Where the last tokens of a sample stood before, in its prompt or in what it has written."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._extend(sample.prompt)
        self._num_prompt = len(self._ids)

    def guess(self) -> list[int]:
        """The next tokens, if they go on as before: as many as may be guessed, or none where nothing stood before."""
        sample = self._sample
        self._extend(sample.written[len(self._ids) - self._num_prompt :])
        place = self._after.get(tuple(self._ids[-MATCHED:]))
        if place is None:
            return []
        # The last of the answer's tokens needs no guess: it is drawn behind the one before.
        count = min(MOST_GUESSED, sample.rules.sampling.max_new_tokens - len(sample.written) - 1)
        period = len(self._ids) - place  # what is repeated may be shorter than what is guessed
        return [self._ids[place + number % period] for number in range(count)]

    def _extend(self, ids: Sequence[int]) -> None:
        for token in ids:
            if len(self._ids) >= MATCHED:
                self._after[tuple(self._ids[-MATCHED:])] = len(self._ids)
            self._ids.append(token)
