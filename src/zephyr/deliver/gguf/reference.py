"""The model's results in transformers: the texts, ids, continuations and logits that a file must reproduce.

The probes are the model's own answers to a few conversations, greedy and sampled, and texts on which tokenizers
differ.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from zephyr.data.tokenize.jinja_rendering import JinjaTemplate
from zephyr.deliver.gguf.libraries import Scores
from zephyr.errors import DataError
from zephyr.models.generation import generate, stop_ids_of
from zephyr.models.loading import Loaded
from zephyr.models.sampling import Stopping
from zephyr.models.tokenizers import Tokenizer
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message

GREEDY = SamplingSection(max_new_tokens=32, temperature=0.0)
DRAWN = SamplingSection(max_new_tokens=64, temperature=1.0, top_k=0, top_p=1.0)
SEED = 0
CONVERSATIONS = (
    (Message("user", "What is the capital of France?"),),
    (Message("user", "Name three animals,\nand give\n\n- their colour\n- 1234567890 of them"),),
    (
        Message("user", "  Hi!  "),
        Message("assistant", "Hello, what can I do for you?"),
        Message("user", "Spell naïve, 東京 and 🙂."),
    ),
    (Message("system", "You answer in short sentences."), Message("user", "Why is the sky blue?")),
)
PROBE_TEXTS = (
    "a",
    "Hello world",
    " leading space",
    "trailing space ",
    "two  spaces,   three,\ttab",
    "one\ntwo\n\nthree\r\nfour\n",
    "\n",
    "3.14159 1,234,567 2026-01-31 0x1F",
    "x  12   3\t4 5",
    "don't, I'LL, we've, x==y && z!=0; f(x)[i] {a: 'b'}",
    "naïve café Zoë ÆØÅ ﬁ ½ ²",
    "Привет, мир! Γειά σου Κόσμε",  # noqa: RUF001
    "東京は日本の首都です。你好，世界！ 안녕하세요",  # noqa: RUF001
    "مرحبا بالعالم שלום हिन्दी ไทย",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\u00a0\ufeff",
    "\x00\x01\x7f",
    "<|user|>\nHi\n<|assistant|>\n",
)


class Probe(NamedTuple):
    """A text, and its ids in transformers without added special tokens."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Reference:
    """What a file must reproduce. `sequences` are prompts with the model's answers: `greedy` first, then sampled."""

    prompts: tuple[Probe, ...]  # rendered conversations; plain texts for a model without a chat template
    rendered: tuple[tuple[tuple[Message, ...], str], ...]
    greedy: tuple[list[int], ...]
    sequences: tuple[list[int], ...]
    logits: tuple[Scores, ...]  # (n, V) of every sequence
    perplexity: float  # of what was drawn

    @property
    def drawn(self) -> Iterator[tuple[list[int], Scores, int]]:
        """The drawn sequences with their logits, and how many of their tokens are prompt."""
        start = len(self.greedy)
        for prompt, ids, logits in zip(self.prompts, self.sequences[start:], self.logits[start:], strict=True):
            yield ids, logits, len(prompt.ids)


def make_reference(loaded: Loaded) -> Reference:
    """The reference of a model."""
    model, tokenizer = loaded
    made = ((conversation, render(tokenizer, conversation)) for conversation in CONVERSATIONS)
    rendered = tuple((conversation, text) for conversation, text in made if text)
    texts = [text for _, text in rendered] or list(PROBE_TEXTS[:4])
    prompts = tuple(Probe(text, ids_of(tokenizer, text)) for text in texts)
    stop_ids = stop_ids_of(model, tokenizer)
    given = [prompt.ids for prompt in prompts]
    greedy, drawn = (
        [completion.ids for completion in generate(model, given, sampling, stop=Stopping(stop_ids))]
        for sampling in (GREEDY, DRAWN)
    )
    said = [[*map(int, ids)] for ids in (*greedy, *drawn)]
    sequences = tuple(ids + more for ids, more in zip(given * 2, said, strict=True))
    logits = []
    for ids in sequences:
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
        logits.append(scores[0].float().cpu().numpy())
    reference = Reference(prompts, rendered, tuple(said[: len(given)]), sequences, tuple(logits), 0.0)
    losses = np.concatenate([surprise(scores, ids, start) for ids, scores, start in reference.drawn])
    return replace(reference, perplexity=float(np.exp(losses.mean())))


def ids_of(tokenizer: Tokenizer, text: str, *, special: bool = True, add: bool = False) -> list[int]:
    """The ids of a text; with `special`, the texts of control tokens in it become those; with `add`, bos is added."""
    return list(tokenizer.encode(text, add_special_tokens=add, split_special_tokens=not special))


def surprise(logits: Scores, ids: Sequence[int], start: int) -> Scores:
    """The negative log-probabilities of `ids` from `start` on, whose `logits` (n, V) stand one place before."""
    before, wanted = logits[start - 1 : len(ids) - 1], np.asarray(ids[start:])
    losses: Scores = -log_probs(before)[np.arange(len(wanted)), wanted]
    return losses


def log_probs(logits: Scores) -> Scores:
    """The log-softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Scores = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def render(tokenizer: Tokenizer, conversation: Sequence[Message]) -> str:
    """What the model's template makes of a conversation, up to the next answer; empty if it has none or refuses it."""
    if not tokenizer.chat_template:
        return ""
    try:
        return JinjaTemplate(tokenizer).render(conversation, generation=True)
    except DataError:
        return ""
