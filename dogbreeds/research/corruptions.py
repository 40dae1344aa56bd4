"""Photos made worse, in steps: what a camera, a network or a hand does to them, and what only a study does.

The strengths of noise, blur, brightness, contrast, JPEG and pixels are those of ImageNet-C (Hendrycks & Dietterich
2019, https://arxiv.org/abs/1903.12261), which are meant for photos of about this size; the others are our own.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

SIDE = 256
"""The shorter side of a photo before it is made worse, pixels."""
NUM_SEVERITIES = 5

Corrupt = Callable[[Image.Image, float, np.random.Generator], Image.Image]
"""Makes a photo worse by a strength."""


def to_scale(photo: Image.Image) -> Image.Image:
    """A photo whose shorter side is `SIDE`, so that a strength means the same for all."""
    scale = SIDE / min(photo.size)
    return photo.resize([round(side * scale) for side in photo.size], Image.Resampling.BICUBIC, reducing_gap=3)


def corrupted(photo: Image.Image, name: str, severity: int, seed: int) -> Image.Image:
    """A photo made worse.

    Args:
        photo: From `to_scale`.
        name: Of `CORRUPTIONS`.
        severity: 1 to `NUM_SEVERITIES`.
        seed: Decides what is random.
    """
    corrupt, strengths = CORRUPTIONS[name]
    return corrupt(photo, strengths[severity - 1], np.random.default_rng(seed))


def _noise(photo: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(photo, np.float32)
    noise = rng.standard_normal(pixels.shape, np.float32) * (255 * deviation)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def _blur(photo: Image.Image, radius: float, _: np.random.Generator) -> Image.Image:
    return photo.filter(ImageFilter.GaussianBlur(radius))


def _brightness(photo: Image.Image, added: float, _: np.random.Generator) -> Image.Image:
    hue, saturation, value = photo.convert("HSV").split()
    return Image.merge("HSV", (hue, saturation, value.point(lambda v: min(255, v + 255 * added)))).convert("RGB")


def _contrast(photo: Image.Image, share: float, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(photo).enhance(share)


def _jpeg(photo: Image.Image, quality: float, _: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def _pixelate(photo: Image.Image, share: float, _: np.random.Generator) -> Image.Image:
    small = photo.resize([max(1, round(side * share)) for side in photo.size], Image.Resampling.BOX)
    return small.resize(photo.size, Image.Resampling.NEAREST)


def _grey(photo: Image.Image, share: float, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Color(photo).enhance(1 - share)


def _small(photo: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """The photo on a plain ground, at a place by chance."""
    small = photo.resize([round(side * share) for side in photo.size], Image.Resampling.LANCZOS)
    ground = Image.new("RGB", photo.size, _mean_colour(photo))
    left, top = (int(rng.integers(whole - part + 1)) for whole, part in zip(photo.size, small.size, strict=True))
    ground.paste(small, (left, top))
    return ground


def _covered(photo: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """A part of the area covered, with the proportions of the photo."""
    width, height = (round(side * share**0.5) for side in photo.size)
    left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
    covered = photo.copy()
    covered.paste(_mean_colour(photo), (left, top, left + width, top + height))
    return covered


def _shuffled(photo: Image.Image, num_parts: float, rng: np.random.Generator) -> Image.Image:
    """Cut into as many rows and columns, whose parts change places: texture stays, shape does not."""
    num = int(num_parts)
    width, height = photo.width // num, photo.height // num
    places = [(column * width, row * height) for row in range(num) for column in range(num)]
    shuffled = photo.copy()
    for place, number in zip(places, rng.permutation(len(places)), strict=True):
        left, top = places[number]
        shuffled.paste(photo.crop((left, top, left + width, top + height)), place)
    return shuffled


def _mean_colour(photo: Image.Image) -> tuple[int, ...]:
    return tuple(np.asarray(photo).mean(axis=(0, 1)).round().astype(int).tolist())


CORRUPTIONS: dict[str, tuple[Corrupt, tuple[float, ...]]] = {
    "noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "blur": (_blur, (1, 2, 3, 4, 6)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "JPEG": (_jpeg, (25, 18, 15, 10, 7)),
    "pixels": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "grey": (_grey, (0.2, 0.4, 0.6, 0.8, 1.0)),
    "small": (_small, (0.7, 0.5, 0.4, 0.3, 0.2)),
    "covered": (_covered, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "shuffled": (_shuffled, (2, 3, 4, 6, 8)),
}
"""What makes a photo worse, and its strength at each severity: of noise the standard deviation, of 1; of blur the
radius, pixels; what is added to the brightness, of 1; the share of contrast that is left; JPEG's quality; the share of
the side that is left in pixels; of colour that is taken; of the side that a smaller photo has; of the area that is
covered; and the rows and columns that change places."""
