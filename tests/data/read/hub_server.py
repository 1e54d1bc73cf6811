"""A stand-in of the Hugging Face hub on loopback: one data set, as much of the hub's API as the libraries ask for.

Run as a program it prints its port, and on stderr the path of every file of rows that is read.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

NAME = "owner/chats"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS_PER_FILE = 50
FILES = {
    f"data/train-0000{part}-of-00002.jsonl": b"".join(
        json.dumps({"prompt": str(number), "completion": "yes"}).encode() + b"\n"
        for number in range(part * ROWS_PER_FILE, (part + 1) * ROWS_PER_FILE)
    )
    for part in range(2)
}
DATA_FOLDER = {"type": "directory", "path": "data", "oid": "b" * 40, "size": 0}


class Hub(BaseHTTPRequestHandler):
    """Answers about the data set; all else is not found."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        """Say nothing of requests."""

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer with a description, a list of files or a file."""
        path = unquote(self.path.partition("?")[0])
        if re.fullmatch(rf"/api/datasets/{NAME}(/revision/\w+)?", path):
            siblings = [{"rfilename": name} for name in FILES]
            self._send_json({"id": NAME, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
        elif found := re.fullmatch(rf"/api/datasets/{NAME}/tree/\w+(/data)?", path):
            files = [{"type": "file", "path": name, "size": len(text), "oid": "a" * 40} for name, text in FILES.items()]
            self._send_json(files if found[1] else [DATA_FOLDER])
        elif (found := re.fullmatch(rf"/datasets/{NAME}/resolve/\w+/(.+)", path)) and found[1] in FILES:
            self._send_file(found[1])
        else:
            self._send(b"{}", 404, {"X-Error-Code": "EntryNotFound"})

    def _send_file(self, name: str) -> None:
        content, headers = FILES[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"', "Accept-Ranges": "bytes"}
        if self.command == "GET":
            sys.stderr.write(f"{name}\n")
            sys.stderr.flush()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self._send(content, 200, headers)
            return
        start, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
        self._send(content[start : last + 1], 206, headers)

    def _send_json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def _send(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_port, flush=True)
    server.serve_forever()
