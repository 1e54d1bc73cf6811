"""The model's results in transformers: the texts, ids, continuations and logits that a file must reproduce.

The probes are the model's own answers to a few conversations, greedy and sampled, and texts on which tokenizers
differ.
"""

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from zephyr.data.tokenize.jinja_rendering import JinjaTemplate
from zephyr.deliver.gguf.file import Header
from zephyr.deliver.gguf.libraries import Scores
from zephyr.deliver.gguf.proof import Reference, RenderedChat, TextIds, surprise
from zephyr.deliver.gguf.vocabulary import Vocabulary
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


def make_reference(loaded: Loaded, header: Header) -> Reference:
    """The reference of a model for a file with this header."""
    model, tokenizer = loaded
    made = ((conversation, render(tokenizer, conversation)) for conversation in CONVERSATIONS)
    rendered = [(conversation, text) for conversation, text in made if text]
    texts = [text for _, text in rendered] or list(PROBE_TEXTS[:4])
    prompts = [ids_of(tokenizer, text) for text in texts]
    stop = Stopping(stop_ids_of(model, tokenizer))
    greedy, drawn = (
        [[*map(int, completion.ids)] for completion in generate(model, prompts, sampling, stop=stop)]
        for sampling in (GREEDY, DRAWN)
    )
    sequences = [ids + more for ids, more in zip(prompts * 2, (*greedy, *drawn), strict=True)]
    logits = [_logits(loaded, ids) for ids in sequences]
    start = len(greedy)
    losses = [
        surprise(scores, ids, len(prompt))
        for prompt, ids, scores in zip(prompts, sequences[start:], logits[start:], strict=True)
    ]
    tokens, specials = header.vocabulary.tokens, header.vocabulary.specials
    eos, bos = (tokens[token] if (token := specials.get(end)) is not None else "" for end in ("eos", "bos"))
    space = " " * header.leading_space
    return Reference(
        template=header.template,
        bos=bos,
        eos=eos,
        rendered=tuple(
            RenderedChat(tuple({"role": one.role, "content": one.content} for one in conversation), space + text)
            for conversation, text in rendered
        ),
        tokenized=(
            *(TextIds(space + text, ids) for text, ids in zip(texts, prompts, strict=True)),
            *_tokenized(tokenizer, header.vocabulary),
        ),
        prompts=tuple(prompts),
        greedy=tuple(greedy),
        sequences=tuple(sequences),
        logits=tuple(logits),
        perplexity=float(np.exp(np.concatenate(losses).mean())),
    )


def ids_of(tokenizer: Tokenizer, text: str, *, special: bool = True, add: bool = False) -> list[int]:
    """The ids of a text; with `special`, the texts of control tokens in it become those; with `add`, bos is added."""
    return list(tokenizer.encode(text, add_special_tokens=add, split_special_tokens=not special))


def _tokenized(tokenizer: Tokenizer, vocabulary: Vocabulary) -> Iterator[TextIds]:
    """Texts after a control token, at the start, and with control tokens taken as plain text."""
    control = str(tokenizer.bos_token or tokenizer.eos_token)
    for text in (*PROBE_TEXTS, *(f"say {token} now{token}" for token in map(str, tokenizer.all_special_tokens))):
        given = unicodedata.normalize("NFC", text) if vocabulary.composes else text
        # What the tokenizer puts before a text, llama.cpp may have to be given.
        begun = " " + given if vocabulary.leading_space and not given.startswith(" ") else given
        yield TextIds(control + given, ids_of(tokenizer, control + text))
        yield TextIds(begun, ids_of(tokenizer, text, add=True), add=True)
        yield TextIds(begun, ids_of(tokenizer, text, special=False), special=False)


def _logits(loaded: Loaded, ids: list[int]) -> Scores:
    with torch.no_grad():
        scores = loaded.model(input_ids=torch.tensor([ids], device=loaded.model.device), use_cache=False).logits
    array: Scores = scores[0].float().cpu().numpy()
    return array


def render(tokenizer: Tokenizer, conversation: Sequence[Message]) -> str:
    """What the model's template makes of a conversation, up to the next answer; empty if it has none or refuses it."""
    if not tokenizer.chat_template:
        return ""
    try:
        return JinjaTemplate(tokenizer).render(conversation, generation=True)
    except DataError:
        return ""
