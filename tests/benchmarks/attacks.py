"""What strangers do to a page on the internet, each from addresses of their own; `load.py --attacks` runs all of it."""

import io
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from urllib.request import urlopen

from PIL import Image

UPLOAD_HEAD = (
    b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Type: multipart/form-data; boundary=B\r\n"
)
FILE_HEAD = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
Attack = Callable[["Attacker"], None]


class Attacker:
    """Somebody with an address, who does the same again and again."""

    def __init__(self, host: str, number: int, ended: threading.Event) -> None:
        self.host, port = host.split(":")
        self.port, self.address, self.ended = int(port), f"127.200.{number}.1", ended
        self.rng = random.Random(number)

    def connect(self) -> socket.socket:
        """A connection from the attacker's address."""
        return socket.create_connection((self.host, self.port), 20, source_address=(self.address, 0))

    def send(self, *parts: bytes) -> bytes:
        """Send bytes and read the reply, as far as it comes."""
        reply = b""
        with self.connect() as connection, suppress(OSError):
            for part in parts:
                connection.sendall(part)
            while received := connection.recv(4000):
                reply += received
        return reply

    def upload(self, *parts: bytes) -> bytes:
        """Send the body of an upload."""
        length = b"Content-Length: %d\r\n\r\n" % sum(map(len, parts))
        return self.send(UPLOAD_HEAD, length, *parts)

    def uploaded(self, photos: list[bytes]) -> list[str]:
        """The paths of photos that the page took; none if it refused."""
        reply = self.upload(*(FILE_HEAD + photo + b"\r\n" for photo in photos), b"--B--\r\n")
        with suppress(ValueError, IndexError):
            if isinstance(paths := json.loads(reply.split(b"\r\n\r\n", 1)[1]), list):
                return paths
        return []

    def question(self, path: str, body: bytes) -> bytes:
        """Post a question."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        return self.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def page_functions(host: str) -> dict[str, int]:
    """The numbers of the page's functions, by name."""
    with urlopen(f"http://{host}/config") as reply:
        return {each["api_name"]: each["id"] for each in json.load(reply)["dependencies"]}


@cache
def small_photo() -> bytes:
    """A photo of noise."""
    buffer = io.BytesIO()
    Image.effect_noise((300, 200), 60).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def bomb() -> bytes:
    """A photo of 50 megapixels in some 200 kB."""
    buffer = io.BytesIO()
    Image.new("RGBA", (7000, 7100), (1, 2, 3, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def send_bombs(attacker: Attacker) -> None:
    """Several enormous pictures in one request, eight requests at a time."""
    body = b"".join(FILE_HEAD + bomb() + b"\r\n" for _ in range(4)) + b"--B--\r\n"
    senders = [threading.Thread(target=attacker.upload, args=(body,)) for _ in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()


def send_fields(attacker: Attacker) -> None:
    """A form field that is no file, of 100 MB."""
    attacker.upload(b'--B\r\nContent-Disposition: form-data; name="x"\r\n\r\n', *[bytes(10_000_000)] * 10)


def send_large_files(attacker: Attacker) -> None:
    """Ten files of 39 MB in one request."""
    attacker.upload(*[FILE_HEAD + bytes(39_000_000) + b"\r\n"] * 10, b"--B--\r\n")


def hold_idle_connections(attacker: Attacker) -> None:
    """1,100 connections that say nothing."""
    _hold(attacker, 1100, b"")


def hold_slow_connections(attacker: Attacker) -> None:
    """50 requests that come a byte a second."""
    _hold(attacker, 50, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")


def _hold(attacker: Attacker, num_connections: int, first: bytes) -> None:
    connections = []
    for _ in range(num_connections):
        with suppress(OSError):
            connections.append(attacker.connect())
            connections[-1].sendall(first)
    until = time.monotonic() + 15
    while connections and time.monotonic() < until and not attacker.ended.wait(1):
        if first:
            for connection in connections:
                with suppress(OSError):
                    connection.sendall(b"x")
    for connection in connections:
        connection.close()


def post_junk(attacker: Attacker) -> None:
    """Questions that are none, and what is no HTTP."""
    paths = ["call/predict", "call/compare", "call/v2/predict", "queue/join", "run/x", "cancel", "reset", "upload"]
    junk = [b"", b"{", b"null", b'{"data": [{"path": "/etc/passwd"}]}', b'{"data": [null, null, null]}', b"[" * 9000]
    junk += [json.dumps({"data": [], "fn_index": n, "session_hash": "x" * n}).encode() for n in (0, 5, 100)]
    for _ in range(20):
        attacker.question(f"/gradio_api/{attacker.rng.choice(paths)}", attacker.rng.choice(junk))
    attacker.send(attacker.rng.randbytes(300) + b"\r\n\r\n")
    time.sleep(0.5)


def ask_and_never_listen(attacker: Attacker) -> None:
    """Questions about one photo, as many as may be asked, whose answers nobody takes."""
    for path in attacker.uploaded([small_photo()]):
        body = json.dumps({"data": [{"path": path}]}).encode()
        for _ in range(50):
            attacker.question("/gradio_api/call/compare", body)


def send_many_lists(attacker: Attacker) -> None:
    """Lists of twenty photos, each of another visit, as many as are taken and more than are answered."""
    number = page_functions(f"{attacker.host}:{attacker.port}")["show_many"]
    for _ in range(20):
        files = [{"path": path, "orig_name": "a.png"} for path in attacker.uploaded([small_photo()] * 20)]
        question = {"fn_index": number, "session_hash": f"visit{attacker.rng.randrange(10**9)}", "data": [files]}
        attacker.question("/gradio_api/queue/join", json.dumps(question).encode())


ATTACKS: list[Attack] = [
    send_bombs,
    send_fields,
    send_large_files,
    hold_idle_connections,
    hold_slow_connections,
    post_junk,
    ask_and_never_listen,
    send_many_lists,
]


@contextmanager
def attacked(host: str) -> Iterator[Counter[str]]:
    """Meanwhile, all attacks; how often each was made."""
    ended, done = threading.Event(), Counter[str]()

    def go_on(attack: Attack, attacker: Attacker) -> None:
        while not ended.is_set():
            with suppress(OSError):
                attack(attacker)
                done[attack.__name__] += 1
            time.sleep(0.05)

    threads = [
        threading.Thread(target=go_on, args=(attack, Attacker(host, number, ended)), daemon=True)
        for number, attack in enumerate(ATTACKS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
