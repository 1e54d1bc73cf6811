"""Teachers for tests: they answer by a function and remember what they were asked."""

from collections.abc import Callable, Iterator, Sequence

from zephyr.teachers.protocol import ChatReply, ChatRequest


class RecordedTeacher:
    """Answers each request with what `reply` gives: a text, or a whole reply."""

    def __init__(self, reply: Callable[[ChatRequest], str | ChatReply], *, name: str = "recorded") -> None:
        self.name = name
        self.reply = reply
        self.asked: list[ChatRequest] = []

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        for request in requests:
            self.asked.append(request)
            answer = self.reply(request)
            yield ChatReply(request.key, answer, "stop") if isinstance(answer, str) else answer


def failed(request: ChatRequest) -> ChatReply:
    return ChatReply(request.key, "", "error", error="503")


def cut_off(request: ChatRequest, text: str) -> ChatReply:
    return ChatReply(request.key, text, "length")
