"""Access rules of the chat page: who may request what and how much, and what the page itself may load.

Of gradio's many addresses only those that the page needs are open: no uploads, no files, no proxy.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zephyr.deliver.serving.address import MAX_BODY_BYTES, bound_socket
from zephyr.teachers.endpoint.address import is_loopback

CHAT_PATHS = (
    r"/|/config/?|/theme\.css|/favicon\.ico|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(info/?|theme\.css|startup-events|heartbeat/\w+|queue/(join|data)|run/predict/?|cancel|reset/?)"
)
_OWN = "'self' 'unsafe-inline'"
# Whatever a model writes, the browser loads nothing from elsewhere.
CHAT_POLICY = (
    f"default-src 'self'; script-src {_OWN} 'unsafe-eval'; style-src {_OWN}; img-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'; form-action 'none'; base-uri 'self'"
)
_HEADERS = {
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class AccessMiddleware:
    """An application behind the access rules. Without a `token` only pages of this machine may send requests.

    `open_paths`: a pattern of the paths that are served; `policy`: what the browser may load.
    """

    def __init__(
        self,
        application: ASGIApp,
        token: str | None,
        body_bytes: int = MAX_BODY_BYTES,
        *,
        open_paths: str = CHAT_PATHS,
        policy: str = CHAT_POLICY,
    ) -> None:
        self._application = application
        self._token = token
        self._body_bytes = body_bytes
        self._open_paths = re.compile(open_paths)
        self._headers = {**_HEADERS, "content-security-policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason why not."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            answer = self._refusal(scope) or self._application
            await answer(scope, receive, _with_headers(send, self._headers))
        else:
            await send({"type": "websocket.close"})

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        try:
            host = urlsplit(f"//{headers.get('host', '')}")
            origin = urlsplit(headers["origin"]) if "origin" in headers else None
        except ValueError:
            return _refused(400, "the host or the origin is no address")
        if self._token is None and not is_loopback(host.hostname):
            return _refused(400, "without a token only localhost is served")
        if self._token is not None and not _holds(headers.get("authorization", ""), self._token):
            ask = {"www-authenticate": 'Basic realm="Zephyr: any user name, the token as password"'}
            return _refused(401, "the token is missing or wrong", ask)
        if origin is not None and origin.netloc != host.netloc:
            return _refused(403, "pages of other sites may not send requests")
        if not self._open_paths.fullmatch(scope["path"]) or ".." in scope["path"]:
            return _refused(404, "nothing is served here; the page is at /")
        return self._size_refusal(scope["method"], headers)

    def _size_refusal(self, method: str, headers: Headers) -> Response | None:
        length = headers.get("content-length")
        if length is None:
            has_body = method not in {"GET", "HEAD"} or "transfer-encoding" in headers
            return _refused(411, "the request states no content length") if has_body else None
        # The server reads no more than this from the connection.
        if not length.isdecimal() or len(length) > 18 or int(length) > self._body_bytes:
            return _refused(413, f"the body is larger than {self._body_bytes:,} bytes")
        return None


def _holds(authorization: str, token: str) -> bool:
    """Whether the header holds the token: as a browser's password, or as a bearer token."""
    # Headers hold any bytes; starlette gives them as latin-1.
    kind, _, given = authorization.encode("latin-1").partition(b" ")
    if kind.lower() == b"basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif kind.lower() != b"bearer":
        return False
    # In constant time.
    return hmac.compare_digest(given, token.encode())


def _refused(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(reason + "\n", status_code=status, headers=headers)


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return sending


def serve_until_stopped(application: ASGIApp, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve an application until stopped. Raises ResourceError where the address is taken."""
    import uvicorn

    with bound_socket(host, port) as listening:
        # An open page holds a connection, for which nobody wants to wait who stops the server.
        config = uvicorn.Config(application, log_level="warning", server_header=False, timeout_graceful_shutdown=1)
        say(f"http://{host}:{listening.getsockname()[1]}/, until Ctrl-C")
        uvicorn.Server(config).run(sockets=[listening])
