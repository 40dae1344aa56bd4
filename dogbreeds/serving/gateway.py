"""What the web framework serves: the paths that the page needs, to those who may ask, at a limited rate."""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import mimetypes
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dogbreeds.serving.answer_queue import AnswerQueue
from dogbreeds.serving.clients import Proxies, RateLimiter
from dogbreeds.serving.questions import PUBLIC_FOLDER, Questions, Refused
from dogbreeds.serving.upload_route import MAX_FILE, UploadRoute, body_parts
from dogbreeds.serving.uploads import UploadFolder

MAX_BODY = 1_000_000
"""Bytes of a question; photos are uploaded to another path."""

_STATIC = re.compile(r"/(?:assets|static|svelte)/[^\0]+|/favicon\.ico|/pwa_icon|/pictures/\w+\.(?:jpg|webp)")
"""Static files, which cost little and are not counted by the rate limiter."""
_FILE = "/gradio_api/file="
_READABLE = re.compile(
    r"/|/config|/manifest\.json|/robots\.txt|/theme\.css"
    r"|/gradio_api/(?:info|app_id|startup-events|theme\.css|upload_progress|queue/data|heartbeat/[\w-]{1,64}"
    r"|call/(?:v2/)?(?:predict|compare)/(?P<question>[\w-]{1,64}))"
)
_HEARTBEAT = "/gradio_api/heartbeat/"
_ANSWERS = "/gradio_api/queue/data"
_UPLOAD, _UPLOAD_PROGRESS = "/gradio_api/upload", "/gradio_api/upload_progress"
_SESSION = re.compile(r"[\w-]{1,64}")

_BUSY = "The page is busy: please try again in a few seconds."

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
Rewrite = Callable[[str, Request], str]
"""Changes the HTML page that answers a request."""
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


class Doors:
    """Who may ask at all: under which names the page is asked, and with which key."""

    def __init__(self, hosts: Sequence[str] = (), key: str | None = None) -> None:
        """Set them.

        Args:
            hosts: Names that `Host` may have besides addresses and this machine's own names. A page of another name
                would be one that a stranger's name server directs here (DNS rebinding).
            key: What people must give as password, and programs as `Authorization: Bearer KEY`; None for nothing.
        """
        self._hosts = {"localhost", socket.gethostname().lower(), *(host.lower().rstrip(".") for host in hosts)}
        self._any_host = "SPACE_ID" in os.environ  # is public anyway, and asked through the Hub alone
        assert key is None or key.strip()  # `serve` refuses an empty one, with which everybody would come in
        self._key = key.encode() if key else None

    def refusal(self, headers: Headers) -> Response | None:
        """Why a request may not come in; None if it may."""
        host = headers.get("host", "")
        if not self._any_host and not self._is_known(host):
            remedy = f"start it with --allowed-host {_host_name(host)[:100]}"
            return _refuse(421, f"This page is not served under this name. If it should be, {remedy}.")
        if self._key and not hmac.compare_digest(_key_in(headers.get("authorization", "")), self._key):
            challenge = {"WWW-Authenticate": 'Basic realm="dog breeds", charset="UTF-8"'}
            return _refuse(401, "This page needs an access key: give it as the password.", challenge)
        return None

    def _is_known(self, host: str) -> bool:
        name = _host_name(host)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts or name.endswith(".localhost")
        return True


def _host_name(host: str) -> str:
    """The name in a `Host` header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


def _key_in(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")  # as Starlette decodes headers
    if scheme.lower() == "basic":
        with suppress(ValueError):
            return base64.b64decode(value, validate=True).partition(b":")[2]
    return b""


class Gateway:
    """Answers what is not gradio's, passes on what the page needs, and refuses all other requests in a sentence."""

    def __init__(
        self,
        app: ASGIApp,
        uploads: UploadFolder,
        questions: Questions,
        answers: AnswerQueue,
        *,
        doors: Doors | None = None,
        proxies: Proxies | None = None,
        rewrite: Rewrite | None = None,
    ) -> None:
        """Wrap an app.

        Args:
            app: Answers the requests that are passed on.
            uploads: Where photos go.
            questions: What may be posted.
            answers: In which questions wait for their answers.
            doors: Who may ask.
            proxies: Who tells the clients' addresses.
            rewrite: Makes the HTML page that is sent of the app's.
        """
        self._app, self._questions, self._answers, self._rewrite = app, questions, answers, rewrite
        self._route = UploadRoute(uploads)
        self._doors, self._proxies = doors or Doors(), proxies or Proxies()
        self._rate_limiter = RateLimiter()
        self.is_draining = False
        """Whether no more questions are taken, since the server is about to stop."""
        self.num_open = 0
        """Requests that are being answered, but for the streams that last as long as a page is open."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        is_counted = not scope["path"].startswith(_HEARTBEAT)
        self.num_open += is_counted
        try:
            await self._respond(scope, receive, send)
        except (ClientDisconnect, ConnectionError):
            pass  # the browser was closed meanwhile
        except asyncio.CancelledError:
            if not self.is_draining:
                raise
        finally:
            self.num_open -= is_counted

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = MutableHeaders(scope=scope)
        address = self._proxies.client(scope)
        if not self._proxies.trusts(scope["client"][0] if scope.get("client") else ""):
            for name in [name for name in headers if name.startswith("x-forwarded-")]:
                del headers[name]
        scope["client"] = (address, 0)
        respond: ASGIApp | None = self._refusal(scope, headers, address)
        if respond is None:
            body = _Body(receive)
            try:
                respond, receive = await self._responder(scope, headers, address, body)
            except Refused as refused:
                respond = _refuse(refused.status, str(refused))
                if not body.is_complete and refused.status != 408:  # nobody waits for who is too slow
                    await _read_rest(body)
        # gradio allows any origin to read its replies. Requests that come this far are of the page's own origin, which
        # needs no permission.
        del headers["origin"]
        if scope["path"] == "/":
            del headers["accept-encoding"]  # its inline scripts are read before it is sent
            rewrite = self._rewrite if respond is self._app else None
            return await _send_page(respond, scope, receive, send, rewrite)
        await respond(scope, receive, _with_headers(send, _policy(b""), is_of_gradio=respond is self._app))

    def _refusal(self, scope: Scope, headers: Headers, address: str) -> Response | None:
        method, path = scope["method"], scope["path"]
        if path in ("/healthz", "/readyz") and method in ("GET", "HEAD"):
            ready = path == "/healthz" or not self.is_draining
            return PlainTextResponse("ok\n" if ready else "draining\n", 200 if ready else 503)
        is_static = _STATIC.fullmatch(path) is not None
        if not is_static and not self._rate_limiter.allows(address):
            return _refuse(429, "Too many requests from your address: wait a few seconds.", {"Retry-After": "5"})
        if refusal := self._doors.refusal(headers):
            return refusal
        if _is_foreign(headers):
            return _refuse(403, "Pages of other origins may not ask this one.")
        if not self._is_needed(method, path):
            return _refuse(404, "There is nothing here.")
        return None

    def _is_needed(self, method: str, path: str) -> bool:
        if method == "POST":
            return path == _UPLOAD or self._questions.known(path)
        if method not in ("GET", "HEAD"):
            return False
        if path.startswith(_FILE):
            return self._questions.upload(path.removeprefix(_FILE)) is not None
        return bool(_STATIC.fullmatch(path) or _READABLE.fullmatch(path))

    async def _responder(
        self, scope: Scope, headers: MutableHeaders, address: str, receive: Receive
    ) -> tuple[ASGIApp, Receive]:
        """What answers a request that may be answered, and what gives it the request's body.

        Raises:
            Refused: It may not after all.
        """
        path = scope["path"]
        query = parse_qs(scope["query_string"].decode("latin-1"))
        upload_id, session = (query.get(name, [""])[0] for name in ("upload_id", "session_hash"))
        if not all(_SESSION.fullmatch(name) for name in (upload_id, session) if name):
            raise Refused(422, "upload_id and session_hash have at most 64 letters and digits.")
        if path == _UPLOAD:
            if self.is_draining:
                raise Refused(503, "The page is about to restart: please try again in a few seconds.")
            copies = await self._route.receive(headers.get("content-type", ""), address, upload_id, receive)
            return JSONResponse([f"{PUBLIC_FOLDER}/{copy.parent.name}/{copy.name}" for copy in copies]), receive
        if path == _UPLOAD_PROGRESS:
            events = _event_stream(self._route.progress(upload_id))
            return StreamingResponse(events, media_type="text/event-stream"), receive
        if scope["method"] == "POST":
            body = await self._question(scope, address, receive)
            headers["content-type"], headers["content-length"] = "application/json", str(len(body))
            return self._app, _replay(body, receive)
        if path.startswith(_FILE):
            file = self._questions.upload(path.removeprefix(_FILE))
            assert file is not None  # `_is_needed`
            return upload_response(file), receive
        if path == _ANSWERS:
            return self._listened(session), receive
        if (found := _READABLE.fullmatch(path)) and found["question"]:
            return self._listened(found["question"]), receive
        return self._app, receive

    def _listened(self, session: str) -> ASGIApp:
        """Gradio's stream of a session's answers."""

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            with self._answers.listening(session):
                await self._app(scope, receive, send)

        return respond

    async def _question(self, scope: Scope, address: str, receive: Receive) -> bytes:
        """The body that gradio gets in place of a question's."""
        content = b""
        async for part in body_parts(receive):
            content += part
            if len(content) > MAX_BODY:
                raise Refused(413, "This request is too long: photos are sent to /gradio_api/upload.")
        path, question = self._questions.for_gradio(scope["path"], content)
        needs_place = not path.endswith(("/cancel", "/reset"))
        if needs_place and (self.is_draining or not self._answers.has_place_for(address)):
            raise Refused(503, _BUSY)
        scope["path"], scope["raw_path"] = path, path.encode()
        return json.dumps(question).encode()


def _is_foreign(headers: Headers) -> bool:
    """Whether a page of another origin sends the request. Programs and links to this page send no origin."""
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":  # no script can set this header
        return False
    own = {headers.get("host"), headers.get("x-forwarded-host")}
    return origin.partition("://")[2] not in own


async def _event_stream(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    async for event in events:
        yield f"data: {json.dumps(event)}\n\n"


class _Body:
    """A `receive` that knows whether the body has come to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_complete = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.is_complete = not message.get("more_body", False)
        return message


async def _read_rest(receive: Receive) -> None:
    """Read what is left of a body, as far as is reasonable: a client that still sends would not read the reply."""
    num_bytes = 0
    with suppress(Refused, ConnectionError):
        async for part in body_parts(receive):
            num_bytes += len(part)
            if num_bytes > MAX_FILE:
                break


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body, and then what comes after it: that the client is gone."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def _refuse(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": sentence}, status, headers)


def upload_response(path: Path) -> Response:
    """A reply with an upload as it is now: it may be deleted while it is sent.

    gradio's own reply (6.31.0) reads the length before it opens the file, so the two may not fit.
    """
    try:
        file = path.open("rb")
    except OSError:
        return _refuse(404, "There is nothing here.")
    headers = {"Content-Length": str(os.fstat(file.fileno()).st_size), "Cache-Control": "private, no-store"}
    return StreamingResponse(_content(file), 200, headers, mimetypes.guess_type(path.name)[0])


def _content(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while content := file.read(1 << 16):
            yield content


def _policy(page: bytes) -> str:
    """The Content-Security-Policy: it allows the server's own script files, and the inline scripts of this page."""
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(page))
    return _POLICY.format(scripts=" ".join(f"'sha256-{digest}'" for digest in hashes))


def _with_headers(send: Send, policy: str, *, is_of_gradio: bool = False) -> Send:
    """Add the security headers, and replace gradio's reply about a full queue by a sentence for the person."""
    full, busy = False, _refuse(503, _BUSY, {"Retry-After": "5"})

    async def sending(message: Message) -> None:
        nonlocal full
        if message["type"] == "http.response.start":
            full = is_of_gradio and message["status"] == 503
            start = {**message, "headers": busy.raw_headers} if full else message
            MutableHeaders(scope=start).update({**_HEADERS, "Content-Security-Policy": policy})
            await send(start)
            if full:
                await send({"type": "http.response.body", "body": busy.body})
        elif not full:
            await send(message)

    return sending


async def _send_page(app: ASGIApp, scope: Scope, receive: Receive, send: Send, rewrite: Rewrite | None) -> None:
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
            if rewrite and page:
                page = rewrite(page.decode(), Request(scope)).encode()
                MutableHeaders(scope=start[0])["content-length"] = str(len(page))
            sending = _with_headers(send, _policy(page))
            await sending(start[0])
            await sending({"type": "http.response.body", "body": page})

    await app(scope, receive, collect)
