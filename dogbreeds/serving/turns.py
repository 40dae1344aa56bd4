"""Turns: how many tasks work at a time, and whose is next, so that nobody waits behind all tasks of one address."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lets a limited number of tasks work at a time; of those that wait, each address is next in rotation."""

    def __init__(self, num_at_once: int, *, num_for_address: int | None = None) -> None:
        """Begin with nobody at work.

        Args:
            num_at_once: Tasks that work at a time.
            num_for_address: How many of them may be of one address; None for all.
        """
        self._num_free = num_at_once
        self._num_for_address = num_for_address or num_at_once
        self._working: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """In the order of whose turn it is."""

    @property
    def num_working(self) -> int:
        """Tasks whose turn it is."""
        return self._working.total()

    @property
    def num_waiting(self) -> int:
        """Tasks that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def num_of(self, address: str) -> int:
        """Tasks of one address that work or wait."""
        return self._working[address] + len(self._waiting.get(address, ()))

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait for a turn of this address, and keep it meanwhile."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(turn)
        self._give_turns()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(address, turn)
            else:
                self._end(address)
            raise
        try:
            yield
        finally:
            self._end(address)

    def _give_turns(self) -> None:
        while self._num_free and (address := self._next_address()) is not None:
            turn = self._waiting[address][0]
            self._forget(address, turn)
            if address in self._waiting:  # to the end of the rotation
                self._waiting[address] = self._waiting.pop(address)
            if not turn.cancelled():
                self._num_free -= 1
                self._working[address] += 1
                turn.set_result(None)

    def _next_address(self) -> str | None:
        return next((each for each in self._waiting if self._working[each] < self._num_for_address), None)

    def _end(self, address: str) -> None:
        self._num_free += 1
        self._working[address] -= 1
        if not self._working[address]:
            del self._working[address]
        self._give_turns()

    def _forget(self, address: str, turn: asyncio.Future[None]) -> None:
        if turn not in self._waiting.get(address, ()):
            return  # it was cancelled when its turn came
        self._waiting[address].remove(turn)
        if not self._waiting[address]:
            del self._waiting[address]
