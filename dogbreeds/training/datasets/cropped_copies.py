"""Photos that are cut out of other photos of a data set.

Photos that a backbone finds alike are compared as small grey pictures: one is laid over the other in many sizes, at
every place (normalised cross-correlation, Lewis 1995, "Fast Template Matching").
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import fft
from tqdm import tqdm

from dogbreeds.addresses import Place
from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import read_photos

_PICTURE_SIDE = 64
"""The longer side of a picture, pixels."""
_SCALES = np.geomspace(0.4, 0.97, 14)
"""Of a part's longer side to its whole's. With steps of 7 %, one of them is at most 4 % too large or too small."""
_MIN_SHARE = 0.2
"""Of a part's shorter side to its whole's longer one: smaller ones look like many places."""
_NUM_NEIGHBOURS = 5
"""Of each photo, those that are compared with it: with more, smaller parts are found."""
_MAX_COMPONENTS = 256
"""Of the features, which are whitened: what the photos of a breed have in common would hide what two photos have."""
_PHOTOS_PER_COMPONENT = 4
"""With fewer photos, each would be as far from all others."""
_MIN_CORRELATION = 0.88
"""Of a part with its place in the whole; below, other dogs of the same shape are found too ..."""
_MIN_ROUGH_CORRELATION = 0.75
"""... and of both at half of their size, which is looked at first since it is quick."""
_NOTHING = np.zeros((1, 1), np.uint8)
"""A picture that fits nowhere, of a photo that can't be read any more."""
_BLOCK = 1024
"""Photos whose features are compared with all others at a time; limits the memory."""


def find_cropped_copies(
    sources: Sequence[Place | bytes], features: np.ndarray, *, progress: bool = False
) -> list[tuple[int, int]]:
    """Decode photos and find those that are cut out of others.

    Args:
        sources: The photos, all of which can be decoded.
        features: `(N, D)`, of any backbone.
        progress: Show progress bars.

    Returns:
        Pairs of indices, the whole first, then the part.
    """
    stream = read_photos(sources, lambda source: _picture(open_image(source, at_least=_PICTURE_SIDE)))
    bar = tqdm(stream, "finding cropped copies", len(sources), unit="photo", disable=not progress)
    return _cropped_copies(features, [_NOTHING if isinstance(each, BadImage) else each for each in bar], progress)


def _picture(photo: Image.Image) -> np.ndarray:
    """The photo as a small grey picture, uint8, with a longer side of `_PICTURE_SIDE`."""
    scale = _PICTURE_SIDE / max(photo.size)
    width, height = (max(1, round(scale * side)) for side in photo.size)
    return np.asarray(photo.convert("L").resize((width, height), Image.Resampling.BOX))


def _cropped_copies(features: np.ndarray, pictures: Sequence[np.ndarray], progress: bool) -> list[tuple[int, int]]:
    """The pairs of `find_cropped_copies`, of photos that are small grey pictures."""
    halves = [np.asarray(Image.fromarray(each).reduce(2)) for each in pictures]
    neighbours = _neighbours(_whitened(features))
    fits: dict[tuple[int, int], float] = {}
    for part, wholes in enumerate(tqdm(neighbours, "comparing photos", unit="photo", disable=not progress)):
        rough = _correlations([halves[whole] for whole in wholes], halves[part], _PICTURE_SIDE // 2)
        likely = [wholes[index] for index in np.flatnonzero(rough >= _MIN_ROUGH_CORRELATION)]
        exact = _correlations([pictures[whole] for whole in likely], pictures[part], _PICTURE_SIDE)
        fits |= {(whole, part): fit for whole, fit in zip(likely, exact, strict=True) if fit >= _MIN_CORRELATION}
    return [pair for pair, fit in fits.items() if (fit, pair) > (fits.get(pair[::-1], 0.0), pair[::-1])]


def _whitened(features: np.ndarray) -> np.ndarray:
    """The principal components of features, each with a variance of 1; each row with a length of 1."""
    centred = features - features.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    num_components = min(_MAX_COMPONENTS, max(1, len(features) // _PHOTOS_PER_COMPONENT))
    strongest = variances.argsort()[::-1][:num_components]
    whitened = centred @ (directions[:, strongest] / np.sqrt(variances[strongest].clip(1e-6 * variances.max() + 1e-12)))
    return whitened / np.linalg.norm(whitened, axis=1, keepdims=True).clip(1e-12)


def _neighbours(directions: np.ndarray) -> list[list[int]]:
    """For each photo those that are among the nearest of it, or of which it is among the nearest."""
    num_nearest = min(_NUM_NEIGHBOURS, len(directions) - 1)
    found: list[set[int]] = [set() for _ in directions]
    for start in range(0, len(directions), _BLOCK):
        cosines = directions[start : start + _BLOCK] @ directions.T
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -2  # itself
        nearest = np.argpartition(-cosines, num_nearest, axis=1)[:, :num_nearest]
        for photo, others in enumerate(nearest.tolist(), start):
            found[photo].update(others)
            for other in others:
                found[other].add(photo)
    return [sorted(each) for each in found]


def _correlations(wholes: Sequence[np.ndarray], part: np.ndarray, side: int) -> np.ndarray:
    """How well a picture fits into others, in the best size at the best place: -1..1.

    Args:
        wholes: K pictures.
        part: The picture.
        side: The longer side of each.

    Returns:
        `(K,)`.
    """
    best = np.full(len(wholes), -1.0)
    sizes = sorted({(round(scale * part.shape[0]), round(scale * part.shape[1])) for scale in _SCALES})
    sizes = [(height, width) for height, width in sizes if min(height, width) >= _MIN_SHARE * side]
    if not len(wholes) or not sizes:
        return best
    templates = np.zeros((len(sizes), side, side), np.float32)
    for template, (height, width) in zip(templates, sizes, strict=True):
        shrunk = np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BOX), np.float32)
        template[:height, :width] = (shrunk - shrunk.mean()) / max(float(shrunk.std()), 1e-6)
    levels = np.zeros((len(wholes), side, side), np.float32)
    for canvas, whole in zip(levels, wholes, strict=True):
        canvas[: whole.shape[0], : whole.shape[1]] = whole - np.float32(whole.mean())
    heights, widths = np.array([whole.shape for whole in wholes]).T[:, :, None]
    # Where a template does not lie within a picture these products wrap around: they are not looked at.
    products = fft.irfft2(fft.rfft2(levels)[:, None] * fft.rfft2(templates).conj(), s=(side, side))
    sums, squares = (np.pad(each.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0))) for each in (levels, levels**2))
    for number, (height, width) in enumerate(sizes):
        num = height * width
        mean, mean_square = (_window_sums(each, height, width) / num for each in (sums, squares))
        found = products[:, number, : side - height + 1, : side - width + 1]
        found = found / (num * np.sqrt((mean_square - mean**2).clip(1.0)))
        inside = np.arange(side - height + 1) <= heights - height, np.arange(side - width + 1) <= widths - width
        found[~(inside[0][:, :, None] & inside[1][:, None])] = -1
        best = np.maximum(best, found.max(axis=(1, 2)))
    return best


def _window_sums(sums: np.ndarray, height: int, width: int) -> np.ndarray:
    """The sum over each window of pictures, from the sums over what is above and left of each corner."""
    return sums[:, height:, width:] - sums[:, :-height, width:] - sums[:, height:, :-width] + sums[:, :-height, :-width]
