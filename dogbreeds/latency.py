"""How long the answer to a single photo takes."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dogbreeds.images import PhotoSource

NUM_PHOTOS = 50
"""Photos that are timed: two or three of them are above the 95th percentile."""
NUM_WARM_UP = 3


def milliseconds_per_photo(
    answers: Sequence[Callable[[PhotoSource], Any]], photos: Sequence[PhotoSource]
) -> list[dict[str, float]]:
    """Time several functions on the same photos, in turns, so that other load on the machine affects all alike.

    Args:
        answers: Functions from a photo, not yet opened, to its answer.
        photos: At least one. The first `NUM_PHOTOS` are timed, after `NUM_WARM_UP` that are not.

    Returns:
        For each of `answers` the `median` and `p95` (95th percentile), milliseconds, and `n`, the photos timed.
    """
    timed = photos[:NUM_PHOTOS]
    milliseconds = np.empty((len(answers), len(timed)))
    for answer in answers:
        for photo in timed[:NUM_WARM_UP]:
            answer(photo)
    for index, photo in enumerate(timed):
        for which, answer in enumerate(answers):
            started = time.perf_counter()
            answer(photo)
            milliseconds[which, index] = 1000 * (time.perf_counter() - started)
    return [
        {"median": float(np.median(row)), "p95": float(np.percentile(row, 95)), "n": len(row)} for row in milliseconds
    ]
