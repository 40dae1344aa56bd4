"""The connections of the server: how many there may be, in all and of one address, and how long they may idle."""

import asyncio
import fcntl
import resource
import struct
import termios
from collections import Counter
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from dogbreeds.serving.clients import Proxies
from dogbreeds.serving.upload_route import MIN_BYTES_PER_SECOND

MAX_CONNECTIONS_OF_ADDRESS = 200
"""A class of thirty behind one address has about 180: six a browser."""
HEAD_SECONDS = 10.0
"""How long a request's first line and headers may take, from the connection or their first byte on."""
SEND_SECONDS = 30.0
"""How long a client may read less than `MIN_BYTES_PER_SECOND` of what is sent to it."""
KEEP_ALIVE_SECONDS = 15
"""How long a connection may idle after a reply."""

_OTHER_FILES = 400
"""Files that stay free for everything but connections, and for those that are not counted yet."""
_MAX_CONNECTIONS = 4_000


def max_connections() -> int:
    """As many connections as the limit of open files (`ulimit -n`) allows; it is raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + _OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(_MAX_CONNECTIONS, soft - _OTHER_FILES))


class Crowd:
    """The connections that there are."""

    def __init__(self, max_connections: int, proxies: Proxies) -> None:
        """Begin with none.

        Args:
            max_connections: Of all addresses.
            proxies: Whose connections are those of many clients.
        """
        self._max_connections, self._proxies = max_connections, proxies
        self._of_address: Counter[str] = Counter()
        self._idle: dict[Connection, None] = {}
        """Those that say nothing, in the order in which they began to."""

    def enter(self, peer: str) -> bool:
        """Whether one more may come from there; then it is counted until it is left.

        Where there are too many of all addresses, the one that has said nothing for the longest is closed for it.
        """
        if self._of_address[peer] >= MAX_CONNECTIONS_OF_ADDRESS and not self._proxies.trusts(peer):
            return False
        if self._of_address.total() >= self._max_connections:
            silent = next(iter(self._idle), None)
            if silent is None:
                return False
            self.has_said(silent)
            silent.transport.abort()
        self._of_address[peer] += 1
        return True

    def is_silent(self, connection: "Connection") -> None:
        """It has no question now."""
        self._idle[connection] = None

    def has_said(self, connection: "Connection") -> None:
        """It has a question, or is closed."""
        self._idle.pop(connection, None)

    def leave(self, peer: str) -> None:
        """Count one less."""
        self._of_address[peer] -= 1
        if not self._of_address[peer]:
            del self._of_address[peer]


class Connection(H11Protocol):
    """A connection that is closed when it is one too many, too slow, or idle.

    uvicorn (0.54.0) limits the time between two requests alone, and its other limits are of requests. Slow bodies are
    the gateway's, see `dogbreeds.serving.upload_route.body_parts`.
    """

    def __init__(self, crowd: Crowd, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._crowd = crowd
        self._peer: str | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or close it."""
        super().connection_made(transport)
        peer = self.client[0] if self.client else ""
        if not self._crowd.enter(peer):
            transport.abort()
            return
        self._peer = peer
        self._crowd.is_silent(self)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        _stop(self._head_timer)
        _stop(self._send_timer)
        self._crowd.has_said(self)
        if self._peer is not None:
            self._crowd.leave(self._peer)
            self._peer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop waiting for the head of a request when it is there."""
        if self._head_timer is None and not self._is_answering:
            self._await_head()
        super().data_received(data)
        if self._is_answering:
            _stop(self._head_timer)
            self._head_timer = None
            self._crowd.has_said(self)

    def on_response_complete(self) -> None:
        """It may ask again."""
        super().on_response_complete()
        if self._peer is not None and not self._is_answering:
            self._crowd.is_silent(self)

    def pause_writing(self) -> None:
        """Close the connection if the client reads too little of what is sent; until it has, uvicorn sends no more."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        _stop(self._send_timer)
        super().resume_writing()

    def shutdown(self) -> None:
        """The server has answered all questions: what is still open is a stream that never ends."""
        self.transport.abort()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _await_reading(self) -> None:
        num_before = self._num_unread()

        def look() -> None:
            if num_before - self._num_unread() < SEND_SECONDS * MIN_BYTES_PER_SECOND:
                self.transport.abort()
            else:
                self._await_reading()

        self._send_timer = self.loop.call_later(SEND_SECONDS, look)

    def _num_unread(self) -> int:
        """Bytes that are sent, and that the client has not taken.

        The system holds some MB of them, and asks for more only when a third of these is gone.
        """
        in_system = bytes(4)
        with suppress(OSError):  # a system that does not tell
            in_system = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_system)
        return self.transport.get_write_buffer_size() + struct.unpack("i", in_system)[0]


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
