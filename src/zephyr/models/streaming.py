"""An answer while it is written: transformers' own generation, piece by piece."""

from collections.abc import Generator, Sequence
from threading import Event, Thread

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from zephyr.models.generation import stop_ids_of
from zephyr.models.loading import plain_attention
from zephyr.models.tokenizers import Tokenizer
from zephyr.recipe.teacher_section import SamplingSection


class _Unwanted(StoppingCriteria):
    """Ends the writing before its next token once nobody reads on."""

    def __init__(self) -> None:
        self.event = Event()

    def __call__(self, input_ids: Tensor, _scores: object, **_kwargs: object) -> Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


def stream_answer(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    sampling: SamplingSection,
) -> Generator[str, None, None]:
    """The answer to `prompt` in pieces of text, sampled with torch's global random state.

    The stop ids of model and tokenizer end it. The model runs in a thread; closing the generator ends it within a
    token. Raises whatever error ends that thread.
    """
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = torch.tensor([list(prompt)], device=model.device)
    draws = sampling.temperature > 0
    model.set_attn_implementation(plain_attention(model))
    failures: list[BaseException] = []
    unwanted = _Unwanted()

    def write() -> None:
        try:
            model.generate(  # type: ignore[operator]  # transformers declares it untyped
                ids,
                attention_mask=torch.ones_like(ids),
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([unwanted]),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=draws,
                temperature=sampling.temperature if draws else None,
                top_k=sampling.top_k or None if draws else None,
                top_p=sampling.top_p if draws else None,
                eos_token_id=list(stop_ids_of(model, tokenizer)),
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that reads
            failures.append(error)
            streamer.end()  # type: ignore[no-untyped-call]

    writer = Thread(target=write, daemon=True)
    writer.start()
    try:
        yield from streamer
    finally:
        unwanted.event.set()
        writer.join()
    if failures:
        raise failures[0]
