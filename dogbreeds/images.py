"""The only place that opens an image: a path, bytes or a PIL image in, one upright RGB image out."""

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dogbreeds.errors import UserError

PhotoSource = str | os.PathLike[str] | bytes | Image.Image

MAX_PIXELS = 64_000_000
"""Larger photos are refused before they are decoded: 64 megapixels hold any phone's usual photo (50 MP) in 192 MB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""What a photo may be, besides HEIF; JPEG includes MPO. Pillow opens more, but some of those formats run other programs
(EPS runs Ghostscript)."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the stricter limit

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


Problem = Literal["missing", "unreadable", "empty", "not_a_photo", "too_large", "no_heic", "cut_short", "damaged"]


class BadImage(UserError):
    """This is no photo that can be read; the message is a sentence for the person who brought it."""

    def __init__(self, message: str, problem: Problem) -> None:
        super().__init__(message)
        self.problem: Problem = problem
        """What is wrong, for those who say it in another language."""


def open_image(source: PhotoSource, *, at_least: int | None = None) -> Image.Image:
    """Open a photo as the person sees it: upright, RGB in sRGB's colours, 8 bits, first frame, transparency on white.

    Args:
        source: A path, the file's bytes, or a PIL image.
        at_least: The sides, pixels, that are enough for what follows. A JPEG file that is at least twice as large is
            decoded at a half, a quarter or an eighth of its size, which is several times as fast.

    Returns:
        A loaded RGB image, turned as its EXIF orientation says.

    Raises:
        BadImage: The file is missing, empty, no image, of a kind not in `FORMATS`, cut short, damaged, or larger
            than `MAX_PIXELS`.
    """
    if isinstance(source, Image.Image):
        return _decode(source, None)
    if isinstance(source, bytes):
        return _decode(_identify(io.BytesIO(source)), at_least)
    path = Path(source)
    try:
        with path.open("rb") as file:  # read as far as is needed: a video is known by its first bytes
            return _decode(_identify(file if file.seekable() else io.BytesIO(file.read())), at_least)
    except FileNotFoundError:
        raise BadImage(f"There is no file {str(path)!r}.", "missing") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadImage(f"The file {str(path)!r} can't be read ({why}).", "unreadable") from None


def image_size(content: bytes) -> tuple[int, int]:
    """Width and height that a photo's header tells, before it is turned upright.

    Raises:
        BadImage: The file is empty, no image, or of a kind not in `FORMATS`.
    """
    return _identify(io.BytesIO(content)).size


def _identify(file: BinaryIO) -> Image.Image:
    """Read the header only."""
    head = file.read(64)
    file.seek(0)
    if not head:
        raise BadImage("This file is empty. Please choose a photo.", "empty")
    formats: tuple[str, ...] = FORMATS
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[12:]:
        _register_heif()
        formats = ("HEIF",)
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        message = "This file is not a photo (JPEG, PNG, WebP, HEIC and the like can be read)."
        raise BadImage(message, "not_a_photo") from None
    except Image.DecompressionBombError:
        limit = MAX_PIXELS // 1_000_000
        message = f"This image is too large. Please choose one of at most {limit} megapixels."
        raise BadImage(message, "too_large") from None
    except Exception as error:  # Pillow's decoders raise what they like on a damaged header
        raise _damaged(error) from None


def _decode(image: Image.Image, at_least: int | None) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(
            f"This image is too large ({width} x {height} pixels). "
            f"Please choose one of at most {MAX_PIXELS // 1_000_000} megapixels.",
            "too_large",
        )
    if at_least is not None:
        image.draft(None, (at_least, at_least))
    return _upright_rgb(image)


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise BadImage(
            "This is a HEIC photo, which needs the package pillow-heif (pip install pillow-heif). "
            "Please install it, or save the photo as JPEG.",
            "no_heic",
        ) from None
    register_heif_opener()


def _upright_rgb(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # as above
        raise _damaged(error) from None
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block must not cost the photo; without it nobody knows which side is up
        pass
    try:
        return _rgb(image)
    except Exception as error:
        raise _damaged(error) from None


def _rgb(image: Image.Image) -> Image.Image:
    if "icc_profile" in image.info and image.mode in ("RGB", "CMYK"):
        image = _in_srgb(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _in_srgb(image: Image.Image) -> Image.Image:
    """The colours as a model and a browser take them: an iPhone's photos are in the wider Display P3."""
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return image
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # a damaged profile must not cost the photo, whose colours are then taken as they stand
        return image
    return converted or image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale the values of deep grey images to 0..255; Pillow's own `convert` clips them to white."""
    values = np.asarray(image).astype(np.float32)
    # "I;16" is 16-bit by its name; "I" and "F" do not say their scale, so the values must
    full_scale = 65535.0
    if image.mode == "F" and values.max() <= 1:
        full_scale = 1.0
    elif image.mode in ("I", "F") and values.max() <= 255:
        full_scale = 255.0
    return Image.fromarray((values.clip(0, full_scale) * (255.0 / full_scale)).round().astype(np.uint8), mode="L")


def _damaged(error: Exception) -> BadImage:
    if "truncated" in str(error).lower():
        return BadImage("This photo is incomplete: the file was cut short. Please choose another copy.", "cut_short")
    return BadImage("This photo is damaged and can't be read. Please choose another copy.", "damaged")
