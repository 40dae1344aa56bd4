"""The gateway of the running page: what gradio would serve beside the page, and how people have got in before."""

import asyncio
import base64
import json
import pickle
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
from conftest import ROOT, make_photo

from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.answer_queue import AnswerQueue
from dogbreeds.serving.clients import REQUESTS_AT_ONCE
from dogbreeds.serving.connections import MAX_CONNECTIONS_OF_ADDRESS
from dogbreeds.serving.gateway import Doors, Gateway, upload_response
from dogbreeds.serving.questions import Event, Questions
from dogbreeds.serving.uploads import UploadFolder
from tests.served_page import served_page

MODEL = DEFAULT_RUN.name
WATCH = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["WATCHED"], "a") as file:
            print(event, arguments[1] if event != "socket.getaddrinfo" else arguments[0], file=file)
    if event == "pickle.find_class":
        with open(os.environ["WATCHED"], "a") as file:
            print(event, *arguments, file=file)
sys.addaudithook(watch)
"""
"""Python runs it at the server's start: it notes where the server connects to, and what it unpickles."""

PATHS = [
    "/monitoring",
    "/monitoring/summary",
    "/monitoring/key",
    "/Monitoring",
    "/gradio_api/runs",
    "/gradio_api/run-history/buckets",
    "/gradio_api/deep_link?session_hash=x",
    "/gradio_api/queue/status",
    "/gradio_api/openapi.json",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/gradio_api/dev/reload",
    "/gradio_api/token",
    "/gradio_api/user",
    "/gradio_api/login_check",
    "/logout",
    "/gradio_api/vibe-code",
    "/gradio_api/profiling/traces",
    "/gradio_api/stream/x/1/1/playlist.m3u8",
    "/gradio_api/custom_component/x/client/c/index.js",
    "/gradio_api/mcp",
    "/gradio_api/mcp/sse",
    "/gradio_api/proxy=https://x.hf.space/",
    "/proxy=https://x.hf.space/",
    "/file=/etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1:PORT/",
    "/gradio_api/file=http://127.0.0.1:PORT/",
    "/gradio_api/file=http:/127.0.0.1:PORT/",
    "/gradio_api/file=HTTP://127.0.0.1:PORT/",
    "/gradio_api/file=//127.0.0.1:PORT/",
    "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file/etc/passwd",
    "/gradio_api/file//etc/passwd",
    "/gradio_api/FILE=/etc/passwd",
    "/GRADIO_API/FILE=/etc/passwd",
    "/gradio_api/file=app.py",
    "/gradio_api/file=ROOT/app.py",
    "/gradio_api/file=C:/Windows/win.ini",
    "/gradio_api/file=UPLOADS/../../../../../../../../etc/passwd",
    "/gradio_api/file=UPLOADS/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/gradio_api/file=%2Fetc%2Fpasswd",
    "/gradio_api/file=%252Fetc%252Fpasswd",
    "/gradio_api/file%3D/etc/passwd",
    "/gradio_api/file=/proc/self/environ",
    "/gradio_api/file=/dev/stdin",
    "/gradio_api/file=UPLOADS",
    "/gradio_api/file=",
    "/gradio_api/file=UPLOADS/link",
    "/gradio_api/file=%00",
    "/gradio_api/file=/%00",
    "/gradio_api/file=LONG",
    "/assets/../../../../../../../../etc/passwd",
    "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/static/..%2f..%2f..%2f__init__.py",
    "/static/%2fetc/passwd",
    "/static/http://127.0.0.1:PORT/",
    "/svelte/..%2f..%2f..%2findex.html",
    "//etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/assets//etc/passwd",
]
"""What gradio serves, or served in releases with holes; words in capitals are filled in."""
POSTS = [
    "component_server",
    "component_server/",
    "process_recording",
    "vibe-edit",
    "undo-vibe-edit",
    "vibe-code",
    "vibe-starter-queries",
    "run-history/connect",
    "stream/x",
    "stream/x/close",
    "profiling/clear",
    "api/predict",
    "call/v2/show",
    "call/show",
    "queue/data",
    "login",
]
"""What can be posted to in gradio, and not here."""


class Server:
    """app.py in a process, with raw requests as an intruder sends them."""

    def __init__(self, folder: Path) -> None:
        self.uploads, self.watched = folder / "uploads", folder / "watched"
        self.port = 0

    @contextmanager
    def running(self, run: Path):
        (self.watched.parent / "sitecustomize.py").write_text(WATCH)
        self.watched.touch()
        environment = {
            "GRADIO_TEMP_DIR": str(self.uploads),
            "WATCHED": str(self.watched),
            "PYTHONPATH": str(self.watched.parent),
        }
        script = (
            "import sys; from dogbreeds.serving import connections, upload_route\n"
            "from dogbreeds.serving.page import app\n"
            "app.CACHE_SECONDS = 20; connections.HEAD_SECONDS = connections.KEEP_ALIVE_SECONDS = 1\n"
            "upload_route.PAUSE_SECONDS = 1.5; upload_route.GRACE_SECONDS = 3\n"
            f"app.serve([{str(run)!r}], None, None, app.Access(proxies=['127.7.7.7']))"
        )
        with served_page([sys.executable, "-c", script], environment=environment) as (address, self.process):
            self.port = int(address.rsplit(":", 1)[1])
            yield self

    def request(self, method, path, body=None, headers=None, address="127.0.0.1"):
        """Status, headers and content of a reply; the path goes as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(address, 0))
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for header in {"Content-Length": str(len(body or b"")), **(headers or {})}.items():
                connection.putheader(*header)
            connection.endheaders(body)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def upload(self, name: bytes, content: bytes, field: bytes = b"files", query: str = ""):
        body = b'--B\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n' % (field, name)
        headers = {"Content-Type": "multipart/form-data; boundary=B"}
        return self.request("POST", f"/gradio_api/upload{query}", body + content + b"\r\n--B--\r\n", headers)

    def post(self, path, value):
        status, _, content = self.request(
            "POST", path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        return status, json.loads(content)

    def answer(self, endpoint, data) -> str:
        """What the stream of a request says at its end."""
        status, said = self.post(f"/gradio_api/call/{endpoint}", {"data": data})
        assert status == 200, said
        return self.request("GET", f"/gradio_api/call/{endpoint}/{said['event_id']}")[2].decode()

    def files(self) -> set[Path]:
        """What it keeps of uploads; those of earlier tests are swept meanwhile."""
        return {path for path in self.uploads.rglob("*") if path.is_file() and path.name != ".in-use"}

    def path(self, upload: str) -> Path:
        """Where an upload lies, of which the page says this."""
        (inside,) = self.uploads.glob("dogbreeds-*")
        return inside / upload.removeprefix("uploads/")

    def memory(self) -> int:
        """MB that it and its children hold."""
        processes = [self.process.pid, *map(int, self.children())]
        return sum(int(re.search(r"VmRSS:\s+(\d+)", status(pid))[1]) for pid in processes) // 1024

    def children(self) -> list[str]:
        pid = self.process.pid
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [child for task in tasks for child in (task / "children").read_text().split()]


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("gateway"))
    with server.running(DEFAULT_RUN):
        yield server
    assert not server.files()  # a server that is terminated leaves no photo behind


@pytest.fixture
def photo(server, tmp_path):
    """A photo that was uploaded, as a request names it."""
    make_photo(2, 3).save(tmp_path / "dog.png")
    status, _, content = server.upload(b"dog.png", (tmp_path / "dog.png").read_bytes())
    assert status == 200
    return {"path": json.loads(content)[0], "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "path",
    PATHS,
)
def test_nothing_else_is_served(server, path):
    (inside,) = server.uploads.glob("dogbreeds-*")
    if not (inside / "link").is_symlink():
        (inside / "link").symlink_to("/etc/passwd")
    with socket.create_server(("127.0.0.1", 0)) as strange:
        strange.settimeout(0)
        for word, meant in {
            "PORT": strange.getsockname()[1],
            "ROOT": ROOT,
            "UPLOADS": inside,
            "LONG": "/" + 5000 * "x",
        }.items():
            path = path.replace(word, str(meant))
        for method in ("GET", "HEAD"):
            status, headers, content = server.request(method, path)
            assert status in (400, 403, 404, 405), f"{method} {path}: {status}"
            assert "location" not in headers and b"root:" not in content and b"gradio" not in content.lower()
        with pytest.raises(BlockingIOError):
            strange.accept()


@pytest.mark.parametrize(
    "path",
    POSTS,
)
def test_nothing_else_can_be_posted_to(server, path):
    assert (
        server.post(f"/gradio_api/{path}", {"data": [], "fn_name": "x", "component_id": 1, "session_hash": "x"})[0]
        == 404
    )
    assert server.post("/" + path, {})[0] == 404
    assert server.request("PUT", "/gradio_api/upload")[0] == server.request("DELETE", "/")[0] == 404


def test_of_all_routes_these_are_open(tmp_path):
    import gradio as gr
    from gradio.routes import App

    async def nobody(*_):
        raise AssertionError

    events = [Event(0, "predict", True, ()), Event(1, "compare", True, ())]
    stands = Gateway(
        nobody, UploadFolder(tmp_path, nobody), Questions(events, tmp_path), AnswerQueue(1, num_for_address=1)
    )
    names = {"{api_name}": "predict", "{event_id}": "e1", "{session_hash}": "s1", "{path:path}": "a.js"}
    names["{path_or_url:path}"] = f"uploads/{32 * 'a'}/photo.webp"
    routes = set(found_routes(App.create_app(gr.Blocks()).routes))
    assert len(routes) > 70
    opened = set()
    for method, route in routes:
        path = re.sub(r"\{[^}]*\}", lambda name: names.get(name[0], "x"), route)
        if stands._is_needed(method, path):
            opened.add(route)
    assert opened == {
        *("/", "/config", "/manifest.json", "/robots.txt", "/theme.css", "/favicon.ico", "/pwa_icon"),
        *("/assets/{path:path}", "/static/{path:path}", "/svelte/{path:path}", "/gradio_api/file={path_or_url:path}"),
        *(
            f"/gradio_api/{name}"
            for name in ("info", "app_id", "startup-events", "theme.css", "upload", "cancel", "reset")
        ),
        *(
            "/gradio_api/upload_progress",
            "/gradio_api/queue/join",
            "/gradio_api/queue/data",
            "/gradio_api/run/{api_name}",
        ),
        *(
            "/gradio_api/call/{api_name}",
            "/gradio_api/call/{api_name}/{event_id}",
            "/gradio_api/call/v2/{api_name}",
            "/gradio_api/call/v2/{api_name}/{event_id}",
            "/gradio_api/heartbeat/{session_hash}",
        ),
    }


def found_routes(routes):
    """Method and path of each, those of included routers as well."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from found_routes(inner.routes)
        else:
            yield from ((method, route.path) for method in getattr(route, "methods", None) or ())


def test_nobody_passes_the_queue_by(server, photo):
    assert server.post("/gradio_api/run/predict", {"data": [photo, MODEL]})[0] == 404
    functions = {
        each["api_name"]: each["id"] for each in json.loads(server.request("GET", "/config")[2])["dependencies"]
    }
    assert server.post("/gradio_api/run/x", {"data": [photo, MODEL], "fn_index": functions["predict"]})[0] == 404


@pytest.mark.parametrize("endpoint", ["predict", "compare"])
@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}])
@pytest.mark.parametrize(
    "file",
    [
        {"path": "OUTSIDE/notes.txt"},
        {"path": "UPLOADS/../../../../../../../..OUTSIDE/notes.txt"},
        {"path": "OUTSIDE/dog.png"},
        {"path": "UPLOADS/link"},
        {"path": "/proc/self/environ"},
        {"url": "http://127.0.0.1:PORT/"},
        {"path": None, "url": "http://127.0.0.1:PORT/"},
        {"path": "", "url": "http://127.0.0.1:PORT/"},
        {"path": "OUTSIDE/notes.txt", "url": "http://127.0.0.1:PORT/", "is_stream": True},
    ],
)
def test_a_request_reads_no_file_but_uploads(server, endpoint, meta, file, tmp_path):
    (tmp_path / "notes.txt").write_text("root: mine")
    make_photo(2, 1).save(tmp_path / "dog.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (inside,) = server.uploads.glob("dogbreeds-*")
    with socket.create_server(("127.0.0.1", 0)) as strange:
        strange.settimeout(0)
        said = (
            json.dumps({**file, **meta})
            .replace("PORT", str(strange.getsockname()[1]))
            .replace("UPLOADS", str(inside))
            .replace("OUTSIDE", str(tmp_path))
        )
        status, answer = server.post(
            f"/gradio_api/call/{endpoint}", {"data": [json.loads(said)] + [MODEL] * (endpoint == "predict")}
        )
        assert status == 422 and answer["detail"].startswith("photo.path")
        with pytest.raises(BlockingIOError):
            strange.accept()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("place", ["photo", "model", "nested"])
@pytest.mark.parametrize("address", ["http://127.0.0.1:PORT/a.png", "HTTPS://127.0.0.1:PORT", "ftp://127.0.0.1:PORT/x"])
def test_the_server_fetches_no_address(server, photo, place, address):
    with socket.create_server(("127.0.0.1", 0)) as strange:
        strange.settimeout(0)
        file = {**photo, "path": address.replace("PORT", str(strange.getsockname()[1]))}
        data = {"photo": [file, MODEL], "model": [photo, file], "nested": [photo, [{"x": [file]}]]}[place]
        for path, more in (("call/predict", {}), ("queue/join", {"fn_index": 0, "session_hash": "x"}), ("run/x", {})):
            status, said = server.post(f"/gradio_api/{path}", {"data": data, **more})
            assert status == 400 and "fetches none" in said["detail"]
        with pytest.raises(BlockingIOError):
            strange.accept()


@pytest.mark.parametrize(
    "name",
    [
        b"../../x",
        b"..\\..\\x",
        b"/etc/x",
        b"a/../../../x",
        b"..",
        b".",
        b"x\0.png",
        3000 * b"x",
        b"%2e%2e%2fx",
        b"",
        b"~/x",
    ],
)
def test_an_upload_lands_where_uploads_lie(server, name):
    before = {path for folder in (ROOT, Path("/etc"), Path("/tmp")) for path in folder.glob("x*")}
    status, _, content = server.upload(name, b"content")
    assert status in (200, 400)
    for upload in json.loads(content) if status == 200 else []:
        assert re.fullmatch(r"uploads/[0-9a-f]{32}/unreadable\.png", upload) and server.path(upload).is_file()
    (inside,) = server.uploads.glob("dogbreeds-*")
    assert all(path.is_relative_to(inside) for path in server.files())
    assert {path for folder in (ROOT, Path("/etc"), Path("/tmp")) for path in folder.glob("x*")} == before


def test_people_who_send_the_same_file_do_not_share_it(server, photo, tmp_path):
    content = (tmp_path / "dog.png").read_bytes()
    mine, other = (json.loads(server.upload(b"dog.png", content)[2])[0] for _ in range(2))
    assert len({server.path(each).parent for each in (mine, other, photo["path"])}) == 3
    assert "probability" in server.answer("predict", [{**photo, "path": mine}, MODEL])
    server.path(mine).unlink()
    assert "no longer here" in server.answer("predict", [{**photo, "path": mine}, MODEL])
    assert "probability" in server.answer("predict", [{**photo, "path": other}, MODEL])


def test_an_upload_is_shown_as_the_picture_that_it_is(server, photo):
    status, headers, content = server.request("GET", f"/gradio_api/file={photo['path']}")
    assert status == 200 and headers["content-type"] == "image/webp" and headers["cache-control"] == "private, no-store"
    assert content == server.path(photo["path"]).read_bytes()


def test_nobody_learns_where_the_server_keeps_its_files(server, photo):
    said = [json.dumps(photo), server.answer("predict", [photo, MODEL]), server.answer("predict", [None, MODEL])]
    said += [server.request("GET", path)[2].decode() for path in ("/", "/config", "/gradio_api/info", "/manifest.json")]
    said += [server.post("/gradio_api/call/predict", {"data": [{"path": "/etc"}]})[1]["detail"]]
    for text in said:
        assert not re.search(rf"{server.uploads}|{ROOT}|{sys.prefix}|site-packages", text)


def test_an_upload_is_sent_whole_while_it_is_deleted(tmp_path):
    path = tmp_path / "photo.webp"
    path.write_bytes(bytes(200_000))
    response = upload_response(path)
    path.unlink()

    async def body():
        return b"".join([part async for part in response.body_iterator])

    assert asyncio.run(body()) == bytes(200_000) and response.headers["content-length"] == "200000"
    assert upload_response(path).status_code == 404


def test_what_is_too_much_is_refused_and_gone(server):
    before = server.files()
    status, _, content = server.upload(b"large.png", bytes(43_000_000))
    assert status == 413 and b"larger than 40 MB" in content
    body = b'--B\r\nContent-Disposition: form-data; name="note"\r\n\r\n' + bytes(30_000_000) + b"\r\n--B--\r\n"
    held = server.memory()
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    status, _, content = server.request("POST", "/gradio_api/upload", body, headers)
    assert status == 413 and b"no file" in content and server.memory() < held + 15
    assert server.files() <= before
    status, said = server.post("/gradio_api/call/predict", {"data": ["x" * 2_000_000]})
    assert status == 413 and said["detail"].startswith("This request is too long")


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("multipart/form-data", b"", "multipart/form-data, in the field"),
        ("multipart/form-data; boundary=B", b"nothing", "no proper multipart"),
        ("multipart/form-data; boundary=B", b"", "cut short"),
        (
            "multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx',
            "cut short",
        ),
        ("text/plain", b"x", "multipart/form-data, in the field"),
    ],
)
def test_an_upload_that_is_none_is_refused_in_a_sentence(server, kind, body, words):
    before = server.files()
    status, _, content = server.request("POST", "/gradio_api/upload", body, {"Content-Type": kind})
    assert status == 400 and words in json.loads(content)["detail"] and server.files() <= before


@pytest.mark.slow
def test_uploads_are_deleted_on_schedule(tmp_path):
    script = "from dogbreeds.serving.page import app; app.CACHE_SECONDS = 2\n"
    script += f"app.serve([{str(DEFAULT_RUN)!r}], None, None)"
    environment = {"GRADIO_TEMP_DIR": str(tmp_path)}
    server = Server(tmp_path.parent)
    server.uploads = tmp_path
    with served_page([sys.executable, "-c", script], environment=environment) as (address, _):
        server.port = int(address.rsplit(":", 1)[1])
        body = b'--B\r\nContent-Disposition: form-data; name="files"; filename="half.png"\r\n\r\nhalf'
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=B\r\n\r\n".encode() + body)
            wait_until(lambda: [path for path in server.files() if path.suffix == ".part"])
            assert server.upload(b"whole.png", b"whole")[0] == 200
        wait_until(lambda: not server.files())


def wait_until(is_so, seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "https://x.hf.space"]
)
def test_pages_of_other_origins_may_not_ask(server, origin):
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for method, path in (("OPTIONS", "/gradio_api/call/predict"), ("POST", "/gradio_api/upload"), ("GET", "/config")):
        status, headers, content = server.request(method, path, headers=asked)
        assert status == 403 and b"other origins" in content
        assert not [name for name in headers if name.lower().startswith("access-control")]
    assert server.request("OPTIONS", "/config")[0] == 404
    own = server.request("GET", "/config", headers={"Origin": f"http://127.0.0.1:{server.port}"})
    assert own[0] == 200 and "access-control-allow-origin" not in own[1]


def test_each_reply_tells_the_browser_to_be_careful(server):
    for path in ("/", "/config", "/nothing", "/static/img/logo.svg", "/gradio_api/info"):
        _, headers, _ = server.request("GET", path)
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "camera=(self)" in headers["permissions-policy"] and "microphone=()" in headers["permissions-policy"]
        policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert policy["frame-ancestors"] == "'self' https://huggingface.co https://*.hf.space"
        assert policy["default-src"] == "'none'" and "'unsafe-inline'" not in policy["script-src"]
        assert not re.search(
            r"(?<!huggingface\.co) https?:|\*(?!\.hf)", headers["content-security-policy"].split("; frame")[0]
        )


def test_who_asks_too_often_waits_and_others_do_not(server):
    said = [server.request("GET", "/robots.txt", address="127.9.9.9") for _ in range(REQUESTS_AT_ONCE + 100)]
    statuses = [status for status, _, _ in said]
    assert statuses[:REQUESTS_AT_ONCE] == [200] * REQUESTS_AT_ONCE and 429 in statuses
    refused = next(reply for reply in said if reply[0] == 429)
    assert "Too many requests from your address" in json.loads(refused[2])["detail"] and refused[1]["retry-after"]
    assert server.request("GET", "/robots.txt", address="127.9.9.8")[0] == 200


def test_connections_that_say_nothing_or_speak_slowly_are_closed(server, photo):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS_OF_ADDRESS + 60)]
    slow = [socket.create_connection(("127.0.0.1", server.port), source_address=("127.1.1.1", 0)) for _ in range(50)]
    for connection in slow:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: local")
    assert server.request("GET", "/robots.txt", address="127.1.1.2")[0] == 200  # of another address
    assert all(is_closed(connection) for connection in (*idle, *slow))
    assert server.request("GET", "/robots.txt")[0] == 200


@pytest.mark.slow
def test_where_all_connections_are_taken_those_that_say_nothing_go(tmp_path, capfd):
    server = Server(tmp_path)
    command = ["sh", "-c", f"ulimit -n 700; exec {shlex.quote(sys.executable)} app.py"]  # of files
    with served_page(command) as (address, _), ExitStack() as strangers:
        server.port = int(address.rsplit(":", 1)[1])
        for number in range(800):
            stranger = socket.create_connection(
                ("127.0.0.1", server.port), source_address=(f"127.2.{number // 40}.1", 0)
            )
            strangers.enter_context(stranger)
        for _ in range(3):
            assert server.request("GET", "/robots.txt")[0] == 200
    assert "open files" not in capfd.readouterr().err


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes it within some seconds."""
    connection.settimeout(10)
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    finally:
        connection.close()


def test_a_body_that_comes_slowly_is_ended_and_leaves_nothing(server):
    before = server.files()
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
    head += b'Content-Type: multipart/form-data; boundary=B\r\n\r\n--B\r\nContent-Disposition: x; filename="a"\r\n\r\n'
    stopped, dripping = (socket.create_connection(("127.0.0.1", server.port)) for _ in range(2))
    for connection in (stopped, dripping):
        connection.sendall(head)
        connection.settimeout(0.1)
    replies = {stopped: b"", dripping: b""}
    until = time.monotonic() + 15
    while not all(b"too slowly" in reply for reply in replies.values()):
        assert time.monotonic() < until, replies
        with suppress(TimeoutError, ConnectionError):
            replies[dripping] += dripping.recv(2000)
        with suppress(TimeoutError):
            replies[stopped] += stopped.recv(2000)
        if not replies[dripping]:
            dripping.sendall(b"x")
    assert all(reply.startswith(b"HTTP/1.1 408") for reply in replies.values())
    wait_until(lambda: server.files() <= before)


@pytest.mark.parametrize(
    ("path", "question", "status", "words"),
    [
        ("call/predict", b"", 422, "not in JSON"),
        ("call/predict", b"[" * 100_000, 422, "not in JSON"),
        ("call/predict", b"\xff\xfe", 422, "not in JSON"),
        ("call/predict", 7, 422, "This request: "),
        ("call/predict", {}, 422, "data: field required"),
        ("call/predict", {"data": "x"}, 422, "data: input should be a valid list"),
        ("call/predict", {"data": [None, MODEL, [], 2]}, 422, "data has 4 values: at most 3"),
        ("call/predict", {"data": [None, MODEL, "Pug"]}, 422, "only_breeds: input should be a valid list"),
        ("call/predict", {"data": [None, MODEL, ["Pug", 7]]}, 422, "only_breeds.1: input should be a valid string"),
        ("call/predict", {"data": [None, MODEL, ["x" * 101]]}, 422, "only_breeds.0: string should have at most 100"),
        ("call/compare", {"data": [None, ["x"] * 1001]}, 422, "only_breeds: list should have at most 1000"),
        ("call/predict", {"data": ["photo.jpg", MODEL]}, 422, "photo: "),
        ("call/predict", {"data": [{"path": 7}]}, 422, "photo.path: input should be a valid string"),
        ("call/predict", {"data": [{"path": "uploads/../../etc/passwd"}]}, 422, "photo.path must be what"),
        ("call/predict", {"data": [None, "resnet"]}, 422, f"model must be one of '{MODEL}'"),
        ("call/predict", {"data": [None, ["x"]]}, 422, f"model must be one of '{MODEL}'"),
        ("call/predict", {"data": [None, {}]}, 422, f"model must be one of '{MODEL}'"),
        (
            "call/v2/predict",
            {"image": None},
            422,
            "There is no parameter 'image': the parameters are photo, model, only_breeds",
        ),
        ("call/v2/predict", [], 422, "by name"),
        ("queue/join", {"data": [], "fn_index": 0}, 422, "session_hash: field required"),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": "x" * 65}, 422, "session_hash: string should match"),
        (
            "queue/join",
            {"data": [], "fn_index": "0", "session_hash": "x"},
            422,
            "fn_index: input should be",
        ),
        ("queue/join", {"data": [], "fn_index": 10**30, "session_hash": "x"}, 404, "nothing here"),
        ("queue/join", {"data": [], "fn_index": -1, "session_hash": "x"}, 404, "nothing here"),
        ("queue/join", {"data": [7], "fn_index": 2, "session_hash": "x"}, 422, "files must be a list"),
        (
            "queue/join",
            {
                "data": [[{"path": f"uploads/{each * 32}/photo.webp"} for each in "aba"]],
                "fn_index": 2,
                "session_hash": "x",
            },
            422,
            "files[2].path names the same upload as files[0]: name each once",
        ),
        ("cancel", {"session_hash": "x"}, 422, "fn_index: field required"),
        ("cancel", {"session_hash": "x", "fn_index": 1, "event_id": "y"}, 200, "success"),
        ("reset", {"event_id": "x" * 1000}, 422, "event_id: string should match"),
        ("reset", {"event_id": "x"}, 200, "success"),
    ],
)
def test_a_question_that_is_none_is_refused_in_a_sentence(server, path, question, status, words):
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    headers = {"Content-Type": "application/json"}
    said = server.request("POST", f"/gradio_api/{path}", body, headers, address="127.3.3.3")
    assert said[0] == status and words in said[2].decode(), said
    assert server.request("GET", "/robots.txt")[0] == 200


def test_a_refusal_waits_for_no_more_than_the_body(tmp_path):
    async def nobody(*_):
        raise AssertionError

    gateway = Gateway(
        nobody,
        UploadFolder(tmp_path, nobody),
        Questions([Event(0, "predict", True, ())], tmp_path),
        AnswerQueue(1, num_for_address=1),
    )
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/call/predict", "query_string": b"", "client": None}
    scope["headers"] = [(b"host", b"localhost")]
    body, sent = [{"type": "http.request", "body": b"{", "more_body": False}], []

    async def receive():
        return body.pop()  # raises where more is asked for

    async def send(message):
        sent.append(message)

    asyncio.run(gateway(scope, receive, send))
    assert sent[0]["status"] == 422


@pytest.mark.parametrize(
    "path", ["queue/data?session_hash=" + "x" * 65, "queue/data?session_hash=..%2F", "upload_progress?upload_id=%00"]
)
def test_names_of_sessions_are_short(server, path):
    assert server.request("GET", f"/gradio_api/{path}")[0] == 422


def test_only_who_named_an_upload_hears_of_its_progress(server, tmp_path):
    def progress(query: str) -> str:
        return server.request("GET", f"/gradio_api/upload_progress{query}")[2].decode()

    make_photo(2, 3).save(tmp_path / "dog.png")
    assert server.upload(b"secret.png", (tmp_path / "dog.png").read_bytes())[0] == 200
    for query in ("", "?upload_id=none", "?session_hash=none"):
        assert progress(query) == 'data: {"msg": "done"}\n\n'
    assert server.upload(b"mine.png", (tmp_path / "dog.png").read_bytes(), query="?upload_id=x1")[0] == 200
    assert '"orig_name": "mine.png"' in progress("?upload_id=x1") and "mine.png" not in progress("")


def test_programs_may_name_the_parameters_and_leave_the_model_out(server, photo):
    for question in ({"photo": photo}, {"photo": photo, "model": MODEL}):
        status, said = server.post("/gradio_api/call/v2/predict", question)
        assert status == 200
        answer = server.request("GET", f"/gradio_api/call/v2/predict/{said['event_id']}")[2].decode()
        assert answer.startswith("event: complete") and f'"model": "{MODEL}"' in answer
    assert "probability" in server.answer("predict", [photo])


def test_programs_may_list_breeds_as_the_command_line_takes_them(server, photo):
    def reply(*breeds):
        return json.loads(server.answer("predict", [photo, MODEL, breeds]).split("data: ")[1])[0]

    listed = reply("Carlin", "n02088364", "golden_retriever")
    assert listed["error"] is None and {*listed["candidates"]} <= {"Pug", "Beagle", "Golden retriever"}
    assert "knows no breed 'Beegle': did you mean 'Beagle'?" in reply("Beegle", "Pug")["error"]
    assert "did you mean 'Berger allemand'?" in reply("berger alemand", "Pug")["error"]
    assert reply("Pug")["error"].startswith("'Pug' alone is no choice") and reply("Pug")["verdict"] is None
    assert "alone is no choice" in server.answer("compare", [photo, ["Pug"]])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:7860", 200),
        ("127.0.0.1", 200),
        ("[::1]:7860", 200),
        ("192.168.1.20", 200),
        ("dogs.localhost", 200),
        ("evil.example", 421),
        ("evil.example:7860", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
def test_a_name_that_a_stranger_directs_here_is_not_answered(server, host, status):
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("GET", "/robots.txt", skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == status
    if host.endswith("evil.example"):
        assert f"--allowed-host {host}" in json.load(reply)["detail"]
    connection.close()


@pytest.mark.parametrize(
    ("authorization", "is_allowed"),
    [
        (None, False),
        ("Bearer wrong", False),
        ("Bearer", False),
        ("Basic !!!", False),
        ("Basic " + base64.b64encode(b"me:wrong").decode(), False),
        ("Bearer k\u00e9y", True),
        ("Basic " + base64.b64encode("me:k\u00e9y".encode()).decode(), True),
        ("Basic " + base64.b64encode("k\u00e9y".encode()).decode(), False),
    ],
)
def test_who_has_the_key_comes_in(authorization, is_allowed):
    from starlette.datastructures import Headers

    headers = [(b"host", b"dogs.example.org")]
    if authorization:
        headers.append((b"authorization", authorization.encode()))
    refusal = Doors(["dogs.example.org"], "k\u00e9y").refusal(Headers(raw=headers))
    assert (refusal is None) == is_allowed
    assert refusal is None or (refusal.status_code == 401 and refusal.headers["www-authenticate"].startswith("Basic"))


def test_a_made_up_address_is_not_believed_and_that_of_a_trusted_proxy_is(server):
    made_up = [
        server.request("GET", "/robots.txt", headers={"X-Forwarded-For": f"9.9.9.{n % 250}"}, address="127.8.8.8")[0]
        for n in range(REQUESTS_AT_ONCE + 80)
    ]
    assert made_up.count(429) > 20
    proxied = [
        server.request("GET", "/robots.txt", headers={"X-Forwarded-For": f"9.9.9.{n % 250}"}, address="127.7.7.7")[0]
        for n in range(REQUESTS_AT_ONCE + 80)
    ]
    assert proxied.count(200) == len(proxied)
    assert server.request("GET", "/robots.txt", headers={"X-Forwarded-For": "unknown"}, address="127.7.7.7")[0] == 200


def test_a_page_tells_links_to_itself_and_not_those_of_a_client(server):
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    assert b"evil.example" not in server.request("GET", "/", headers=headers)[2]
    assert b"evil.example" not in server.request("GET", "/config", headers=headers)[2]


def test_it_connects_to_nobody_and_unpickles_nothing(server, photo):
    assert "probability" in server.answer("predict", [photo, MODEL])
    asked = [
        line for line in server.watched.read_text().splitlines() if not re.search(r"127\.0\.0\.1|localhost|'::1'", line)
    ]
    assert "socket.getaddrinfo" in server.watched.read_text()  # for its own address, so the watch works
    assert asked == []


class Trap:
    """Whoever unpickles it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickles_and_code_in_a_run_folder_are_not_touched(tmp_path):
    run, trace = shutil.copytree(DEFAULT_RUN, tmp_path / "run"), tmp_path / "trace"
    (run / "model.safetensors").unlink(missing_ok=True)
    for name in ("pytorch_model.bin", "model.pkl", "state.pt", "onnx/model.pkl"):
        (run / name).write_bytes(pickle.dumps(Trap(trace)))
    for name in ("modeling_dogs.py", "sitecustomize.py", "config.py"):
        (run / name).write_text(f"open({str(trace)!r}, 'w')")
    code = f"from dogbreeds.serving.predictor import Predictor; Predictor({str(run)!r}).warm_up()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert not trace.exists()
    record = json.loads((run / "run.json").read_text())
    for model in ("pytorch_model.bin", "../run/model.pkl", "/etc/passwd"):
        (run / "run.json").write_text(json.dumps({**record, "serving_model": model}))
        refused = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert refused.returncode == 1 and "UserError" in refused.stderr and "serving_model" in refused.stderr
    assert not trace.exists()


def test_serving_imports_nothing_that_runs_what_it_reads():
    for file in [*(ROOT / "dogbreeds").glob("*.py"), *(ROOT / "dogbreeds/serving").glob("*.py")]:
        found = re.findall(
            r"\b(?:import|from) (?:c?pickle|marshal|shelve|dill|joblib|torch)\b|trust_remote_code|allow_pickle",
            file.read_text(),
        )
        assert not found, f"{file.name}: {found}"


@pytest.mark.slow
def test_a_server_that_is_stopped_finishes_its_answers_and_says_that_it_is_not_ready(tmp_path):
    make_photo(2, 3, (2000, 1500)).save(tmp_path / "dog.png")
    server = Server(tmp_path)
    environment = {"GRADIO_TEMP_DIR": str(tmp_path / "uploads")}
    with served_page([sys.executable, "app.py"], environment=environment) as (address, process):
        server.port = int(address.rsplit(":", 1)[1])
        assert server.request("GET", "/healthz")[::2] == server.request("GET", "/readyz")[::2] == (200, b"ok\n")
        content = (tmp_path / "dog.png").read_bytes()
        photo = {"path": json.loads(server.upload(b"dog.png", content)[2])[0]}
        open_page = socket.create_connection(("127.0.0.1", server.port))
        open_page.sendall(b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nHost: localhost\r\n\r\n")
        ask = partial(server.post, "/gradio_api/call/compare", {"data": [photo]})
        paths = [f"/gradio_api/call/compare/{ask()[1]['event_id']}" for _ in range(4)]
        process.terminate()
        with ThreadPoolExecutor(4) as pool:
            answers = [reply[2].decode() for reply in pool.map(partial(server.request, "GET"), paths)]
        assert all(answer.startswith("event: complete") for answer in answers)
        assert process.wait(15) == 0
        open_page.close()
    assert not [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
