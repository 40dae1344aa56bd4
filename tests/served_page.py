"""The page as its user starts it, for tests, benchmarks and pictures."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


@contextmanager
def served_page(
    command: Sequence[object], *, folder: Path = ROOT, environment: Mapping[str, str] | None = None, quiet: bool = False
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a page on a free port, wait until it answers, and stop it at the end.

    Args:
        command: What serves it, at the port that GRADIO_SERVER_PORT names.
        folder: Where it is started.
        environment: What its environment holds besides this one's.
        quiet: Keep what it prints from the terminal.

    Yields:
        Its address and its process.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [str(argument) for argument in command],
        cwd=folder,
        env={**os.environ, **(environment or {}), "GRADIO_SERVER_PORT": str(port)},
        stdout=subprocess.DEVNULL if quiet else None,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(address).close()
                break
            except OSError:
                assert process.poll() is None, "the server stopped"
                time.sleep(0.05)
        yield address, process
    finally:
        process.terminate()
        process.wait()
