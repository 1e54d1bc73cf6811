"""Requests, settings and answers for tests of teachers behind an address."""

from tests.teachers.hostile_server import Running, digest_of
from zephyr.records.messages import Message
from zephyr.teachers.endpoint.address import Address
from zephyr.teachers.endpoint.retries import Backoff
from zephyr.teachers.endpoint.retrying_call import CallSettings
from zephyr.teachers.protocol import ChatRequest

KEY = "sk-a-key-that-must-not-be-seen"


def questions(count: int, *, start: int = 0) -> list[ChatRequest]:
    """Different requests."""
    return [
        ChatRequest(str(n), (Message("user", f"Question {n}?"),), max_tokens=20, seed=n)
        for n in range(start, start + count)
    ]


def expected(request: ChatRequest) -> str:
    """What the server answers."""
    return f"echo {digest_of([message._asdict() for message in request.messages])}"


def address(server: Running) -> Address:
    """Where the server is."""
    return Address(server.base_url, "echo", api_key=KEY)


QUICK = CallSettings(concurrency=16, deadline_seconds=2.0, backoff=Backoff(0.01, 0.1), max_tries=12)
