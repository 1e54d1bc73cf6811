"""A conversation with a model in the terminal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from zephyr.data.encoding import DialogueEncoder
from zephyr.data.templates import TemplateSettings
from zephyr.models.loading import Loaded
from zephyr.models.sampling import Sampling
from zephyr.models.streaming import stream_answer
from zephyr.records.messages import Message

LEAVE = ("/exit", "/quit")
FORGET = "/new"


@dataclass
class Conversation:
    """A model, how it samples, and what has been said."""

    loaded: Loaded
    sampling: Sampling
    system: str = ""
    said: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The layout that the model was trained with stands in its tokenizer.
        self._encoder = DialogueEncoder(self.loaded.tokenizer, TemplateSettings(name="own"))
        self.forget()

    def forget(self) -> None:
        """Begin anew, with the system message alone."""
        self.said = [Message("system", self.system)] if self.system else []

    def answer(self, text: str) -> Iterator[str]:
        """The answer to the user's next message in pieces; both are remembered when it is whole."""
        asked = [*self.said, Message("user", text)]
        pieces = []
        for piece in stream_answer(
            self.loaded.model, self.loaded.tokenizer, self._encoder.prompt(asked).tolist(), self.sampling
        ):
            pieces.append(piece)
            yield piece
        self.said = [*asked, Message("assistant", "".join(pieces))]


def talk(conversation: Conversation, read: Callable[[], str | None], write: Callable[[str], None]) -> None:
    """Answer what `read` gives until it gives None or a word of farewell."""
    while (text := read()) is not None and text.strip() not in LEAVE:
        if text.strip() == FORGET:
            conversation.forget()
            write("(a new conversation)\n")
        elif text.strip():
            for piece in conversation.answer(text.strip()):
                write(piece)
            write("\n")
