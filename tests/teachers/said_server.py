"""A chat server in this process that answers as a function says, and remembers what it was asked."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


class Asked(NamedTuple):
    path: str
    headers: dict[str, str]
    body: dict


class Said(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


def answer(content: object = "Yes.", finish: object = "stop", usage: object = USAGE, **message: object) -> Said:
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    return Said(200, json.dumps({"choices": [choice], "usage": usage}).encode())


def refusal(status: int, message: object, **headers: str) -> Said:
    return Said(status, json.dumps({"error": message}).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


@contextlib.contextmanager
def said_server(say: Callable[[Asked], Said]) -> Iterator[tuple[str, list[Asked]]]:
    """The address of a server, and what it was asked so far."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_words: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            one = Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            asked.append(one)
            said = say(one)
            self.send_response(said.status)
            for name, value in {"content-type": "application/json", **said.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(said.body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(said.body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
