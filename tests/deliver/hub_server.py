"""A stand-in of the Hugging Face hub's HTTP API on loopback, as far as its client uses it to push and fetch.

Its answers have the shapes of the real one's: repositories, the mode of every file, the LFS batch, commits as lines of
JSON, files with a commit and an ETag. `refuse` makes requests fail as the hub makes them.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "a" * 34
LARGE = (".safetensors", ".parquet", ".gguf", ".npy", ".sqlite")


class Hub:
    """What the hub holds: repositories by kind and name, large files by their hash, and what it was asked."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}  # status by a part of the path
        self.address = ""

    def files(self, name: str, kind: str = "model") -> dict[str, bytes]:
        """The files of a repository."""
        return self.repos[kind, name]["files"]

    def sent(self, method: str) -> list[str]:
        """The paths of all requests of a method."""
        return [path for verb, path in self.requests if verb == method]

    def commit(self, repo: dict, lines: list[dict]) -> str:
        """The hash of a commit of these operations."""
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                repo["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo["files"][value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del repo["files"][value["path"]]
        repo["commits"].append(lines[0]["value"]["summary"])
        repo["sha"] = hashlib.sha1(json.dumps(lines).encode()).hexdigest()
        return repo["sha"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: object = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _handled(self) -> None:
        self.hub.requests.append((self.command, self.path))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        path = self.path.partition("?")[0]
        status = next((status for part, status in self.hub.refuse.items() if part in self.path), None)
        if status is not None:
            return self._answer(status, {"error": "refused by the test"}, X_Error_Message="refused by the test")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and not path.startswith("/lfs/"):
            return self._answer(401, {"error": "Invalid username or password."})
        for pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                return answer(self, body, *found.groups())
        return self._answer(404, {"error": f"no route {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = _handled  # noqa: N815

    def _chunks(self) -> bytes:
        """A body that is sent in chunks, as the client sends commits."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        kind, name = asked.get("type", "model"), f"{asked.get('organization', 'me')}/{asked['name']}"
        prefix = "" if kind == "model" else f"{kind}s/"
        url = f"{self.hub.address}/{prefix}{name}"
        if (kind, name) in self.hub.repos:
            return self._answer(409, {"error": "You already created this repo", "url": url})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repos[kind, name] = {"private": bool(private), "files": {}, "commits": [], "sha": "0" * 40}
        return self._answer(200, {"url": url, "name": name, "id": name})

    def _found(self, kind: str | None, name: str) -> dict | None:
        repo = self.hub.repos.get(((kind or "models").rstrip("/").removesuffix("s"), name))
        if repo is None:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return repo

    def _info(self, _: bytes, kind: str, name: str) -> None:
        repo = self._found(kind, name)
        if repo is not None:
            siblings = [{"rfilename": file} for file in repo["files"]]
            facts = {"id": name, "private": repo["private"], "sha": repo["sha"], "siblings": siblings}
            self._answer(
                200, {**facts, "tags": [], "downloads": 0, "likes": 0, "lastModified": "2026-11-30T00:00:00.000Z"}
            )

    def _tree(self, _: bytes, kind: str, name: str) -> None:
        repo = self._found(kind, name)
        if repo is not None:
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in repo["files"].items()
            ]
            self._answer(200, entries)

    def _preupload(self, body: bytes, kind: str, name: str) -> None:
        repo = self._found(kind, name)
        if repo is None:
            return
        files = []
        for one in json.loads(body)["files"]:
            there = repo["files"].get(one["path"])
            is_large = one["path"].endswith(LARGE)
            if there is None:
                oid = None
            elif is_large:
                oid = hashlib.sha256(there).hexdigest()
            else:
                oid = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
            mode = "lfs" if is_large else "regular"
            files.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": files})

    def _batch(self, body: bytes, kind: str | None, name: str) -> None:
        if self._found(kind, name) is None:
            return
        objects = []
        for one in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}
            actions = {} if one["oid"] in self.hub.objects else {"actions": {"upload": upload}}
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _store(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._answer(200)

    def _commit(self, body: bytes, kind: str, name: str) -> None:
        repo = self._found(kind, name)
        if repo is not None:
            sha = self.hub.commit(repo, [json.loads(line) for line in body.splitlines() if line.strip()])
            self._answer(
                200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.address}/{name}/commit/{sha}"}
            )

    def _resolve(self, _: bytes, kind: str | None, name: str, _revision: str, file: str) -> None:
        repo = self._found(kind, name)
        if repo is None:
            return None
        content = repo["files"].get(file)
        if content is None:
            return self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        etag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, X_Repo_Commit=repo["sha"], ETag=f'"{etag}"', Accept_Ranges="bytes")


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"/api/repos/create", _Handler._create),
    (r"/api/validate-yaml", lambda self, _: self._answer(200, {"errors": [], "warnings": []})),
    (r"/api/whoami-v2", lambda self, _: self._answer(200, {"name": "me", "type": "user", "orgs": []})),
    (rf"/api/(models|datasets)/{_NAME}(?:/revision/\w+)?", _Handler._info),
    (rf"/api/(models|datasets)/{_NAME}/tree/\w+", _Handler._tree),
    (rf"/api/(models|datasets)/{_NAME}/preupload/main", _Handler._preupload),
    (rf"/(datasets/)?{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    (r"/lfs/([0-9a-f]{64})", _Handler._store),
    (rf"/api/(models|datasets)/{_NAME}/commit/main", _Handler._commit),
    (rf"/(datasets/)?{_NAME}/resolve/(\w+)/(.+)", _Handler._resolve),
]  # fmt: skip


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that answers on loopback while the block runs."""
    hub = Hub()
    handler = type("_Bound", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
