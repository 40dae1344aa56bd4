"""The only place that opens an image: a path, bytes or a PIL image in, one upright RGB image out."""

import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dogbreeds.addresses import Address, reason
from dogbreeds.decoding_budget import decoding_budget
from dogbreeds.errors import UserError

PhotoSource = str | os.PathLike[str] | bytes | Image.Image
"""An `Address` too, which is text; other text is a path."""

MAX_PIXELS = 50_400_000
"""Larger photos are refused before they are decoded. Phones take up to 8192 x 6144 pixels; two copies of that, one of
them turned or in other colours, take less than 600 MB."""

_FEWER_PIXELS = {"WEBP": 24_000_000, "AVIF": 32_000_000, "TIFF": 38_000_000}
"""The limit for formats whose decoders hold more than one copy, or the whole file."""

_MAX_DEEP_HEIF_PIXELS = 24_000_000
"""The limit for HEIF with more than 8 bits a channel: libheif holds 18 bytes of each pixel then."""

_SLOW_CODECS = ("bmp_rle", "ppm", "ppm_plain")
_MAX_SLOW_PIXELS = 3_000_000
"""The limit for Pillow's decoders that are written in Python: they take a second for a million pixels."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""The formats that are read, besides HEIF; JPEG includes MPO. Pillow opens more, but some of them run other programs
(EPS runs Ghostscript)."""

JPEG_SIDE = 520
"""JPEG files are decoded at a half, a quarter or an eighth of their size where the shorter side keeps this many pixels,
twice the largest common view (260). It is one number, so that models of different views see the same decoded photo."""

_BAND_PIXELS = 2_000_000
"""Colours are converted this many pixels at a time, so that no third copy of a large photo is in memory."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the stricter limit
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # a damaged file raises BadImage

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


Problem = Literal[
    "missing",
    "unreadable",
    "empty",
    "not_a_photo",
    "too_large",
    "no_heic",
    "cut_short",
    "damaged",
    "video_too_large",
    "video_without_pictures",
    "video_compression",
    "video_cut_short",
    "video_damaged",
    "video_off",
    "video_busy",
    "video_alone",
]


class BadImage(UserError):
    """The photo can't be read; the message is a sentence for the person who sent it."""

    def __init__(self, message: str, problem: Problem) -> None:
        super().__init__(message)
        self.problem: Problem = problem
        """What is wrong, for messages in other languages."""


def open_image(source: PhotoSource, *, at_least: int | None = None) -> Image.Image:
    """Open a photo as an image viewer shows it: upright, 8-bit sRGB, first frame, transparent pixels on white.

    Args:
        source: A path, the file's bytes, or a PIL image.
        at_least: The width and height, in pixels, that the caller needs. A file's photo that is at least twice as large
            is `halved`. A large JPEG file is decoded at a part of its size, which is several times as fast.

    Returns:
        A loaded RGB image, turned as its EXIF orientation says, without any other metadata of the file.

    Raises:
        BadImage: The file is missing, empty, no image, of a kind not in `FORMATS`, cut short, damaged, or larger
            than `MAX_PIXELS` (than fewer, where the format takes more memory or time).
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source)
    if isinstance(source, bytes):
        return _decode(_identify(io.BytesIO(source)), at_least)
    try:
        if isinstance(source, Address):
            with source.open() as file:
                return _decode(_identify(file), at_least)
        with open_file(Path(source)) as file:  # read only as far as needed: the first bytes identify a video
            return _decode(_identify(file), at_least)
    except (OSError, ValueError) as error:
        raise not_read(source, error) from None


def not_read(source: str | os.PathLike[str], error: OSError | ValueError) -> "BadImage":
    """What a person is told where a photo's file can't be read."""
    if isinstance(error, FileNotFoundError):
        return BadImage(f"There is no file {os.fspath(source)!r}.", "missing")
    if isinstance(error, IsADirectoryError):
        message = f"{os.fspath(source)!r} is a folder: python -m dogbreeds index answers all photos of a folder."
        return BadImage(message, "unreadable")
    why = reason(error) if isinstance(error, OSError) else error
    return BadImage(f"The file {os.fspath(source)!r} can't be read ({why}).", "unreadable")


def open_file(path: Path) -> BinaryIO:
    """Open a photo's file, which can be sought. What comes through a pipe that somebody writes is read first.

    Raises:
        BadImage: It is a device or a socket, which may never end.
        OSError: It can't be opened.
        ValueError: The path is no valid one.
    """
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # by default, opening waits for somebody who writes
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb") as pipe:
            return io.BytesIO(pipe.read())
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise BadImage(f"{str(path)!r} is a device or a socket, not a file.", "unreadable")
    return path.open("rb")


def halved(image: Image.Image, at_least: int) -> Image.Image:
    """Halve an image while it stays at least this wide and high: each pixel is the mean of four.

    Halving to 520 and then to 448 gives the same as halving to 448. So a copy of a photo that is large enough for
    several models gives each of them what the photo gives.
    """
    while min(image.size) >= 2 * at_least:
        image = image.reduce(2)
    return image


def image_size(content: bytes) -> tuple[int, int]:
    """Width and height of a photo from its header, before it is turned upright.

    Raises:
        BadImage: The file is empty, no image, or of a kind not in `FORMATS`.
    """
    return open_header(content).size


def open_header(content: bytes) -> Image.Image:
    """A photo's header: format, size and metadata. It is not turned and not decoded.

    Raises:
        BadImage: As `image_size`.
    """
    return _identify(io.BytesIO(content))


def _identify(file: BinaryIO) -> Image.Image:
    """Read only the header."""
    head = file.read(64)
    file.seek(0)
    if not head:
        raise BadImage("This file is empty. Please choose a photo.", "empty")
    formats: tuple[str, ...] = FORMATS
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[12:]:
        _register_heif()
        formats = ("HEIF",)
    limited = _LimitedFile(file)
    try:
        image = Image.open(cast(BinaryIO, limited), formats=formats)
        limited.begin_pixels(is_jpeg=image.format in ("JPEG", "MPO"))
        return image
    except UnidentifiedImageError:
        message = "This file is not a photo (JPEG, PNG, WebP, HEIC and the like can be read)."
        raise BadImage(message, "not_a_photo") from None
    except Image.DecompressionBombError:
        raise _too_large("") from None
    except Exception as error:  # Pillow's decoders raise errors of many classes on a damaged header
        raise _damaged(error) from None


class _LimitedFile:
    """A file that can be read in a limited number of parts.

    A few megabytes can hold millions of empty PNG chunks or GIF comments, or thousands of empty scans of a JPEG, each
    of which takes as long as a full one.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads_left = 10_000
        self._scans_left: int | None = None

    def begin_pixels(self, *, is_jpeg: bool) -> None:
        """Set the limits for reading the pixels, which follow the header."""
        self._reads_left = 500_000
        self._scans_left = 100 if is_jpeg else None

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._reads_left -= 1
        if self._scans_left is not None:
            self._scans_left -= content.count(b"\xff\xda")  # occurs nowhere else in the pixels of a JPEG
        if self._reads_left < 0 or (self._scans_left or 0) < 0:
            raise ValueError("there are too many parts in this file")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _decode(image: Image.Image, at_least: int | None) -> Image.Image:
    width, height = image.size
    max_pixels = _max_pixels(image)
    if width * height > max_pixels:
        raise _too_large(f" ({width} x {height} pixels)")
    if at_least is not None:
        side = JPEG_SIDE
        while side < at_least:
            side *= 2
        image.draft(None, (side, side))
        if not image.info.get("progressive"):  # libjpeg holds all of a progressive file
            width, height = image.size
    with decoding_budget().share(width * height, max_pixels):
        upright = _upright_rgb(image, close=True)
        del image  # what its decoder holds is freed before the share is given back, and so is the large copy
        if at_least is not None:
            upright = halved(upright, at_least)
    return upright


def _max_pixels(image: Image.Image) -> int:
    """The number of pixels that are decoded within a few seconds and 600 MB."""
    if any(tile[0] in _SLOW_CODECS for tile in getattr(image, "tile", [])):
        return _MAX_SLOW_PIXELS
    if image.mode == "CMYK" and image.info.get("progressive"):
        return 38_000_000  # libjpeg holds 8 bytes of each pixel besides the pixel
    if image.format == "HEIF" and image.info.get("bit_depth", 8) > 8:
        return _MAX_DEEP_HEIF_PIXELS
    return _FEWER_PIXELS.get(image.format or "", MAX_PIXELS)


def _too_large(size: str) -> BadImage:
    limit = MAX_PIXELS // 1_000_000
    message = f"This image is too large{size}. Please choose a smaller copy: a JPEG of at most {limit} megapixels."
    return BadImage(message, "too_large")


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


def _upright_rgb(image: Image.Image, *, close: bool = False) -> Image.Image:
    """Load an image and convert it, as `open_image` returns it.

    Args:
        image: Loaded or not.
        close: Whether to close it, which frees its memory before the result is turned.
    """
    try:
        image.load()
        orientation = _orientation(image)
        upright = _rgb(image)
        if close:
            image.close()
        upright.info = {}
        if orientation in range(2, 9):
            upright.getexif()[ExifTags.Base.Orientation] = orientation
            ImageOps.exif_transpose(upright, in_place=True)
    except Exception as error:  # Pillow's decoders raise errors of many classes
        raise _damaged(error) from None
    return upright


def _orientation(image: Image.Image) -> Any:
    """The orientation in the EXIF block, usually 1 to 8; None if there is none, or the block is damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's readers of EXIF and XMP raise errors of many classes
        orientation = None
    # Pillow stops at the first damaged tag; the orientation may follow it.
    return _orientation_in(image.info.get("exif") or b"") if orientation is None else orientation


def _orientation_in(exif: bytes) -> int | None:
    exif = exif.removeprefix(b"Exif\0\0")
    order = "<" if exif[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (num_tags,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * num_tags, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == ExifTags.Base.Orientation:
                return int(value)
    except struct.error:  # beyond the end
        pass
    return None


def _rgb(image: Image.Image) -> Image.Image:
    """A new RGB image of the same size, converted in bands."""
    to_srgb = _to_srgb(image)
    if image.mode == "RGB" and not to_srgb and not image.has_transparency_data:
        return image.copy()
    full_scale = _full_scale(image)
    rgb = Image.new("RGB", image.size)
    for box in _bands(image):
        rgb.paste(_band(image.crop(box), full_scale, to_srgb), box)
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    height = max(1, _BAND_PIXELS // image.width)
    return ((0, top, image.width, min(top + height, image.height)) for top in range(0, image.height, height))


def _band(band: Image.Image, full_scale: float | None, to_srgb: Any) -> Image.Image:
    if full_scale:
        band = _eight_bit(band, full_scale)
    if band.has_transparency_data:
        band = band.convert("RGBA")
    elif to_srgb is None or band.mode != to_srgb.input_mode:
        band = band.convert("RGB")
    if to_srgb:
        alpha = band.getchannel("A") if band.mode == "RGBA" else None
        band = to_srgb.apply(band.convert(to_srgb.input_mode))
        if alpha:
            band.putalpha(alpha)
    if band.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB")
    return band


def _to_srgb(image: Image.Image) -> Any:
    """The transformation from the image's colour profile to sRGB, if needed: an iPhone's photos are in Display P3."""
    content = image.info.get("icc_profile")
    if not content or image.mode not in ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK"):
        return None
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return None
        mode = "CMYK" if image.mode == "CMYK" else "RGB"
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # a damaged profile is ignored
        return None


def _full_scale(image: Image.Image) -> float | None:
    """The value of white in a grey image of more than 8 bits; None for other images."""
    if image.mode.startswith("I;"):
        return 65535.0  # "I" and "F" have no defined scale: it is guessed from the values
    if image.mode not in ("I", "F"):
        return None
    bands = (np.asarray(image.crop(box)) for box in _bands(image))
    largest = max(float(band[np.isfinite(band)].max(initial=0)) for band in bands)
    scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    return next((scale for scale in scales if largest <= scale), largest)


def _eight_bit(image: Image.Image, full_scale: float) -> Image.Image:
    """Scale the values of a grey image of more than 8 bits to 0..255; Pillow's own `convert` clips them to white."""
    deep = np.asarray(image)
    values = np.nan_to_num(deep.astype(np.float32), posinf=full_scale).clip(0, full_scale)
    grey = Image.fromarray((values * (255.0 / full_scale)).round().astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8)))
    return grey


def _damaged(error: Exception) -> BadImage:
    if isinstance(error, MemoryError):
        return _too_large("")
    if "truncated" in str(error).lower():
        return BadImage("This photo is incomplete: the file was cut short. Please choose another copy.", "cut_short")
    return BadImage("This photo is damaged and can't be read. Please choose another copy.", "damaged")
