"""How long a client may take to read what is sent to it, on a clock that only the tests move."""

import socket
from types import SimpleNamespace

import pytest
import uvicorn
from uvicorn.server import ServerState

from dogbreeds.serving.clients import Proxies
from dogbreeds.serving.connections import SEND_SECONDS, Connection, Crowd
from dogbreeds.serving.upload_route import MIN_BYTES_PER_SECOND

WHOLE = 20_000_000
"""Bytes: about as many as the last message of a list of 500 photos has."""


class Clock:
    """In place of the event loop: what is to be called, and when."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def call_later(self, seconds, function):
        timer = SimpleNamespace(when=self.now + seconds, function=function, cancel=lambda: self.calls.remove(timer))
        self.calls.append(timer)
        return timer

    def move(self, seconds) -> None:
        self.now += seconds
        for timer in [each for each in self.calls if each.when <= self.now]:
            self.calls.remove(timer)
            timer.function()


class Client:
    """Who reads what is sent, and what it is sent by."""

    def __init__(self) -> None:
        self.clock, self.num_unsent, self.is_cut_off = Clock(), 0, False
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        config = uvicorn.Config(app=None, ws="none", log_config=None)
        self.connection = Connection(
            Crowd(9, Proxies()), config=config, server_state=ServerState(), app_state={}, _loop=self.clock
        )
        self.connection.connection_made(self)
        self.connection._head_timer.cancel()

    def get_extra_info(self, name):
        return {"socket": self.ours}.get(name)

    def get_write_buffer_size(self) -> int:
        return self.num_unsent

    def abort(self) -> None:
        self.is_cut_off = True

    def is_sent(self, num_bytes) -> None:
        self.num_unsent = num_bytes
        self.connection.pause_writing()

    def reads_for(self, seconds, num_bytes_a_second) -> None:
        for _ in range(seconds):
            self.num_unsent -= num_bytes_a_second
            self.clock.move(1)


@pytest.fixture
def client():
    client = Client()
    yield client
    client.ours.close()
    client.theirs.close()


def test_who_reads_slowly_gets_the_whole_and_who_stops_is_cut_off(client):
    client.is_sent(WHOLE)
    client.reads_for(600, 5_000)
    assert not client.is_cut_off
    client.reads_for(2 * int(SEND_SECONDS), 0)
    assert client.is_cut_off


@pytest.mark.parametrize("num_bytes_a_second", [0, 3_000])
def test_who_reads_nothing_or_next_to_nothing_is_cut_off(client, num_bytes_a_second):
    client.is_sent(WHOLE)
    client.reads_for(int(SEND_SECONDS) - 1, num_bytes_a_second)
    assert not client.is_cut_off
    client.reads_for(1, num_bytes_a_second)
    assert client.is_cut_off


def test_who_has_read_may_pause_before_more_is_sent(client):
    client.is_sent(WHOLE)
    client.reads_for(10, 1_900_000)
    client.connection.resume_writing()
    client.reads_for(1_000, 0)
    client.is_sent(WHOLE)
    client.reads_for(int(SEND_SECONDS) - 1, 0)
    assert not client.is_cut_off


def test_what_is_read_of_what_the_system_holds_counts(client):
    held = client.ours.send(bytes(WHOLE))
    assert held > SEND_SECONDS * MIN_BYTES_PER_SECOND
    client.is_sent(WHOLE)
    while held:
        held -= len(client.theirs.recv(held))
    client.reads_for(int(SEND_SECONDS), 0)  # of what the server holds
    assert not client.is_cut_off
