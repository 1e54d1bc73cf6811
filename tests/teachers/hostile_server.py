"""A chat server with every fault a server can have, drawn by chance or set; it counts what it did.

Run as a program it prints its port and serves until it is ended. `GET /log` gives what happened to which question.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FAULTS = (
    "429",
    "429 no hint",
    "500",
    "503",
    "stall",
    "reset before",
    "reset midway",
    "truncated json",
    "wrong schema",
    "empty choices",
    "null content",
    "two choices",
    "sent twice",
    "html",
)


def twice_chosen(answer: dict) -> bytes:
    """The answer with its choice two times over."""
    return json.dumps(answer | {"choices": answer["choices"] * 2}).encode()


# What stands in a response of status 200 instead of what should.
BODIES = {
    "truncated json": lambda content: content[: len(content) // 2],
    "wrong schema": lambda _: b'{"choices": {"text": 3}}',
    "empty choices": lambda _: b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}',
    "null content": lambda _: b'{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}',
    "two choices": lambda content: json.dumps(
        json.loads(content) | {"choices": json.loads(content)["choices"] * 2}
    ).encode(),
    "html": lambda _: b"<html>come back later</html>",
}
# With these the client has its answer all the same.
HARMLESS = ("two choices", "sent twice")
STALL_SECONDS = 30.0


def digest_of(messages: list[dict[str, str]]) -> str:
    """The name of a question, which is in its answer too."""
    return hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:16]


class Event(NamedTuple):
    """A question that came, and what it got."""

    at: float
    digest: str
    outcome: str


class HostileServer:
    """Answers `echo DIGEST`, or fails in a way that is drawn for every request."""

    def __init__(self, faults: list[str], share: float, seed: int, delay: float) -> None:
        self.events: list[Event] = []
        self.bodies: list[dict] = []
        self._faults = faults
        self._share = share
        self._delay = delay
        self._dice = random.Random(seed)

    async def serve(self, port: int) -> None:
        """Nothing; runs until it is cancelled."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", port)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = next(
            (int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length:")), 0
        )
        body = await reader.readexactly(length)
        if head.startswith("GET /log"):
            self._send(writer, 200, json.dumps(self.events).encode())
        elif "/chat/completions" not in head:
            self._send(writer, 404, b'{"error": {"message": "no such place"}}')
        else:
            return await self._complete(head, json.loads(body), writer)
        await writer.drain()
        return True

    async def _complete(self, head: str, request: dict, writer: asyncio.StreamWriter) -> bool:
        digest = digest_of(request["messages"])
        fault = self._dice.choice(self._faults) if self._dice.random() < self._share else "none"
        if self._delay:
            await asyncio.sleep(self._delay)
        # Noted before it is sent: what the client has got, the server has counted.
        self.events.append(Event(time.time(), digest, fault))
        content = json.dumps(self._completion(request, digest)).encode()
        return await self._fail(fault, content, writer, head)

    async def _fail(self, fault: str, content: bytes, writer: asyncio.StreamWriter, head: str) -> bool:
        """Whether the connection goes on after this answer."""
        if fault == "stall":
            await asyncio.sleep(STALL_SECONDS)
        elif fault == "reset midway":
            writer.write(_response(200, content)[:-20])
        elif fault == "sent twice":
            # At once: what comes after the next request has gone out cannot be told from its response.
            writer.write(_response(200, content) * 2)
        elif fault in BODIES:
            self._send(writer, 200, BODIES[fault](content))
        elif fault[:3].isdigit():
            key = next((line for line in head.splitlines() if line.lower().startswith("authorization")), "")
            message = json.dumps({"error": {"message": f"{fault}; you sent {key}"}}).encode()
            hint = f"retry-after-ms: {self._dice.randint(1, 40)}\r\n" if fault == "429" else ""
            self._send(writer, int(fault[:3]), message, hint)
        elif fault == "none":
            self._send(writer, 200, content)
        await writer.drain()
        return fault not in ("stall", "reset before", "reset midway")

    def _completion(self, request: dict, digest: str) -> dict:
        words = sum(len(message["content"].split()) for message in request["messages"])
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": request["model"],
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": f"echo {digest}"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": words, "completion_tokens": 2, "total_tokens": words + 2},
        }

    def _send(self, writer: asyncio.StreamWriter, status: int, body: bytes, headers: str = "") -> None:
        writer.write(_response(status, body, headers))


def _response(status: int, body: bytes, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Running(NamedTuple):
    """A server in a process of its own."""

    base_url: str
    process: subprocess.Popen

    def events(self) -> list[Event]:
        """All questions that came so far."""
        with urllib.request.urlopen(self.base_url.replace("/v1", "/log")) as response:
            return [Event(*event) for event in json.load(response)]


@contextlib.contextmanager
def running_server(*, faults: tuple[str, ...] = FAULTS, share: float = 0.0, delay: float = 0.0) -> Iterator[Running]:
    """A server that fails so often, in one of these ways."""
    words = [sys.executable, str(Path(__file__)), "--faults", ",".join(faults), "--share", str(share)]
    with subprocess.Popen([*words, "--delay", str(delay)], stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            yield Running(f"http://127.0.0.1:{port}/v1", process)
        finally:
            process.kill()


def main() -> None:
    """Nothing; serves until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--share", type=float, default=0.0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    server = HostileServer(asked.faults.split(","), asked.share, asked.seed, asked.delay)
    asyncio.run(server.serve(asked.port))


if __name__ == "__main__":
    main()
