"""Several looks at one photo, until the answer is sure: at a small dog that is found, or where a heat map points.

A dog that is small, or in a corner, or has its head outside of the centre square, is found so; what that gains is in
dogbreeds/docs/results.md. The constants were chosen on a part of Oxford's pets, on whole photos of ImageNet, and on
made scenes of small dogs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dogbreeds.calibration import Calibration, Outputs, dog_score

Box = tuple[float, float, float, float]
"""A part of a photo: left, top, right, bottom, pixels."""

MAX_PROPORTION = 1.5
"""Of a photo's sides, up to which the first look is at the centre square; beyond it, at the whole photo."""
SPREADS = (6.0, 4.5)
"""The side of the second and of the third look, in standard deviations of the heat map."""
MIN_SIDE = 0.3
"""The smallest side of a look, as a share of the photo's shorter side."""
WEIGHT = 0.5
"""A look weighs exp(WEIGHT * its dog score): looks at something else than the dog hardly count."""
SMALL_DOG = 0.1
"""A dog whose box has at most this share of the first look's area is small: the second look is at its box."""
ENOUGH = 2.5
"""An answer is sure enough for no second look if its logit leads by this many temperatures: 12 to 1."""


@dataclass(frozen=True)
class Look:
    """What a network found in one part of a photo."""

    box: Box
    logits: np.ndarray
    """`(C,)`."""
    features: np.ndarray | None = None
    """`(D,)`."""
    heat_map: np.ndarray | None = None
    """`(C, h, w)`."""


PLACES_PER_PIXEL = 64
"""Where a closer look may begin."""


def first_box(size: tuple[int, int], centre: Box) -> Box:
    """Where the first look goes.

    Args:
        size: Width and height of the photo, pixels.
        centre: The part that the model's preprocessing takes.
    """
    width, height = size
    return (0.0, 0.0, float(width), float(height)) if max(size) > MAX_PROPORTION * min(size) else centre


def closer_box(look: Look, size: tuple[int, int], spreads: float) -> Box:
    """A square around what speaks for any breed.

    Args:
        look: With a heat map.
        size: Width and height of the photo, pixels.
        spreads: Of `SPREADS`.
    """
    assert look.heat_map is not None
    evidence = (look.heat_map - look.heat_map.mean(axis=0)).max(axis=0)  # for the most probable class of each place
    weights = np.maximum(evidence - evidence.mean(), 0) ** 2
    # Where no place says more than another, but for rounding, all say as much: the square is as large as it can be.
    weights = weights / weights.sum() if weights.sum() > 1e-9 else np.full(weights.shape, 1 / weights.size)
    left, top, right, bottom = look.box
    centre, spread = [], []
    for axis, (low, high) in enumerate([(left, right), (top, bottom)]):
        share = weights.sum(axis=axis)  # of each column, then of each row
        places = low + (np.arange(len(share)) + 0.5) / len(share) * (high - low)
        centre.append(float(share @ places))
        spread.append(float(np.sqrt(share @ (places - centre[-1]) ** 2)))
    side = float(np.clip(spreads * max(spread), MIN_SIDE * min(size), min(size)))
    # Rounded, or the last digits of a heat map, which differ from batch to batch, would decide how pixels are rounded.
    corner = [round((c - side / 2) * PLACES_PER_PIXEL) / PLACES_PER_PIXEL for c in centre]
    x, y = (float(np.clip(low, 0, whole - side)) for low, whole in zip(corner, size, strict=True))
    return x, y, x + side, y + side


def combined(looks: list[Look]) -> Outputs:
    """The outputs of all looks at one photo as one row, by `as_one`."""
    features = [look.features for look in looks if look.features is not None]
    return as_one(Outputs(np.stack([look.logits for look in looks]), np.stack(features) if features else None))


def as_one(outputs: Outputs) -> Outputs:
    """The outputs of several looks, or of several photos of one dog, as one row.

    The logits are their weighted mean; see `WEIGHT`. The features, which tell whether there is a dog, are those of the
    row in which a breed stands out most: one that shows the dog is enough.
    """
    score = dog_score(outputs.logits)
    weights = np.exp(WEIGHT * (score - score.max()))
    weights = (weights / weights.sum()).astype(np.float32)
    features = None if outputs.features is None else outputs.features[[score.argmax()]]
    return Outputs((weights @ outputs.logits)[None], features)


def next_box(
    looks: list[Look],
    size: tuple[int, int],
    calibration: Calibration,
    find_dog: Callable[[], Box | None] = lambda: None,
) -> Box | None:
    """Where to look next, if one more look at the photo is worth it.

    The second look is for answers that are not sure, and goes to a small dog where there is one. The third, much
    closer, is for dogs that the first two have hardly seen: on others it takes more right answers than it gives.

    Args:
        looks: The looks so far, at least one.
        size: Width and height of the photo, pixels.
        calibration: Its `sure_margin` and `seen_score` say what is enough.
        find_dog: Gives the box of a dog; called only where a second look is taken.
    """
    if calibration.sure_margin is None or looks[-1].heat_map is None or len(looks) > len(SPREADS):
        return None
    logits = combined(looks).logits
    second, first = np.partition(logits[0], -2)[-2:]
    is_seen = len(looks) > 1 and dog_score(logits)[0] >= (calibration.seen_score or -np.inf)
    if first - second >= calibration.sure_margin or is_seen:
        return None
    dog = find_dog() if len(looks) == 1 else None
    if dog is not None and _area(dog) <= SMALL_DOG * _area(looks[0].box):
        return dog
    return closer_box(looks[-1], size, SPREADS[len(looks) - 1])


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)
