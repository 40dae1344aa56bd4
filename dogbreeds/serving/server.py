"""The server process: it listens, answers until it is told to stop, and then finishes what it has begun."""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import time
from functools import partial

import uvicorn

from dogbreeds.errors import UserError
from dogbreeds.serving.clients import Proxies
from dogbreeds.serving.connections import KEEP_ALIVE_SECONDS, Connection, Crowd, max_connections
from dogbreeds.serving.gateway import Gateway

DRAIN_SECONDS = 10.0
"""How long questions are still answered after SIGTERM."""
LOG_LINES, LOG_SECONDS = 20, 60.0
"""At most so many lines are logged in so much time."""

BACKLOG = 1024
"""Connections that the system holds until they are taken."""
NUM_TAKEN = 64
"""Connections that are taken at once. Some times as many are open before the first is counted and perhaps closed, so
they need files that `max_connections` leaves free."""

_FIRST_PORT, _NUM_PORTS = 7860, 100


def listen(host: str | None, port: int | None) -> socket.socket:
    """Listen for connections.

    Args:
        host: Address to listen on; None for this machine alone, or what GRADIO_SERVER_NAME says.
        port: Port to listen on; None for the first free one from 7860 on, or what GRADIO_SERVER_PORT says.

    Raises:
        UserError: The port is in use or not allowed, or the address is not this machine's.
    """
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    if port is None and (named := os.environ.get("GRADIO_SERVER_PORT")):
        try:
            port = int(named)
        except ValueError:
            raise UserError(f"GRADIO_SERVER_PORT is {named!r}: must be from 1 to 65535") from None
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"--port {port}: must be from 1 to 65535")
    ports = range(_FIRST_PORT, _FIRST_PORT + _NUM_PORTS) if port is None else [port]
    for candidate in ports:
        try:
            return _bound(host, candidate)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            if error.errno == errno.EACCES:
                remedy = "give one from 1024 on with --port"
                raise UserError(f"port {candidate} is not allowed to this user: {remedy}") from None
            raise UserError(f"--host {host} is no address of this machine ({error.strerror})") from None
    in_use = f"port {port} is" if port is not None else f"the ports {ports[0]} to {ports[-1]} are"
    raise UserError(f"{in_use} in use: give another with --port")


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def run(gateway: Gateway, proxies: Proxies, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        gateway: What is served.
        proxies: Whose connections are those of many clients.
        listener: Where connections come in.
    """
    crowd = Crowd(max_connections(), proxies)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a warning for each request that is no HTTP
    logging.lastResort = _limited_log()
    config = uvicorn.Config(
        gateway,
        http=partial(Connection, crowd),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=NUM_TAKEN,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again at its end
    _Server(config, gateway).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; asyncio takes one number for what the system holds and for what is taken."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the questions that wait, but take no more; then close."""
        self._gateway.is_draining = True
        await asyncio.sleep(0.2)  # a program asks for its answer on another connection
        until = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < until and self._gateway.num_open:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


class _FewLines(logging.Filter):
    """Lets a limited number of lines pass, and says how many others there were."""

    def __init__(self) -> None:
        super().__init__()
        self._since, self._num_lines = 0.0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._since > LOG_SECONDS:
            if self._num_lines > LOG_LINES:
                record.msg = f"{self._num_lines - LOG_LINES} lines were left out before this one\n{record.msg}"
            self._since, self._num_lines = now, 0
        self._num_lines += 1
        return self._num_lines <= LOG_LINES


def _limited_log() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_FewLines())
    return handler
