"""The page without a server, in a browser, for its tests and its benchmark."""

import base64
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

SEVERAL_THREADS = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""The headers that let a page use several cores, which a static Space sends."""

_START = """() => new Promise((resolve, reject) => {
    const worker = new Worker("worker.js", { type: "module" });
    worker.addEventListener("message", ({ data }) => {
        if (data.ready) resolve();
        if (data.failed) reject(new Error(data.failed));
    });
    window.ask = (id, file) => new Promise((answered) => {
        const asked = performance.now();
        let told = {};
        worker.addEventListener("message", ({ data }) => {
            if (data.id !== id) return;
            told = { ...told, ...data, milliseconds: performance.now() - asked };
            if (data.dogs || data.problem) answered(told);
        });
        worker.postMessage({ id, file });
    });
})"""
_ASK = """async ([id, photo]) => {
    const file = new Blob([Uint8Array.from(atob(photo), (character) => character.charCodeAt(0))]);
    const { prediction, dogs, problem, milliseconds } = await ask(id, file);
    if (problem) return { problem };
    const plain = (answer) => ({ ...answer, heatMap: Array.from(answer.heatMap?.data ?? []) });
    return { ...plain(prediction), dogs: dogs.map(plain), withDogs: milliseconds };
}"""


class BrowserPredictor:
    """What answers in the browser, without the page around it."""

    def __init__(self, page: Page, address: str) -> None:
        """Load the model.

        Args:
            page: A new one.
            address: Of the folder that `served` serves.
        """
        page.goto(f"{address}/model.json")
        page.evaluate(_START)
        self._page, self._num_asked = page, 0

    def predict(self, photo: bytes) -> dict[str, Any]:
        """The prediction of predictor.js, or the `problem`, for a photo's file.

        With it come the `dogs`, as every_dog.js gives them, and the milliseconds until they were there, `withDogs`.
        """
        self._num_asked += 1
        found: dict[str, Any] = self._page.evaluate(_ASK, [self._num_asked, base64.b64encode(photo).decode()])
        return found


class _Server(ThreadingHTTPServer):
    requests: list[tuple[str, str]]
    """The method and the path of each."""


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def __init__(self, *arguments: Any, headers: Mapping[str, str], **others: Any) -> None:
        self._headers = headers
        super().__init__(*arguments, **others)

    def end_headers(self) -> None:
        for name, value in self._headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_request(self, *_: object) -> None:
        self.server.requests.append((self.command, self.path))

    def log_error(self, *_: object) -> None:
        """To nobody: the request is in the list."""


@contextmanager
def served(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Serve a folder as any web server does.

    Yields:
        Its address, and the method and path of each request so far.
    """
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=str(folder), headers=headers or {})) as server:
        server.requests = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.requests
        finally:
            server.shutdown()
