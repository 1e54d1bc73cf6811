"""Dialogues for the tests of templates and encoding, and tokenizers that have the tokens of every template."""

from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from zephyr.data.tokenize.templates import LAYOUTS
from zephyr.models.tiny import tiny_tokenizer
from zephyr.records.messages import Message, Messages

ORDINARY = (
    Message("system", "You are a happy chatbot"),
    Message("user", "Hello!"),
    Message("assistant", "Bonjour!"),
    Message("user", "How are you?"),
)
ANSWER = "I am doing well, thanks!"

# What a text may say that a control token or a marker says too.
TRAPS = "</s>", "<s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|user|>\n", "<|assistant|>\n", "\n", " ", "é", "😀"
_CONTENTS = st.lists(st.one_of(st.sampled_from(TRAPS), st.text(max_size=6)), min_size=1, max_size=4).map("".join)


@st.composite
def prompts(draw: st.DrawFn, contents: st.SearchStrategy[str] = _CONTENTS) -> Messages:
    """Messages that wait for an answer, whatever they say."""
    system = draw(st.lists(st.one_of(st.just(""), contents), max_size=1))
    turns = draw(st.lists(contents, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1))
    spoken = [Message("assistant" if place % 2 else "user", text) for place, text in enumerate(turns)]
    return (*(Message("system", text) for text in system), *spoken)


def answers(contents: st.SearchStrategy[str] = _CONTENTS) -> st.SearchStrategy[Message]:
    return contents.map(lambda text: Message("assistant", text))


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with the control tokens of all layouts."""
    tokenizer = tiny_tokenizer()
    controls = sorted({control for layout in LAYOUTS.values() for control in layout.controls})
    tokenizer.add_special_tokens({"extra_special_tokens": controls})
    return tokenizer


def plain_dicts(messages: Messages) -> list[dict[str, str]]:
    return [dict(message._asdict()) for message in messages]
