"""The picture of a heat map over its photo."""

import numpy as np
from PIL import Image

from dogbreeds.serving.prediction import Prediction

MAX_SIDE = 800
"""Pixels of the longer side, at most: enough for a screen."""

COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)
"""Five colours of matplotlib's "inferno", from low to high; its lightness rises evenly, so it reads without colour."""

OPACITY = (0.15, 0.7)
"""Of the colours over the photo, where the heat map is 0 and where it is 1."""


def shown(photo: Image.Image) -> Image.Image:
    """A photo as large as a screen needs it."""
    scale = min(1.0, MAX_SIDE / max(photo.size))
    return photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))


def colours(heat_map: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A heat map in colours that let the photo below it through.

    Args:
        heat_map: `(h, w)`, 0..1.
        size: Width and height of the picture in pixels.

    Returns:
        An RGBA image.
    """
    heat = np.asarray(Image.fromarray(heat_map).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(heat, stops, COLOURS[:, channel]) for channel in range(3)]
    channels.append(np.interp(heat, (0, 1), OPACITY) * 255)
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8), "RGBA")


def overlay(photo: Image.Image, prediction: Prediction) -> Image.Image:
    """Lay the heat map, if there is one, over the photo; what lies outside the model's view is greyed.

    Args:
        photo: The photo that was answered, upright and RGB.
        prediction: The answer to it.
    """
    small = shown(photo)
    sides = (small.width, small.height) * 2
    left, top, right, bottom = (round(edge * side) for edge, side in zip(prediction.region, sides, strict=True))
    size = (max(1, right - left), max(1, bottom - top))
    picture = Image.blend(small.convert("L").convert("RGB"), Image.new("RGB", small.size, "white"), 0.6)
    picture.paste(small.crop((left, top, left + size[0], top + size[1])), (left, top))
    if prediction.heat_map is not None:
        layer = colours(prediction.heat_map, size)
        picture.paste(layer, (left, top), layer)
    return picture
