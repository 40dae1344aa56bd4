"""Turns: how many tasks work at a time, and whose is next, so that nobody waits behind all tasks of one address."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Waiting:
    """A task that waits."""

    is_urgent: Callable[[], bool]
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turns:
    """Lets a limited number of tasks work at a time; of those that wait, each address is next in rotation.

    Who is not urgent comes after all who are.
    """

    def __init__(self, num_at_once: int, *, num_for_address: int | None = None) -> None:
        """Begin with nobody at work.

        Args:
            num_at_once: Tasks that work at a time.
            num_for_address: How many of them may be of one address; None for all.
        """
        self._num_free = num_at_once
        self._num_for_address = num_for_address or num_at_once
        self._working: Counter[str] = Counter()
        self._waiting: dict[str, list[_Waiting]] = {}
        """In the order of whose turn it is."""

    @property
    def num_waiting(self) -> int:
        """Tasks that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def num_of(self, address: str) -> int:
        """Tasks of one address that work or wait."""
        return self._working[address] + len(self._waiting.get(address, ()))

    @asynccontextmanager
    async def turn(self, address: str, is_urgent: Callable[[], bool] = lambda: True) -> AsyncIterator[None]:
        """Wait for a turn of this address, and keep it meanwhile.

        Args:
            address: Whose it is.
            is_urgent: Asked whenever a turn is free.
        """
        waiting = _Waiting(is_urgent)
        self._waiting.setdefault(address, []).append(waiting)
        self._give_turns()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.cancelled():
                self._forget(address, waiting)
            else:
                self._end(address)
            raise
        try:
            yield
        finally:
            self._end(address)

    def _give_turns(self) -> None:
        while self._num_free and (found := self._next()) is not None:
            address, waiting = found
            self._forget(address, waiting)
            if address in self._waiting:  # to the end of the rotation
                self._waiting[address] = self._waiting.pop(address)
            if not waiting.turn.cancelled():
                self._num_free -= 1
                self._working[address] += 1
                waiting.turn.set_result(None)

    def _next(self) -> tuple[str, _Waiting] | None:
        allowed = [each for each in self._waiting if self._working[each] < self._num_for_address]
        tasks = [(address, waiting) for address in allowed for waiting in self._waiting[address]]
        return next((task for task in tasks if task[1].is_urgent()), tasks[0] if tasks else None)

    def _end(self, address: str) -> None:
        self._num_free += 1
        self._working[address] -= 1
        if not self._working[address]:
            del self._working[address]
        self._give_turns()

    def _forget(self, address: str, waiting: _Waiting) -> None:
        if waiting not in self._waiting.get(address, ()):
            return  # it was cancelled when its turn came
        self._waiting[address].remove(waiting)
        if not self._waiting[address]:
            del self._waiting[address]
