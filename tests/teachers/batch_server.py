"""A server for files and batches in a thread: it answers a batch after some looks at it, and can stumble on the way."""

import contextlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[dict], dict]


def echo(line: dict) -> dict:
    """A result for a line of a file: its last message."""
    message = {"role": "assistant", "content": f"echo {line['body']['messages'][-1]['content']}"}
    body = {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }
    return {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


class BatchServer:
    """What the server holds, and what it was asked."""

    def __init__(self, answer: Answer, *, looks: int, ends: str) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.asked: Counter[str] = Counter()
        self.stumbles: list[int] = []  # statuses of the next responses, instead of what was asked for
        self.is_lost = False  # the next batch is made, and its response lost
        self._answer = answer
        self._looks = looks
        self._ends = ends
        self.base_url = ""

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for a request."""
        path = path.partition("?")[0].removeprefix("/v1")
        self.asked[f"{method} {re.sub(r'(file|batch)-[0-9]+', 'ID', path)}"] += 1
        if self.stumbles:
            return self.stumbles.pop(0), b'{"error": {"message": "not now"}}'
        if (method, path) == ("POST", "/files"):
            return 200, self._keep(body)
        if (method, path) == ("POST", "/batches"):
            return self._make(json.loads(body))
        if path == "/batches":
            page = [*self.batches.values()][::-1]
            return 200, json.dumps({"object": "list", "data": page, "has_more": False}).encode()
        if path.startswith("/batches/"):
            return 200, json.dumps(self._looked_at(path.rpartition("/")[2])).encode()
        return 200, self.files[path.split("/")[2]]

    def _keep(self, body: bytes) -> bytes:
        name = f"file-{len(self.files)}"
        (content,) = re.findall(rb'name="file".*?\r\n\r\n(.*?)\r\n--', body, flags=re.DOTALL)
        self.files[name] = content
        made = {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
        return json.dumps(made | {"status": "processed"}).encode()

    def _make(self, asked: dict) -> tuple[int, bytes]:
        name = f"batch-{len(self.batches)}"
        batch = {"id": name, "object": "batch", "created_at": 1, "status": "in_progress", "looks": 0}
        self.batches[name] = batch | asked | {"request_counts": {"total": 1, "completed": 0, "failed": 0}}
        if self.is_lost:
            self.is_lost = False
            return 502, b"lost"
        return 200, json.dumps(self.batches[name]).encode()

    def _looked_at(self, name: str) -> dict:
        batch = self.batches[name]
        batch["looks"] += 1
        if batch["looks"] >= self._looks and batch["status"] == "in_progress":
            lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
            results = [json.dumps(result).encode() for line in lines if (result := self._answer(line))]
            output = f"file-{len(self.files)}"
            self.files[output] = b"\n".join(results)
            batch |= {"status": self._ends, "output_file_id": output}
            batch["request_counts"] = {"total": len(lines), "completed": len(results), "failed": 0}
            if self._ends == "failed":
                batch["errors"] = {"object": "list", "data": [{"code": "x", "message": "a line is too long"}]}
        return batch


@contextlib.contextmanager
def batch_server(answer: Answer = echo, *, looks: int = 2, ends: str = "completed") -> Iterator[BatchServer]:
    """A server whose batches end so after so many looks; a line without an answer gets no result."""
    held = BatchServer(answer, looks=looks, ends=ends)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, content = held.respond(self.command, self.path, body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve  # noqa: N815 - the names that the library looks for

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        held.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield held
        finally:
            server.shutdown()
            thread.join()
