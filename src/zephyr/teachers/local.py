"""A teacher that is a model in this process: batched generation that computes shared prompts once.

The encoder between conversations and ids, and the loaded model, come from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from zephyr.models.generation import generated
from zephyr.models.sampling import Stopping
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Messages
from zephyr.teachers.protocol import ChatReply, ChatRequest, Encoder, prompt_ids, reply_of, thinks_first

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Requests that are sorted and batched together.
WINDOW_REQUESTS = 4096
# The most of an answer with its prompt, for a model that names no limit of its own.
_MAX_TOKENS = 65_536


class LocalTeacher:
    """Answers with a model in this process.

    An answer depends on its request alone (`seed` included), never on the other requests; batching changes logits in
    the last bits only. A conversation that `prompt_ids` cannot encode is answered by an error.
    `max_cache_tokens`: tokens of key-value cache that answers take together, None: by the device; a single one may
    need more.
    """

    def __init__(
        self, model: PreTrainedModel, encoder: Encoder, *, name: str, max_cache_tokens: int | None = None
    ) -> None:
        self.name = name
        self._model = model
        self._encoder = encoder
        self._max_cache_tokens = max_cache_tokens
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        most = max(max_cache_tokens or 0, _MAX_TOKENS)
        self._longest = min(longest or most, most)

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for every request, in order."""
        for start in range(0, len(requests), WINDOW_REQUESTS):
            made = dict(self._answer_window(requests[start : start + WINDOW_REQUESTS]))
            yield from (made[index] for index in range(len(made)))

    def answer_as_made(self, requests: Sequence[ChatRequest]) -> Iterator[tuple[int, ChatReply]]:
        """The same replies, each as soon as it is there, with the index of its request."""
        for start in range(0, len(requests), WINDOW_REQUESTS):
            for index, reply in self._answer_window(requests[start : start + WINDOW_REQUESTS]):
                yield start + index, reply

    def _answer_window(self, requests: Sequence[ChatRequest]) -> Iterator[tuple[int, ChatReply]]:
        encoded: dict[tuple[Messages, int], tuple[list[int], str]] = {}
        batches: dict[SamplingSection, list[int]] = {}
        prompt_of: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            wanted = (request.messages, request.max_tokens)
            if wanted not in encoded:
                encoded[wanted] = prompt_ids(self._encoder, request, self._longest)
            prompt_of[index], problem = encoded[wanted]
            if problem:
                yield index, ChatReply(request.key, "", "error", problem, len(prompt_of[index]))
            else:
                batches.setdefault(self._sampling(request), []).append(index)
        for sampling, indices in batches.items():
            prompts = [prompt_of[index] for index in indices]
            longest = max(map(len, prompts)) + sampling.max_new_tokens
            completions = generated(
                self._model,
                prompts,
                sampling,
                stop=Stopping(self._encoder.stop_ids),
                seed=[requests[index].seed for index in indices],
                max_cache_tokens=None if self._max_cache_tokens is None else max(self._max_cache_tokens, longest),
            )
            for completion in completions:
                index, prompt = indices[completion.prompt_index], prompts[completion.prompt_index]
                text, thinks = self._encoder.text_of(completion.ids), thinks_first(self._encoder, prompt)
                reply = reply_of(requests[index].key, text, completion.finish_reason, thinks_first=thinks)
                yield index, reply._replace(prompt_tokens=len(prompt), completion_tokens=len(completion.ids))

    @staticmethod
    def _sampling(request: ChatRequest) -> SamplingSection:
        return SamplingSection(
            max_new_tokens=request.max_tokens,
            temperature=request.temperature,
            top_k=request.top_k or 0,
            top_p=request.top_p,
        )
