"""Photos that look the same: other sizes, formats or compressions of one picture, or shots of one moment.

Turned and cropped copies are not found, mirrored ones where they are asked for. A photo is compared as a sketch of a
few grey pixels, whatever the model sees of it.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from dogbreeds.addresses import Place
from dogbreeds.images import open_image
from dogbreeds.photos import read_photos

_SKETCH_SIDE = 9
DECODED_SIDE = 4 * _SKETCH_SIDE
"""Pixels that a photo must have at least when it is sketched: JPEG files are decoded no larger, which is quick."""
_MAX_BITS = 8
"""Near duplicates differ in at most this many of 128 bits, which say where a sketch gets brighter to the right or
downwards, ..."""
_MAX_LEVELS = 10.0
"""... and by at most this many of 255 levels, in the mean over their sketches."""
_BLOCK = 64
"""Sketches that are compared with all others at a time; limits the memory if all of them are the same."""


def find_near_duplicates(
    sources: Sequence[Place | bytes], digests: Sequence[str], *, progress: bool = False
) -> list[list[str]]:
    """Decode photos and find those that look the same.

    Args:
        sources: The photos, all of which can be decoded.
        digests: The SHA-256 of each photo's file, no two the same.
        progress: Show a progress bar.

    Returns:
        The digests of each group of two or more.
    """

    def read(index: int) -> np.ndarray:
        return sketch(open_image(sources[index], at_least=DECODED_SIDE))

    photos = read_photos(range(len(sources)), read)
    bar = tqdm(photos, "finding near duplicates", len(sources), unit="photo", disable=not progress)
    found = [(digest, each) for digest, each in zip(digests, bar, strict=True) if isinstance(each, np.ndarray)]
    if not found:
        return []
    groups = near_duplicates(np.stack([each for _, each in found]))
    return [[found[member][0] for member in members] for members in groups]


def shrunk(photo: Image.Image) -> Image.Image:
    """The photo as a few pixels."""
    return photo.resize((_SKETCH_SIDE, _SKETCH_SIDE), Image.Resampling.BOX)


def sketch(photo: Image.Image) -> np.ndarray:
    """The photo as a few grey pixels, `(_SKETCH_SIDE, _SKETCH_SIDE)` uint8."""
    return np.asarray(shrunk(photo).convert("L"))


def near_duplicates(sketches: np.ndarray, *, mirrored: bool = False) -> list[np.ndarray]:
    """Find pictures that look the same.

    Args:
        sketches: `(N, side, side)` uint8: each picture scaled down to a few grey pixels.
        mirrored: Also find those of which one is the other from left to right, which takes twice as long.

    Returns:
        The indices of each group of two or more, ascending.
    """
    levels = sketches.astype(np.int16)
    others = [levels, levels[:, :, ::-1]] if mirrored else [levels]
    signs, *_ = signs_of_others = [_signs(each) for each in others]
    group = np.arange(len(levels))  # for each picture, the first one of its group
    for start in range(0, len(levels), _BLOCK):
        for other_signs, other_levels in zip(signs_of_others, others, strict=True):
            products = signs[start : start + _BLOCK] @ other_signs[start:].T
            first, second = start + np.argwhere(products >= signs.shape[1] - 2 * _MAX_BITS).T
            is_new = group[first] != group[second]
            first, second = first[is_new], second[is_new]
            is_close = np.abs(levels[first] - other_levels[second]).mean(axis=(1, 2)) <= _MAX_LEVELS
            if is_close.any():
                group = join_groups(group, np.stack([first, second], axis=1)[is_close])
    order = np.argsort(group, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [members for members in groups if len(members) > 1]


def _signs(levels: np.ndarray) -> np.ndarray:
    """Whether each pixel gets brighter to the right, and downwards: 1 or -1, `(N, bits)`.

    The product of two of these is the number of equal less that of different bits.
    """
    across, down = np.diff(levels, axis=2)[:, :-1] > 0, np.diff(levels, axis=1)[:, :, :-1] > 0
    bits = np.concatenate([across.reshape(len(levels), -1), down.reshape(len(levels), -1)], axis=1)
    return np.where(bits, np.float32(1), np.float32(-1))


def join_groups(group: np.ndarray, pairs: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
    """Join the groups of photos that belong together.

    Args:
        group: `(N,)`: for each photo, the first one of its group.
        pairs: `(P, 2)`, the indices of each two photos that belong together; there may be none.

    Returns:
        As `group`, after the groups of each pair are joined.
    """
    size, (first, second) = len(group), np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    ends = np.concatenate([np.arange(size), first]), np.concatenate([group, second])
    _, labels = connected_components(coo_array((np.ones(len(ends[0]), np.int8), ends), (size, size)), directed=False)
    _, first_of_label = np.unique(labels, return_index=True)
    return first_of_label[labels]
