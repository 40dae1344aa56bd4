"""Where the dogs of a photo are: boxes from NanoDet-g, a detector of 3.8 million weights (detector/README.md)."""

import math
import weakref
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from dogbreeds.errors import UserError
from dogbreeds.files import sha256
from dogbreeds.looks import Box
from dogbreeds.machine import num_cores
from dogbreeds.serving.network import session_options

MODEL = Path(__file__).with_name("detector") / "nanodet_g.onnx"
SHA256 = "3c7dfb01adfcb7778ed2714d6fa2ffffade643c9b1f630222010dc1311feaee9"
"""Of the model; dogbreeds/training/convert_detector.py makes it."""

NUM_PIXELS = 448 * 448
"""Of what the network sees of a photo, about: the photo in its own proportions."""
MIN_SCORE = 0.25
"""Of a dog, 0..1, after what `_distinct` takes off. The network is sure of few: half of those it finds have less than
0.5."""
SURE_SCORE = 0.5
"""Of a dog, by the network's class for dogs alone, from which on it needs no confirmation."""
MAX_DOGS = 12
"""The boxes with the highest scores are kept."""

STRIDES = (8, 16, 32)
"""Pixels between two cells, of each level of the network."""
MEAN, STD = np.array([[103.53, 116.28, 123.675], [57.375, 57.12, 58.395]], np.float32)
"""Of blue, green and red, as in NanoDet's own configuration (config/legacy_v0.x_configs/nanodet-g.yml)."""


def model() -> bytes:
    """The network as an ONNX file: `pixel_values` to what is found in each cell, as convert_detector.py says.

    Raises:
        UserError: Its file is missing or damaged.
    """
    if not MODEL.is_file() or sha256(MODEL) != SHA256:
        raise UserError(f"{str(MODEL)!r} is missing or damaged: install the project again")
    return MODEL.read_bytes()


@dataclass(frozen=True)
class Found:
    """An animal that is probably a dog."""

    box: Box
    is_sure: bool
    """Whether the network takes it for a dog and for no other animal."""
    score: float
    """Of a dog or another animal, 0..1."""


class DogDetector:
    """Finds dogs, and other animals that look like them. Safe to share between threads."""

    def __init__(self, num_threads: int) -> None:
        """Load the model.

        Args:
            num_threads: Cores for one photo.

        Raises:
            UserError: Its file is missing or damaged.
        """
        options = session_options(num_threads)
        self._session = onnxruntime.InferenceSession(model(), options, providers=["CPUExecutionProvider"])
        self._known: dict[int, list[Found]] = {}
        """By the `id` of each photo that is still open."""

    def find(self, photo: Image.Image) -> list[Found]:
        """The dogs of a photo, from left to right, at most `MAX_DOGS`.

        A photo is searched once while it is open: for its several dogs, and again for where to look closer.

        Args:
            photo: Upright and RGB.
        """
        found = self._known.get(id(photo))
        if found is None:
            found = self._known[id(photo)] = self._search(photo)
            weakref.finalize(photo, self._known.pop, id(photo), None)
        return found

    def _search(self, photo: Image.Image) -> list[Found]:
        pixels = _pixels(photo)
        names = ["scores", "dog_scores", "distances"]
        (scores,), (dog_scores,), (distances,) = self._session.run(names, {"pixel_values": pixels})
        height, width = pixels.shape[2:]
        likely = np.flatnonzero(scores >= MIN_SCORE)
        boxes = _boxes(distances[likely], _cells(width, height)[likely]).clip(0, [width, height, width, height])
        large = (boxes[:, 2:] - boxes[:, :2] >= STRIDES[0]).all(axis=1)
        likely, boxes = likely[large], boxes[large]
        kept = _distinct(boxes, scores[likely])
        boxes = boxes[kept] * np.tile(np.divide(photo.size, (width, height)), 2)
        is_sure = dog_scores[likely][kept] >= SURE_SCORE
        rows = zip(boxes.tolist(), is_sure.tolist(), scores[likely][kept].tolist(), strict=True)
        found = [Found((x0, y0, x1, y1), sure, score) for (x0, y0, x1, y1), sure, score in rows]
        return sorted(found, key=lambda each: each.box[0] + each.box[2])


def dog_detector(num_threads: int | None = None) -> DogDetector:
    """The one detector of this process that uses so many cores for a photo; by default all that the process may use."""
    return _detector(num_threads or num_cores())


_detector = cache(DogDetector)


def likeliest_dog(photo: Image.Image, num_threads: int | None = None) -> Box | None:
    """The box with the highest score; None where no dog is found.

    Args:
        photo: Upright and RGB.
        num_threads: As for `dog_detector`.
    """
    best = max(dog_detector(num_threads).find(photo), key=lambda each: each.score, default=None)
    return None if best is None else best.box


def _pixels(photo: Image.Image) -> np.ndarray:
    """`(1, 3, H, W)` float32, blue first.

    The sides are multiples of the largest stride, and no more pixels than `NUM_PIXELS` together, whatever the photo's
    shape, but for the rounding.
    """
    scale, stride = math.sqrt(NUM_PIXELS / (photo.width * photo.height)), STRIDES[-1]
    longest = NUM_PIXELS // stride
    size = [min(max(stride, round(side * scale / stride) * stride), longest) for side in photo.size]
    small = np.asarray(photo.resize((size[0], size[1]), Image.Resampling.BILINEAR))
    pixels = np.empty((1, 3, size[1], size[0]), np.float32)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        np.divide(small[..., 2 - channel] - mean, std, out=pixels[0, channel])
    return pixels


def _cells(width: int, height: int) -> np.ndarray:
    """Of each cell the centre, x and y, and the stride, `(N, 3)`, in the order of the network's outputs."""
    levels = []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        levels.append(np.stack([(x + 0.5) * stride, (y + 0.5) * stride, np.full(x.shape, stride)], -1).reshape(-1, 3))
    return np.concatenate(levels)


def _boxes(distances: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom, `(N, 4)`, in pixels of what the network saw.

    Args:
        distances: `(N, 4, bins)`, logits of the distance to each side, in strides: 0, 1, 2 and so on.
        cells: `(N, 3)`, from `_cells`.
    """
    weights = np.exp(distances - distances.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    sides = weights @ np.arange(distances.shape[2]) * cells[:, 2:]
    return np.concatenate([cells[:, :2] - sides[:, :2], cells[:, :2] + sides[:, 2:]], axis=1)


def _distinct(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """The index of one box for each dog, the best first.

    The more of a box is in a better one, the higher its score has to be. This is soft non-maximum suppression (Bodla et
    al. 2017, https://arxiv.org/abs/1704.04503), but for the share of the smaller of two boxes that lies in the other in
    place of their intersection over union: a head is no second dog.

    Args:
        boxes: `(N, 4)`.
        scores: `(N,)`.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    scores = scores.astype(float)
    kept: list[int] = []
    while len(kept) < MAX_DOGS and len(scores) and scores.max() >= MIN_SCORE:
        best = int(scores.argmax())
        kept.append(best)
        common = np.minimum(boxes[best, 2:], boxes[:, 2:]) - np.maximum(boxes[best, :2], boxes[:, :2])
        inside = common.clip(min=0).prod(axis=1) / np.minimum(areas[best], areas)
        scores *= (1 - inside.clip(max=1)) ** 2
    return kept
