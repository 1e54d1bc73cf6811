"""Requests, endpoints and answers for tests of teachers behind an address."""

from tests.teachers.hostile_server import Running, digest_of
from zephyr.recipe.teacher_section import EndpointSection
from zephyr.records.messages import Message
from zephyr.teachers.endpoint.address import Address
from zephyr.teachers.endpoint.retrying_call import Backoff
from zephyr.teachers.endpoint.teacher import EndpointTeacher
from zephyr.teachers.protocol import ChatRequest

KEY = "sk-a-key-that-must-not-be-seen"
CONCURRENCY = 16
SHORT_PAUSES = Backoff(0.01, 0.1)


def questions(count: int, *, start: int = 0) -> list[ChatRequest]:
    """Different requests."""
    return [
        ChatRequest(str(n), (Message("user", f"Question {n}?"),), max_tokens=20, seed=n)
        for n in range(start, start + count)
    ]


def digest(request: ChatRequest) -> str:
    """The name that the server gives a question."""
    return digest_of([{"role": message.role, "content": message.content} for message in request.messages])


def expected(request: ChatRequest) -> str:
    """What the server answers."""
    return f"echo {digest(request)}"


def address_at(base_url: str, **changes: object) -> Address:
    """An address with a key, and a section of short deadlines and many tries, but for the changes."""
    fields = {"concurrency": CONCURRENCY, "deadline_seconds": 2.0, "max_tries": 12, **changes}
    return Address(EndpointSection(base_url=base_url, model="echo", **fields), api_key=KEY)


def endpoint(server: Running, **changes: object) -> EndpointTeacher:
    """A teacher behind the server's address."""
    return EndpointTeacher(address_at(server.base_url, **changes), SHORT_PAUSES)
