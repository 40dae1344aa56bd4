"""The gateway of the running page: what gradio would serve beside the page, and how people have got in before."""

import asyncio
import json
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from conftest import ROOT, make_photo

from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.gateway import REQUESTS_AT_ONCE, REQUESTS_PER_SECOND, Gateway, RateLimiter, upload_response
from dogbreeds.serving.uploads import open_upload
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
    "call/v2/predict",
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
            "import sys; from dogbreeds.serving.page import app; app.CACHE_SECONDS = 2\n"
            f"app.serve([{str(run)!r}], None, None)"
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

    def upload(self, name: bytes, content: bytes, field: bytes = b"files"):
        body = b'--B\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n' % (field, name)
        headers = {"Content-Type": "multipart/form-data; boundary=B"}
        return self.request("POST", "/gradio_api/upload", body + content + b"\r\n--B--\r\n", headers)

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

    def files(self) -> list[Path]:
        return [path for path in self.uploads.rglob("*") if path.is_file()]


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


def test_of_all_routes_these_are_open():
    import gradio as gr
    from gradio.routes import App

    async def nobody(scope, receive, send):
        raise AssertionError

    stands = Gateway(nobody, Path("/uploads"))
    names = {"{api_name}": "predict", "{event_id}": "e1", "{session_hash}": "s1", "{path:path}": "a.js"}
    names["{path_or_url:path}"] = "/uploads/a/b.png"
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
        answer = server.answer(endpoint, [json.loads(said)] + [MODEL] * (endpoint == "predict"))
        assert "probability" not in answer and "root:" not in answer
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
    (inside,) = server.uploads.glob("dogbreeds-*")
    for path in json.loads(content) if status == 200 else []:
        assert Path(path).resolve().is_relative_to(inside) and "/../" not in path
        assert len(Path(path).relative_to(inside).parts) == 2
    assert all(path.is_relative_to(inside) for path in server.files())
    assert {path for folder in (ROOT, Path("/etc"), Path("/tmp")) for path in folder.glob("x*")} == before


def test_people_who_send_the_same_file_do_not_share_it(server, photo, tmp_path):
    content = (tmp_path / "dog.png").read_bytes()
    mine, other = (Path(json.loads(server.upload(b"dog.png", content)[2])[0]) for _ in range(2))
    assert len({mine.parent, other.parent, Path(photo["path"]).parent}) == 3 and mine.name == other.name == "dog.png"
    assert "probability" in server.answer("predict", [{**photo, "path": str(mine)}, MODEL])
    assert mine.read_bytes() != content and other.read_bytes() == content  # coded anew, where it is mine
    mine.unlink()
    assert "probability" in server.answer("predict", [{**photo, "path": str(other)}, MODEL])


def test_an_upload_is_sent_whole_while_it_is_replaced_or_deleted(tmp_path):
    path = tmp_path / "dog.png"
    make_photo(2, 1, (640, 480)).save(path)
    sent, content = upload_response(path), path.read_bytes()
    open_upload(path)
    again = upload_response(path)
    path.unlink()

    async def body(response):
        return b"".join([part async for part in response.body_iterator])

    for response in (sent, again):
        assert response.headers["content-type"] == "image/png" and "content-disposition" not in response.headers
        received = asyncio.run(body(response))
        assert len(received) == int(response.headers["content-length"]) and (received == content) == (response is sent)
    assert upload_response(path).status_code == 404


@pytest.mark.parametrize("name", ["page.html", "page.svg", "page.xml", "page"])
def test_an_upload_is_never_a_page_of_this_one(name, tmp_path):
    (tmp_path / name).write_text("<script>alert(1)</script>")
    headers = upload_response(tmp_path / name).headers
    assert headers["content-disposition"] == "attachment" and headers["content-type"] == "application/octet-stream"


def test_an_upload_that_is_too_large_is_refused_and_gone(server):
    status, _, content = server.upload(b"large.png", bytes(43_000_000))
    assert status == 413 and b"maximum allowed size" in content
    assert all(path.stat().st_size < 43_000_000 for path in server.files())
    status, said = server.post("/gradio_api/call/predict", {"data": ["x" * 2_000_000]})
    assert status == 413 and said["detail"].startswith("This request is too long")


def test_uploads_are_deleted_on_schedule(server, photo):
    assert Path(photo["path"]).exists()
    (inside,) = server.uploads.glob("dogbreeds-*")
    body = b'--B\r\nContent-Disposition: form-data; name="files"; filename="half.png"\r\n\r\nhalf'
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\nContent-Type: multipart/form-data; "
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}boundary=B\r\n\r\n".encode() + body)
        until = time.monotonic() + 5
        while not [path for path in inside.iterdir() if path.is_file() and not path.is_symlink()]:
            assert time.monotonic() < until, "what is sent in part is nowhere"
            time.sleep(0.02)
    until = time.monotonic() + 12
    while [path for path in inside.rglob("*") if not path.is_dir()]:
        assert time.monotonic() < until, "uploads are kept"
        time.sleep(0.2)


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


def test_patience_fills_the_bucket_again():
    now = 0.0
    pace = RateLimiter(lambda: now)
    assert all(pace.allows("a") for _ in range(REQUESTS_AT_ONCE)) and not pace.allows("a")
    now = 1.0
    assert sum(pace.allows("a") for _ in range(50)) == REQUESTS_PER_SECOND
    for number in range(20_000):
        pace.allows(str(number))
    assert len(pace._buckets) <= 10_000


@pytest.mark.parametrize(
    ("space", "forwarded", "address"),
    [
        ("me/dogs", "6.6.6.6, 9.9.9.9, 10.0.0.7", "9.9.9.9"),
        ("me/dogs", "6.6.6.6, 2a00:1:2:3:4:5:6:7", "2a00:1:2:3::/64"),
        ("me/dogs", "nonsense", "127.0.0.1"),
        ("me/dogs", "", "127.0.0.1"),
        (None, "6.6.6.6", "127.0.0.1"),
    ],
)
def test_an_address_is_believed_as_far_as_it_can_be(monkeypatch, space, forwarded, address):
    from starlette.datastructures import Headers

    from dogbreeds.serving.gateway import _address

    monkeypatch.delenv("SPACE_ID", raising=False)
    if space:
        monkeypatch.setenv("SPACE_ID", space)
    assert _address({"client": ("127.0.0.1", 5)}, Headers({"x-forwarded-for": forwarded})) == address


def test_it_connects_to_nobody_and_unpickles_nothing(server, photo):
    assert "probability" in server.answer("predict", [photo, MODEL])
    asked = [
        line for line in server.watched.read_text().splitlines() if not re.search(r"127\.0\.0\.1|localhost|'::1'", line)
    ]
    assert "socket.connect" in server.watched.read_text()  # gradio asks itself at its start, so the watch works
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
