"""An answer while it is written: transformers' own generation, piece by piece."""

from collections.abc import Iterator, Sequence
from threading import Thread

import torch
from transformers import PreTrainedModel, TextIteratorStreamer

from zephyr.models.generation import stop_ids_of
from zephyr.models.loading import Tokenizer, plain_attention
from zephyr.models.sampling import Sampling


def stream_answer(
    model: PreTrainedModel, tokenizer: Tokenizer, prompt: Sequence[int], sampling: Sampling
) -> Iterator[str]:
    """The answer to `prompt` in pieces of text, sampled with torch's own random state."""
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = torch.tensor([list(prompt)], device=model.device)
    draws = sampling.temperature > 0
    model.set_attn_implementation(plain_attention(model))
    failures: list[BaseException] = []

    def write() -> None:
        try:
            model.generate(  # type: ignore[operator]  # transformers declares it untyped
                ids,
                attention_mask=torch.ones_like(ids),
                streamer=streamer,
                max_new_tokens=sampling.max_new_tokens,
                do_sample=draws,
                temperature=sampling.temperature if draws else None,
                top_k=sampling.top_k if draws else None,
                top_p=sampling.top_p if draws else None,
                eos_token_id=list(sampling.stop_ids or stop_ids_of(model, tokenizer)),
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that reads
            failures.append(error)
            streamer.end()  # type: ignore[no-untyped-call]

    writer = Thread(target=write, daemon=True)
    writer.start()
    yield from streamer
    writer.join()
    if failures:
        raise failures[0]
