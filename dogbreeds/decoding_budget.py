"""How much is decoded at the same time in one process, so that its memory stays bounded on many cores."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from dogbreeds.machine import num_bytes_of_memory, num_cores

CORES_PER_SHARE = 2
"""So photos of up to half of the pixels that their format may have never wait: those of nearly every phone."""
MEMORY_PER_SHARE = 4 * 2**30
"""Bytes of the machine. A share stands for one of the largest photos, about 500 MB."""

_PARTS = 1024
"""Of a share. They are whole numbers, because sums of fractions would not come back to 1."""
_SMALL = _PARTS // 16
"""Photos with fewer parts are never counted: they neither wait nor make others wait."""


class DecodingBudget:
    """Lets photos be decoded while there is room for them, in the order in which they came."""

    def __init__(self, num_shares: float) -> None:
        """Begin with nothing decoded.

        Args:
            num_shares: Of the largest photos, how many may be decoded at the same time; at least 1.
        """
        assert num_shares >= 1, num_shares
        self._num_free = int(num_shares * _PARTS)
        self._turn, self._room = threading.Lock(), threading.Condition()

    @contextmanager
    def share(self, num_pixels: int, max_pixels: int) -> Iterator[None]:
        """Wait until there is room for a photo, and take it meanwhile.

        Args:
            num_pixels: Of the photo, at most `max_pixels`.
            max_pixels: As many as one share stands for.
        """
        assert num_pixels <= max_pixels, (num_pixels, max_pixels)
        num_parts = num_pixels * _PARTS // max_pixels
        if num_parts < _SMALL:
            yield
            return
        with self._turn, self._room:  # who waits for room keeps the turn, so no smaller photo overtakes a large one
            self._room.wait_for(lambda: self._num_free >= num_parts)
            self._num_free -= num_parts
        try:
            yield
        finally:
            with self._room:
                self._num_free += num_parts
                self._room.notify()


@cache
def decoding_budget() -> DecodingBudget:
    """That of this process: a share for every two cores, if there is the memory for it, and at least one."""
    by_cores, by_memory = num_cores() / CORES_PER_SHARE, num_bytes_of_memory() / MEMORY_PER_SHARE
    return DecodingBudget(max(1.0, min(by_cores, by_memory)))


if hasattr(os, "register_at_fork"):  # what other threads decode is not in the copy of a process, and never ends there
    os.register_at_fork(after_in_child=decoding_budget.cache_clear)
