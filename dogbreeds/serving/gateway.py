"""What the web framework serves: the paths that the page needs, to its own origin, at a limited rate."""

import base64
import hashlib
import ipaddress
import json
import mimetypes
import os
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dogbreeds.serving.uploads import deleting_leftovers

REQUESTS_PER_SECOND = 10.0
"""For one address, on average; one answer takes three requests from a program, six from a browser."""
REQUESTS_AT_ONCE = 400
"""For one address, after a pause: enough for a class of thirty that opens the page."""
MAX_BODY = 1_000_000
"""Bytes of a request's body; photos are uploaded to another path."""

_STATIC = re.compile(r"/(?:assets|static|svelte)/[^\0]+|/favicon\.ico|/pwa_icon")
"""Static files, which cost little and are not counted by the rate limiter."""
_FILE = re.compile(r"/gradio_api/file=(.+)", re.DOTALL)
_READABLE = re.compile(
    r"/|/config|/manifest\.json|/robots\.txt|/theme\.css"
    r"|/gradio_api/(?:info|app_id|startup-events|theme\.css|upload_progress|queue/data|heartbeat/\w+"
    r"|call/(?:predict|compare)/\w+)"
)
_UPLOAD = "/gradio_api/upload"
_EVENT = re.compile(r"/gradio_api/(?:call/(?:predict|compare)|queue/join|run/\w+|cancel|reset)")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# Read in gradio 6.31.0: it evaluates page.js and the templates of its components, and writes style attributes.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' {scripts}; style-src 'self' 'unsafe-inline'; "
    "font-src 'self' data:; img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; manifest-src 'self'; base-uri 'self'; form-action 'none'; object-src 'none'; "
    "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
)
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


def gateway_lifespan(uploads: Path, cache_seconds: float) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """The lifespan for the page's server that puts a `Gateway` before it.

    An ordinary middleware would come after gradio's own, which answers requests of other origins itself.

    Args:
        uploads: The folder of uploads; nothing else is served from the disk but gradio's own files.
        cache_seconds: The age at which uploads are deleted, and the time between two searches for such.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Read in Starlette 1.10.0: the attribute is not documented; it is the whole application, built before the
        # lifespan begins. Without it, the application that gradio creates can be wrapped and given to uvicorn instead.
        assert app.middleware_stack is not None
        app.middleware_stack = Gateway(app.middleware_stack, uploads)
        async with deleting_leftovers(uploads, cache_seconds):
            yield

    return lifespan


class Gateway:
    """Passes on the requests that the page needs, and answers all others with an error status and a sentence."""

    def __init__(self, app: ASGIApp, uploads: Path, now: Callable[[], float] = time.monotonic) -> None:
        """Wrap an app.

        Args:
            app: Answers the requests that are passed on.
            uploads: The folder that may be read.
            now: The time in seconds.
        """
        self._app, self._uploads, self._rate_limiter = app, uploads.resolve(), RateLimiter(now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        headers = MutableHeaders(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["method"] == "POST" and scope["path"] != _UPLOAD:
            receive, refusal = await _read_body(receive)
        respond: ASGIApp = refusal or self._app
        if refusal is None and (file := _FILE.fullmatch(scope["path"])):
            respond = upload_response(Path(file[1]))
        # gradio allows any origin to read its replies. Requests that come this far are of the page's own origin, which
        # needs no permission.
        del headers["origin"]
        if scope["path"] == "/":
            del headers["accept-encoding"]  # its inline scripts are read before it is sent
            return await _send_page(respond, scope, receive, send)
        with suppress(ClientDisconnect):  # the browser was closed during an upload
            await respond(scope, receive, _with_headers(send, _policy(b"")))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        method, path = scope["method"], scope["path"]
        if _is_foreign(headers):
            return _refuse(403, "Pages of other origins may not ask this one.")
        if not self._is_needed(method, path):
            return _refuse(404, "There is nothing here.")
        if not _STATIC.fullmatch(path) and not self._rate_limiter.allows(_address(scope, headers)):
            return _refuse(429, "Too many requests from your address: wait a few seconds.", {"Retry-After": "5"})
        return None

    def _is_needed(self, method: str, path: str) -> bool:
        if method == "POST":
            return path == _UPLOAD or _EVENT.fullmatch(path) is not None
        if method not in ("GET", "HEAD"):
            return False
        if file := _FILE.fullmatch(path):
            return self._is_upload(file[1])
        return bool(_STATIC.fullmatch(path) or _READABLE.fullmatch(path))

    def _is_upload(self, path: str) -> bool:
        try:
            return Path(path).is_absolute() and Path(path).resolve().is_relative_to(self._uploads)
        except (OSError, ValueError):  # the path is too long, or has a NUL
            return False


class RateLimiter:
    """A token bucket for each address: a request takes a token, and time refills the bucket."""

    _MAX_ADDRESSES = 10_000

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Whether a request from this address is allowed; it takes a token."""
        now = self._now()
        tokens, since = self._buckets.pop(address, (REQUESTS_AT_ONCE, now))
        tokens = min(REQUESTS_AT_ONCE, tokens + (now - since) * REQUESTS_PER_SECOND)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - allowed, now)
        if len(self._buckets) > self._MAX_ADDRESSES:
            self._buckets.popitem(last=False)  # the address with the longest pause has a full bucket anyway
        return allowed


def _address(scope: Scope, headers: Headers) -> str:
    """The client's address; on a Space the last public one that the proxies name, as a client can invent the others."""
    if os.environ.get("SPACE_ID"):
        for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
            try:
                if (address := ipaddress.ip_address(hop.strip())).is_global:
                    return _network(address)
            except ValueError:
                continue
    return _network(ipaddress.ip_address(scope["client"][0])) if scope.get("client") else ""


def _network(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """One household has one IPv4 address, but 2^64 IPv6 addresses, a /64 network."""
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))


def _is_foreign(headers: Headers) -> bool:
    """Whether a page of another origin sends the request. Programs and links to this page send no origin."""
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":  # no script can set this header
        return False
    own = {headers.get("host"), headers.get("x-forwarded-host")}
    return origin.partition("://")[2] not in own


async def _read_body(receive: Receive) -> tuple[Receive, Response | None]:
    """Read a request's body and check it before gradio, which would download files from any address in it.

    Returns:
        A `receive` that gives the same body again, and the refusal if it is too long, no JSON, or has an address.
    """
    content, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        content += message.get("body", b"")
        more = message.get("more_body", False)
        if len(content) > MAX_BODY:
            return receive, _refuse(413, "This request is too long: photos are sent to /gradio_api/upload.")
    pending: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    try:
        has_address = _has_address(json.loads(content))
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        return again, _refuse(422, "This request is not in JSON.")
    return again, _refuse(400, "Photos are uploaded; this page fetches none from an address.") if has_address else None


def _has_address(value: Any) -> bool:
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and "://" in path) or any(map(_has_address, value.values()))
    return isinstance(value, list) and any(map(_has_address, value))


def _refuse(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": sentence}, status, headers)


def upload_response(path: Path) -> Response:
    """A reply with an upload as it is now: it may be replaced or deleted while it is sent.

    gradio's own reply (6.31.0) reads the length before it opens the file, so the two may not fit.
    """
    try:
        file = path.open("rb")
    except OSError:
        return _refuse(404, "There is nothing here.")
    headers = {"Content-Length": str(os.fstat(file.fileno()).st_size), "Cache-Control": "private, no-store"}
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/") or "svg" in kind:  # other uploads must not be shown as pages of this server
        kind, headers["Content-Disposition"] = "application/octet-stream", "attachment"
    return StreamingResponse(_content(file), 200, headers, kind)


def _content(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while content := file.read(1 << 16):
            yield content


def _policy(page: bytes) -> str:
    """The Content-Security-Policy: it allows the server's own script files, and the inline scripts of this page."""
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(page))
    return _POLICY.format(scripts=" ".join(f"'sha256-{digest}'" for digest in hashes))


def _with_headers(send: Send, policy: str) -> Send:
    """Add the security headers, and replace gradio's reply about a full queue by a sentence for the person."""
    full, busy = False, _refuse(503, "The page is busy: please try again in a few seconds.", {"Retry-After": "5"})

    async def sending(message: Message) -> None:
        nonlocal full
        if message["type"] == "http.response.start":
            full = message["status"] == 503
            start = {**message, "headers": busy.raw_headers} if full else message
            MutableHeaders(scope=start).update({**_HEADERS, "Content-Security-Policy": policy})
            await send(start)
            if full:
                await send({"type": "http.response.body", "body": busy.body})
        elif not full:
            await send(message)

    return sending


async def _send_page(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the HTML page and a policy that allows its inline scripts."""
    start: list[Message] = []
    page = b""

    async def collect(message: Message) -> None:
        nonlocal page
        if message["type"] == "http.response.start":
            start.append(message)
            return
        page += message.get("body", b"")
        if not message.get("more_body", False):
            sending = _with_headers(send, _policy(page))
            await sending(start[0])
            await sending({"type": "http.response.body", "body": page})

    await app(scope, receive, collect)
