"""What of the web framework is open to the world: the paths the page needs, to its own origin, at a person's pace."""

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

from dogbreeds.serving.uploads import sweeping

REQUESTS_PER_SECOND = 10.0
"""For one address, in the long run; a question takes three, in a browser six."""
REQUESTS_AT_ONCE = 400
"""For one address, after a pause: a class of thirty opens the page."""
MAX_QUESTION = 1_000_000
"""Bytes of a question; the photo itself comes by another path."""

_STATIC = re.compile(r"/(?:assets|static|svelte)/[^\0]+|/favicon\.ico|/pwa_icon")
"""What costs next to nothing to serve, and is not counted."""
_FILE = re.compile(r"/gradio_api/file=(.+)", re.DOTALL)
_READ = re.compile(
    r"/|/config|/manifest\.json|/robots\.txt|/theme\.css"
    r"|/gradio_api/(?:info|app_id|startup-events|theme\.css|upload_progress|queue/data|heartbeat/\w+"
    r"|call/(?:predict|compare)/\w+)"
)
_UPLOAD = "/gradio_api/upload"
_ASK = re.compile(r"/gradio_api/(?:call/(?:predict|compare)|queue/join|run/\w+|cancel|reset)")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# gradio evaluates the templates of its components and page.js, and writes style attributes.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' {scripts}; style-src 'self' 'unsafe-inline'; "
    "font-src 'self' data:; img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; manifest-src 'self'; base-uri 'self'; form-action 'none'; object-src 'none'; "
    "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
)
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


def gateway_lifespan(uploads: Path, cache_seconds: float) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """What to give the page's server as its lifespan, so that every request comes through a `Gateway`.

    As a middleware it would stand behind gradio's own, which answers foreign origins before anybody is asked.

    Args:
        uploads: Where uploads lie; nothing else is served from the disk but gradio's own files.
        cache_seconds: The period and the age at which uploads are deleted.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        assert app.middleware_stack is not None
        app.middleware_stack = Gateway(app.middleware_stack, uploads)
        async with sweeping(uploads, cache_seconds):
            yield

    return lifespan


class Gateway:
    """Lets in what the page needs; all else is answered with 404, 403 or 429 and a sentence."""

    def __init__(self, app: ASGIApp, uploads: Path, now: Callable[[], float] = time.monotonic) -> None:
        """Stand before an app.

        Args:
            app: Who answers those who are let in.
            uploads: The folder that may be read.
            now: The time in seconds.
        """
        self._app, self._uploads, self._pace = app, uploads.resolve(), RateLimiter(now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        headers = MutableHeaders(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["method"] == "POST" and scope["path"] != _UPLOAD:
            receive, refusal = await _read_question(receive)
        respond: ASGIApp = refusal or self._app
        if refusal is None and (file := _FILE.fullmatch(scope["path"])):
            respond = upload(Path(file[1]))
        # gradio gives leave to read to whatever origin asks; those let in are of the page's own, and need none.
        del headers["origin"]
        if scope["path"] == "/":
            del headers["accept-encoding"]  # what scripts it holds is read on its way out
            return await _send_page(respond, scope, receive, send)
        with suppress(ClientDisconnect):  # somebody went away while sending a photo
            await respond(scope, receive, _in_a_sentence(_with_headers(send, _policy(b""))))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        method, path = scope["method"], scope["path"]
        if _is_foreign(headers):
            return _say(403, "Pages of other origins may not ask this one.")
        if not self._is_needed(method, path):
            return _say(404, "There is nothing here.")
        if not _STATIC.fullmatch(path) and not self._pace.allows(_address(scope, headers)):
            return _say(429, "Too many requests from your address: wait a few seconds.", {"Retry-After": "5"})
        return None

    def _is_needed(self, method: str, path: str) -> bool:
        if method == "POST":
            return path == _UPLOAD or _ASK.fullmatch(path) is not None
        if method not in ("GET", "HEAD"):
            return False
        if file := _FILE.fullmatch(path):
            return self._is_upload(file[1])
        return bool(_STATIC.fullmatch(path) or _READ.fullmatch(path))

    def _is_upload(self, path: str) -> bool:
        try:
            return Path(path).is_absolute() and Path(path).resolve().is_relative_to(self._uploads)
        except (OSError, ValueError):  # too long for a path, or with a NUL in it
            return False


class RateLimiter:
    """A bucket of tokens for each address: a request takes one, time fills it again."""

    _MAX_ADDRESSES = 10_000

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Whether an address may ask once more."""
        now = self._now()
        tokens, since = self._buckets.pop(address, (REQUESTS_AT_ONCE, now))
        tokens = min(REQUESTS_AT_ONCE, tokens + (now - since) * REQUESTS_PER_SECOND)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - allowed, now)
        if len(self._buckets) > self._MAX_ADDRESSES:
            self._buckets.popitem(last=False)  # who has been silent for longest has a full bucket anyway
        return allowed


def _address(scope: Scope, headers: Headers) -> str:
    """Who asks. On a Space that is the last public address that its proxies name: earlier ones anybody can make up."""
    if os.environ.get("SPACE_ID"):
        for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
            try:
                if (address := ipaddress.ip_address(hop.strip())).is_global:
                    return _network(address)
            except ValueError:
                continue
    return _network(ipaddress.ip_address(scope["client"][0])) if scope.get("client") else ""


def _network(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """One household has one IPv4 address, but 2^64 of IPv6."""
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))


def _is_foreign(headers: Headers) -> bool:
    """Whether a page of another origin asks. Programs name none; neither do people who follow a link."""
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":  # which no script can set
        return False
    own = {headers.get("host"), headers.get("x-forwarded-host")}
    return origin.partition("://")[2] not in own


async def _read_question(receive: Receive) -> tuple[Receive, Response | None]:
    """Read a question before gradio does, which fetches files from whatever address it names.

    Returns:
        What gives the same question once more, and the refusal if it is too long or names an address.
    """
    content, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        content += message.get("body", b"")
        more = message.get("more_body", False)
        if len(content) > MAX_QUESTION:
            return receive, _say(413, "This question is too long: photos are sent to /gradio_api/upload.")
    pending: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    try:
        names_address = _names_address(json.loads(content))
    except (ValueError, RecursionError):  # gradio refuses it too, or would go too deep
        return again, _say(422, "This is no question in JSON.")
    return again, _say(400, "Photos are uploaded; this page fetches none from an address.") if names_address else None


def _names_address(value: Any) -> bool:
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and "://" in path) or any(map(_names_address, value.values()))
    return isinstance(value, list) and any(map(_names_address, value))


def _say(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": sentence}, status, headers)


def upload(path: Path) -> Response:
    """The answer that is an upload, as it is now: it may be coded anew or deleted while it is sent.

    gradio's own tells the length before it opens the file.
    """
    try:
        file = path.open("rb")
    except OSError:
        return _say(404, "There is nothing here.")
    headers = {"Content-Length": str(os.fstat(file.fileno()).st_size), "Cache-Control": "private, no-store"}
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/") or "svg" in kind:  # what else people send is no page of this one's
        kind, headers["Content-Disposition"] = "application/octet-stream", "attachment"
    return StreamingResponse(_content(file), 200, headers, kind)


def _content(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while content := file.read(1 << 16):
            yield content


def _policy(page: bytes) -> str:
    """The Content-Security-Policy: scripts are the server's own files, and those that the page itself holds."""
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(page))
    return _POLICY.format(scripts=" ".join(f"'sha256-{digest}'" for digest in hashes))


def _with_headers(send: Send, policy: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update({**_HEADERS, "Content-Security-Policy": policy})
        await send(message)

    return sending


def _in_a_sentence(send: Send) -> Send:
    """Say to a person what gradio says of its queue to its programmer."""
    full, busy = False, _say(503, "The page is busy: please try again in a few seconds.", {"Retry-After": "5"})

    async def sending(message: Message) -> None:
        nonlocal full
        if message["type"] == "http.response.start":
            full = message["status"] == 503
            if full:
                await send({**message, "headers": busy.raw_headers})
                await send({"type": "http.response.body", "body": busy.body})
        if not full:
            await send(message)

    return sending


async def _send_page(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the HTML page, whose inline scripts its policy names."""
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
