"""Which dogs of a video's frames are the same dog.

A dog is told from others by what the network says of it, and not by its place: frames are half a second apart, and the
camera moves too. Dogs that are alike to the network have the same answer, so confusing them does no harm.
"""

from collections.abc import Sequence

import numpy as np

from dogbreeds.calibration import Outputs

MIN_SIMILARITY = 0.4
"""Of a dog to another sighting of it, -1..1: the cosine of their logits, each less its mean."""

Sighting = tuple[int, int]
"""The number of a frame, and of a dog in it."""


def followed(frames: Sequence[Sequence[Outputs]]) -> list[list[Sighting]]:
    """Follow each dog through the frames; it may be out of sight for some of them.

    Args:
        frames: For each frame, the outputs of each dog in it, one row.

    Returns:
        The sightings of each dog, by the frame in which it is first seen. One frame shows it once.
    """
    dogs: list[list[Sighting]] = []
    sums: list[np.ndarray] = []
    """Of the directions of each dog's sightings."""
    for number, outputs in enumerate(frames):
        directions = [_direction(each.logits[0] - each.logits[0].mean()) for each in outputs]
        similarities = [
            (float(_direction(total) @ direction), dog, index)
            for dog, total in enumerate(sums)
            for index, direction in enumerate(directions)
        ]
        known: dict[int, int] = {}
        for similarity, dog, index in sorted(similarities, reverse=True):
            if similarity >= MIN_SIMILARITY and index not in known and dog not in known.values():
                known[index] = dog
        for index, direction in enumerate(directions):
            if index in known:
                dogs[known[index]].append((number, index))
                sums[known[index]] = sums[known[index]] + direction
            else:
                dogs.append([(number, index)])
                sums.append(direction)
    return dogs


def _direction(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
