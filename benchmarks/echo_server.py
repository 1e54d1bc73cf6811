"""A chat server that answers at once, or after a fixed time, as fast as plain asyncio can; for `ledger_load.py`."""

import argparse
import asyncio
import json

LENGTH = b"content-length:"


def completion(text: str) -> bytes:
    """A whole response with this answer."""
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "echo",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
        }
    ).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Echo(asyncio.Protocol):
    """One connection: answers the text of the last message."""

    def __init__(self, delay: float, late: float = 0.0) -> None:
        self._delay = delay
        self._late = late
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the new connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self._received += data
        while (request := self._whole_request()) is not None:
            response = completion(json.loads(request)["messages"][-1]["content"])
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._transport.write, response)
            else:
                self._transport.write(response)
            if self._late:
                asyncio.get_running_loop().call_later(self._late, self._transport.write, completion("a late answer"))

    def _whole_request(self) -> bytes | None:
        """The body of the next request, once all of it is here."""
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        (length,) = (int(line[len(LENGTH) :]) for line in head.lower().split(b"\r\n") if line.startswith(LENGTH))
        if len(rest) < length:
            return None
        self._received = rest[length:]
        return rest[:length]


async def serve(delay: float, late: float) -> None:
    """Print the port, and serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(lambda: Echo(delay, late), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--late", type=float, default=0.0, help="seconds until a second response that nobody asked for")
    given = parser.parse_args()
    asyncio.run(serve(given.delay, given.late))
