"""A conversation with a model in the terminal."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.models.loading import Loaded
from zephyr.models.streaming import stream_answer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message

LEAVE = ("/exit", "/quit")
FORGET = "/new"


class Speaker:
    """A model that answers conversations, in the layout it was trained with."""

    def __init__(self, loaded: Loaded, name: str = "") -> None:
        self.name = name
        self._loaded = loaded
        # That layout stands in its tokenizer.
        self._encoder = DialogueEncoder(loaded.tokenizer, ChatTemplateSection(name="own"))

    def answer(self, messages: Sequence[Message], sampling: SamplingSection) -> Generator[str, None, None]:
        """The answer in pieces; closing the generator stops the model."""
        model, tokenizer = self._loaded
        return stream_answer(model, tokenizer, self._encoder.prompt(messages).tolist(), sampling)

    def num_tokens(self, text: str) -> int:
        """How many tokens an answer has."""
        return len(self._loaded.tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass
class Conversation:
    """A model, its sampling, and the messages so far."""

    loaded: Loaded
    sampling: SamplingSection
    system: str = ""
    said: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._speaker = Speaker(self.loaded)
        self.forget()

    def forget(self) -> None:
        """Start a new conversation, with the system message alone."""
        self.said = [Message("system", self.system)] if self.system else []

    def answer(self, text: str) -> Generator[str, None, None]:
        """The answer to the user's next message in pieces; both become part of the conversation once it is complete."""
        asked = [*self.said, Message("user", text)]
        pieces = []
        for piece in self._speaker.answer(asked, self.sampling):
            pieces.append(piece)
            yield piece
        self.said = [*asked, Message("assistant", "".join(pieces))]


def talk(conversation: Conversation, read: Callable[[], str | None], write: Callable[[str], None]) -> None:
    """Answer what `read` returns until it returns None, /exit or /quit; Ctrl-C stops the current answer only."""
    while (text := read()) is not None and text.strip() not in LEAVE:
        if text.strip() == FORGET:
            conversation.forget()
            write("(a new conversation)\n")
        elif text.strip():
            _write_answer(conversation, text.strip(), write)


def _write_answer(conversation: Conversation, text: str, write: Callable[[str], None]) -> None:
    pieces = conversation.answer(text)
    try:
        for piece in pieces:
            write(piece)
        write("\n")
    except KeyboardInterrupt:
        write("\n(stopped; this question is forgotten)\n")
    finally:
        pieces.close()
