"""Files that people may send as a photo, and the expected result of each: the right picture, or one sentence.

    PYTHONPATH=. python tests/photo_corpus.py               # all of them; --only bomb: those with that in the label
    PYTHONPATH=. python tests/photo_corpus.py --files DIR   # those of a folder, such as Pillow's Tests/images

Every format that Pillow writes in every mode, turned in every way, cut short, damaged, enormous or no photo at all.
Each file is tried in a process of its own, as bytes and under its name, through `open_image`, as an upload and
through a `Predictor`. The printed table has the results, the longest time and the largest memory.
"""

import argparse
import io
import itertools
import json
import math
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin
from pillow_heif import register_heif_opener

from dogbreeds.images import JPEG_SIDE, MAX_PIXELS, BadImage, open_image
from dogbreeds.serving.uploads import open_copy, store_copy

MAX_SECONDS = 5
MAX_MEGABYTES = 600
MAX_UPLOAD = 40_000_000
"""Larger files are opened by their path only, not as bytes: the page does not accept them."""
SIZE = (60, 40)
READ = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "HEIF")
"""The formats that Pillow and its plug-in write and this project reads; the others are refused."""
WITH_ORIENTATION = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")
LOSSLESS = {"WEBP": {"lossless": True, "exact": True}, "TIFF": {"compression": "tiff_lzw"}, "JPEG": {"quality": 95}}
OPTIONS = {**LOSSLESS, "MPO": {"quality": 95}, "AVIF": {"quality": 95, "speed": 10}, "HEIF": {"quality": 95}}

STORED = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""How an upright picture is turned when it is stored (`Image.Transpose`), by EXIF orientation."""

register_heif_opener()
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of damaged files
warnings.filterwarnings("ignore", category=DeprecationWarning, module="PIL")


@dataclass(frozen=True)
class Expected:
    """The expected result for a file."""

    picture: Image.Image | None = None
    """What it shows, in any size; None if that is not defined, as for a damaged file."""
    may_be_read: bool = True
    may_be_refused: bool = False
    tolerance: float = 12
    """The mean difference of 8-bit values that lossy compression may cause."""


REFUSED = Expected(may_be_read=False, may_be_refused=True)
EITHER = Expected(may_be_refused=True)


@dataclass(frozen=True)
class PhotoFile:
    """A file to open."""

    label: str
    """Its description in the table of failures."""
    make: Callable[[], bytes]
    """Makes its content when it is needed: some are large."""
    expected: Expected
    name: str = "photo.jpg"
    """Its original name."""


def picture() -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right: any wrong turn or colour is visible."""
    image = Image.new("RGB", SIZE, "white")
    image.paste((220, 20, 20), (0, 0, 30, 20))
    image.paste((20, 220, 20), (30, 0, 60, 20))
    image.paste((20, 20, 220), (0, 20, 30, 40))
    return image


def _grey(dtype: type, full_scale: float) -> Image.Image:
    return Image.fromarray((np.asarray(picture().convert("L")) / 255 * full_scale).astype(dtype))


def _see_through() -> Image.Image:
    """The picture with a transparent red corner, where white is expected."""
    image = picture().convert("RGBA")
    image.paste((220, 20, 20, 0), (0, 0, 30, 20))
    return image


def _palette() -> Image.Image:
    return picture().quantize(16, dither=Image.Dither.NONE)


def in_modes() -> dict[str, tuple[Image.Image, Image.Image]]:
    """The picture in each mode, and what it must look like."""
    grey = picture().convert("L")
    black_and_white = grey.point(lambda value: 255 * (value > 100))
    white_corner = picture()
    white_corner.paste("white", (0, 0, 30, 20))
    grey_corner = grey.copy()
    grey_corner.paste(255, (0, 0, 30, 20))
    alpha = _see_through().getchannel("A")
    grey_alpha = Image.merge("LA", (grey, alpha))
    palette_alpha = _palette().convert("PA")
    palette_alpha.putalpha(alpha)
    see_through = (_see_through(), white_corner)
    modes = {
        "1": (black_and_white.convert("1"), black_and_white),
        "L": (grey, grey),
        "P": (_palette(), picture()),
        "RGB": (picture(), picture()),
        "CMYK": (picture().convert("CMYK"), picture()),
        "YCbCr": (picture().convert("YCbCr"), picture()),
        "HSV": (picture().convert("HSV"), picture()),
        "LAB": (_to_lab(picture()), picture()),
        "RGBX": (picture().convert("RGBX"), picture()),
        "RGBA": see_through,
        "RGBa": (_see_through().convert("RGBa"), white_corner),
        "LA": (grey_alpha, grey_corner),
        "La": (grey_alpha.convert("La"), grey_corner),
        "PA": (palette_alpha, white_corner),
        "I;16": (_grey(np.uint16, 65535), grey),
        "I": (_grey(np.int32, 65535), grey),
        "F": (_grey(np.float32, 1), grey),
    }
    return {mode: (image, seen.convert("RGB")) for mode, (image, seen) in modes.items()}


def _to_lab(image: Image.Image) -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    return ImageCms.applyTransform(image, transform)


def coded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **{**OPTIONS.get(format, {}), **options})
    return file.getvalue()


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def stored(image: Image.Image, orientation: int) -> Image.Image:
    turn = STORED[orientation]
    return image if turn is None else image.transpose(Image.Transpose(turn))


def corpus() -> Iterator[PhotoFile]:
    """Every file, the fast ones first."""
    for part in (formats, cut_short, flipped, no_photos, names, shapes, frames, depths, colours, facts, bombs, giants):
        for file in part():
            yield PhotoFile(f"{part.__name__}: {file.label}", file.make, file.expected, file.name)


def of_others(folder: Path) -> Iterator[PhotoFile]:
    """All files of a folder; what they show is not known."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield PhotoFile(f"{folder.name}: {path.relative_to(folder)}", path.read_bytes, EITHER, path.name)


def formats(orientations: Sequence[int] = range(1, 9), modes: Sequence[str] = ()) -> Iterator[PhotoFile]:
    """Every format that Pillow writes, every mode, every orientation. Those that it refuses to write are left out."""
    Image.init()
    for format, (mode, (image, seen)) in itertools.product(sorted(Image.SAVE), in_modes().items()):
        if modes and mode not in modes:
            continue
        if format in ("AVIF", "GIF", "WEBP") and mode in ("I;16", "I", "F"):
            seen = None  # Pillow writes those in white
        elif format in ("BMP", "PPM") and mode == "RGBA":
            seen = picture()  # Pillow writes no transparency there
        elif (format, mode) == ("GIF", "LA"):
            seen = picture().convert("L").convert("RGB")  # nor there
        expected = Expected(seen) if format in READ else REFUSED
        for orientation in orientations if format in WITH_ORIENTATION else [1]:
            turned = stored(image, orientation)
            # As bytes: of an Exif object pillow-heif writes the fact, but does not have the file turned
            options = {"exif": oriented(orientation).tobytes()} if format in WITH_ORIENTATION else {}
            try:
                content = coded(turned, format, **options)
            except Exception:  # no such mode in this format; Pillow raises what it likes
                continue
            yield _given(f"{format} {mode} orientation {orientation}", content, expected, f"photo.{format.lower()}")


def _given(label: str, content: bytes, expected: Expected, name: str = "photo.jpg") -> PhotoFile:
    return PhotoFile(label, lambda: content, expected, name)


def samples(enlarged: int = 5) -> dict[str, bytes]:
    """A file in each encoding that is read; they are damaged by other functions."""
    image = picture().resize((60 * enlarged, 40 * enlarged), Image.Resampling.NEAREST)
    second = [Image.new("RGB", image.size, "black")]
    return {
        "JPEG": coded(image, "JPEG"),
        "JPEG progressive": coded(image, "JPEG", progressive=True),
        "JPEG CMYK": coded(image.convert("CMYK"), "JPEG"),
        "MPO": coded(image, "MPO", save_all=True, append_images=second),
        "PNG": coded(image, "PNG"),
        "PNG palette": coded(image.quantize(8), "PNG", transparency=0),
        "APNG": coded(image, "PNG", save_all=True, append_images=second),
        "WEBP": coded(image, "WEBP"),
        "WEBP lossy": coded(image, "WEBP", lossless=False),
        "WEBP animated": coded(image, "WEBP", save_all=True, append_images=second),
        "GIF": coded(image, "GIF"),
        "GIF animated": coded(image, "GIF", save_all=True, append_images=second),
        "BMP": coded(image, "BMP"),
        "BMP run lengths": rle_bmp(*image.size, bytes([60, 1] * enlarged + [0, 0]) * 40 * enlarged),
        "TIFF raw": coded(image, "TIFF", compression=None),
        "TIFF LZW": coded(image, "TIFF"),
        "TIFF deflate": coded(image, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF JPEG": coded(image, "TIFF", compression="jpeg"),
        "AVIF": coded(image, "AVIF"),
        "HEIF": coded(image, "HEIF"),
        "PPM": coded(image, "PPM"),
        "PPM plain": b"P3 %d %d 255\n" % image.size + b" ".join(b"%d" % value for value in image.tobytes()),
        "PGM scaled": b"P5 %d %d 100\n" % image.size + bytes([50]) * image.width * image.height,
    }


@cache
def _seen(sample: bytes) -> Image.Image:
    """What an undamaged sample shows, read by Pillow alone."""
    image = Image.open(io.BytesIO(sample))
    return image.convert("RGBA" if image.has_transparency_data else "RGB").convert("RGB")


def cut_short() -> Iterator[PhotoFile]:
    for kind, content in samples().items():
        picture = None if kind == "PNG palette" else _seen(content)
        for tenth in range(1, 10):
            part = content[: len(content) * tenth // 10]
            yield _given(f"{kind} {tenth}0 %", part, Expected(picture, may_be_refused=True))
        yield _given(f"{kind} without its last byte", content[:-1], Expected(picture, may_be_refused=True))


def flipped() -> Iterator[PhotoFile]:
    rng = np.random.default_rng(0)
    for kind, content in samples().items():
        for number in range(40):
            damaged = bytearray(content)
            for bit in rng.integers(0, min(8 * len(content), 8 * 400 if number % 2 else 2**62), 1 + number // 8):
                damaged[bit // 8] ^= 1 << (bit % 8)
            yield _given(f"{kind} flipped, {number}", bytes(damaged), EITHER)


def no_photos() -> Iterator[PhotoFile]:
    for number in (0, 1, 10, 64, 10_000):
        yield _given(f"{number} zeros", b"\0" * number, REFUSED)
    for kind, content in samples().items():
        for kept in (2, 4, 12, 32):
            yield _given(f"{kind}, {kept} bytes and zeros", content[:kept] + b"\0" * 1000, EITHER)
        middle = len(content) // 2
        holed = content[: middle - 50] + b"\0" * 100 + content[middle + 50 :]
        yield _given(f"{kind} with a hole", holed, EITHER)
        yield _given(f"{kind} behind a line of text", b"hello\n" + content, EITHER)
        extension = "gif" if kind.startswith("JPEG") else "jpg"
        yield _given(f"{kind} called .{extension}", content, Expected(_seen(content), tolerance=40), f"a.{extension}")
    for text in (b"I am a text\n", b"<html></html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n%%EOF"):
        yield _given(repr(text), text, REFUSED)
    for magic in (b"PK\3\4", b"\0\0\0\x18ftypisom", b"\x1f\x8b", b"\x7fELF", b"RIFF....WAVE", b"MZ", b"8BPS\0\1"):
        yield _given(repr(magic), magic + b"\1" * 500, REFUSED)


def names() -> Iterator[PhotoFile]:
    content, expected = coded(picture(), "JPEG", exif=oriented(1)), Expected(picture())
    for name in (
        "a photo.jpg",
        'it\'s "quoted".jpg',
        "\N{DOG FACE}\N{ZERO WIDTH JOINER}.jpg",
        "two\nlines\r.jpg",
        "..%2f..%2fetc%2fpasswd",
        "..\\..\\windows.jpg",
        "-rf --help.jpg",
        "%00.jpg",
        "{0}.jpg",
        "*.jpg",
        "$(reboot).jpg",
        "~",
        "...",
        " ",
        "CON.jpg",
        "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
        "not text \udcff.jpg",
        "<img src=x>.jpg",
        "x" * 251 + ".jpg",
        "\N{DOG FACE}" * 62,
    ):
        yield PhotoFile(f"called {name[:30]!a}", lambda: content, expected, name)


def shapes() -> Iterator[PhotoFile]:
    for format, size in itertools.product(READ, ((1, 1), (1, 20000), (20000, 1), (2, 65000), (16384, 2), (3, 3))):
        red = Image.new("RGB", size, (220, 20, 20))
        try:
            content = coded(red, format)
        except Exception:  # too long for this format
            continue
        # libavif takes at most 32768 pixels a side
        expected = Expected(red, may_be_refused=format == "AVIF" and max(size) > 32768)
        yield _given(f"{format} {size[0]} x {size[1]}", content, expected)


def frames() -> Iterator[PhotoFile]:
    others = [Image.new("RGB", SIZE, colour) for colour in ("black", "yellow", "black")]
    for format in ("GIF", "WEBP", "PNG", "AVIF", "TIFF", "MPO", "HEIF"):
        content = coded(picture(), format, save_all=True, append_images=others)
        yield _given(f"{format}, four frames", content, Expected(picture()))
    hidden = coded(picture(), "PNG", save_all=True, append_images=others, default_image=True)
    yield _given("PNG whose first picture is no frame", hidden, Expected(picture()))
    for disposal in (0, 1, 2, 3):
        content = coded(_see_through(), "GIF", save_all=True, append_images=others, disposal=disposal)
        yield _given(f"GIF, disposal {disposal}", content, Expected(in_modes()["RGBA"][1]))


def depths() -> Iterator[PhotoFile]:
    """More or fewer than 8 bits, and transparency of every kind."""
    grey, rgb = np.asarray(picture().convert("L")), np.asarray(picture())
    seen_grey, (_, white_corner) = Expected(picture().convert("L").convert("RGB")), in_modes()["RGBA"]
    corner = np.array(white_corner.convert("L"))
    corner[:20, :30] = 255
    seen_corner = Expected(Image.fromarray(corner).convert("RGB"))
    wide = (grey.astype(">u2") * 257).astype(">u2")
    wide_rgb = (rgb.astype(">u2") * 257).astype(">u2")
    alpha = np.asarray(_see_through().getchannel("A")).astype(">u2")[..., None] * 257
    red16, red_grey16 = struct.pack(">HHH", *wide_rgb[0, 0]), struct.pack(">H", wide[0, 0])
    yield _given("PNG 16-bit grey", png(wide, 16, 0), seen_grey)
    yield _given("PNG 16-bit colour", png(wide_rgb, 16, 2), Expected(picture()))
    yield _given("PNG 16-bit grey, alpha", png(np.dstack([wide, alpha]).astype(">u2"), 16, 4), seen_corner)
    yield _given(
        "PNG 16-bit colour, alpha", png(np.dstack([wide_rgb, alpha]).astype(">u2"), 16, 6), Expected(white_corner)
    )
    yield _given("PNG 16-bit grey, one see-through", png(wide, 16, 0, tRNS=red_grey16), seen_corner)
    yield _given("PNG 16-bit colour, one see-through", png(wide_rgb, 16, 2, tRNS=red16), Expected(white_corner))
    grey_red, red = struct.pack(">H", grey[0, 0]), struct.pack(">HHH", *rgb[0, 0])
    yield _given("PNG grey, one see-through", png(grey, 8, 0, tRNS=grey_red), seen_corner)
    yield _given("PNG colour, one see-through", png(rgb, 8, 2, tRNS=red), Expected(white_corner))
    for bits in (1, 2, 4):
        levels = (grey >= 128).astype(np.uint8) * ((1 << bits) - 1)
        seen = Image.fromarray((levels > 0).astype(np.uint8) * 255).convert("RGB")
        yield _given(f"PNG {bits}-bit grey", png(_packed(levels, bits), bits, 0, width=60), Expected(seen))
    numbers = np.asarray(_palette())
    red_number = int(numbers[0, 0])
    for kind, transparency in (("one", red_number), ("bytes", b"\xff" * red_number + b"\0")):
        content = coded(_palette(), "PNG", transparency=transparency)
        yield _given(f"PNG palette, transparency {kind}", content, Expected(white_corner))
    half = _see_through()
    half.putalpha(128)
    pale = Image.fromarray(((np.asarray(half.convert("RGB")).astype(int) + 255) // 2).astype(np.uint8))
    for format in ("PNG", "WEBP", "TIFF", "AVIF", "HEIF"):
        yield _given(f"{format} half see-through", coded(half, format), Expected(pale))
    for scale in (1.0, 255.0, 65535.0, 1e6):
        for format in ("TIFF", "PPM"):
            if (format, scale) != ("PPM", 1.0):
                yield _given(f"{format} float to {scale:g}", coded(_grey(np.float32, scale), format), seen_grey)
    for scale in (255, 65535, 2**31 - 1):
        yield _given(f"TIFF 32-bit to {scale}", coded(_grey(np.int32, scale), "TIFF"), seen_grey)
    broken = np.asarray(_grey(np.float32, 1)).copy()
    broken[0, 0], broken[0, 1], broken[0, 2] = np.nan, np.inf, -np.inf
    yield _given("TIFF float, not a number", coded(Image.fromarray(broken), "TIFF"), seen_grey)
    yield _given("PPM scaled to 100", b"P6 60 40 100\n" + (rgb // 2.55).astype(np.uint8).tobytes(), Expected(picture()))
    wide_ppm = b"P6 60 40 65535\n" + wide_rgb.tobytes()
    yield _given("PPM 16-bit", wide_ppm, Expected(picture()))
    yield _given("PGM 16-bit", b"P5 60 40 65535\n" + wide.tobytes(), seen_grey)


def _packed(values: np.ndarray, bits: int) -> np.ndarray:
    places = [values[:, start :: 8 // bits] << (8 - bits * (start + 1)) for start in range(8 // bits)]
    width = max(place.shape[1] for place in places)
    return sum(np.pad(place, ((0, 0), (0, width - place.shape[1]))) for place in places).astype(np.uint8)


def png(pixels: np.ndarray, bits: int, kind: int, *, width: int | None = None, **chunks: bytes) -> bytes:
    """A PNG file of these rows, for what Pillow does not write."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width or pixels.shape[1], pixels.shape[0], bits, kind, 0, 0, 0)
    others = b"".join(png_chunk(name.encode(), body) for name, body in chunks.items())
    return PNG + png_chunk(b"IHDR", header) + others + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


PNG = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def swapped_profile() -> bytes:
    """A valid ICC profile in which pure red is what sRGB calls pure blue."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile = bytearray(bytes(profile).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")))
    entry = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(profile[128:132]), 12)}
    red, blue = (slice(entry[name] + 4, entry[name] + 12) for name in (b"rXYZ", b"bXYZ"))
    profile[red], profile[blue] = profile[blue], profile[red]
    return bytes(profile)


def colours() -> Iterator[PhotoFile]:
    """ICC profiles of every kind, in every mode."""
    swapped = swapped_profile()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    blue_corner, blue_white_corner = (
        Image.merge("RGB", tuple(reversed(image.split()))) for image in (picture(), in_modes()["RGBA"][1])
    )
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "GIF"):
        for mode, seen in (("RGB", blue_corner), ("RGBA", blue_white_corner), ("P", blue_corner)):
            try:
                content = coded(in_modes()[mode][0], format, icc_profile=swapped)
            except Exception:  # as above
                continue
            if mode == "P" and format not in ("PNG", "TIFF", "GIF"):
                continue
            if b"swap".decode().encode("utf-16-be") not in content and format != "PNG":
                seen = in_modes()[mode][1]  # the format keeps no profile
            yield _given(f"{format} {mode}, red and blue swapped", content, Expected(seen, tolerance=16))
        for kind, profile in (
            ("sRGB", srgb),
            ("no", b"no profile" * 20),
            ("half a", swapped[: len(swapped) // 2]),
            ("a zero", b"\0" * 500),
            ("Lab", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()),
        ):
            for mode in ("RGB", "L", "RGBA"):
                image, seen = in_modes()[mode]
                try:
                    content = coded(image, format, icc_profile=profile)
                except Exception:  # as above
                    continue
                yield _given(f"{format} {mode} with {kind} profile", content, Expected(seen))
    for format in ("JPEG", "TIFF"):
        content = coded(picture().convert("CMYK"), format, icc_profile=swapped)
        yield _given(f"{format} CMYK with an RGB profile", content, Expected(picture()))


def facts() -> Iterator[PhotoFile]:
    """Invalid EXIF. The picture must be read, and be upright if the orientation can still be read."""
    on_side, upright = stored(picture(), 6), Expected(picture())

    def tag(number: int, kind: int, count: int, value: int) -> bytes:
        return struct.pack("<HHII", number, kind, count, value)

    def exif(*tags: bytes, next_ifd: int = 0, behind: bytes = b"") -> bytes:
        directory = struct.pack("<H", len(tags)) + b"".join(tags) + struct.pack("<I", next_ifd)
        return b"Exif\0\0II*\0\x08\0\0\0" + directory + behind

    turned = tag(0x0112, 3, 1, 6)
    kinds = {
        "a tag beyond the end": exif(tag(0x010F, 2, 5000, 60000), turned),
        "a tag of unknown type": exif(turned, tag(0x0132, 99, 1, 5)),
        "a tag of 4 billion values": exif(turned, tag(0x0132, 5, 0xFFFFFFFF, 10)),
        "a directory that follows itself": exif(turned, next_ifd=8),
        "a sub-directory that is the first": exif(turned, tag(0x8769, 4, 1, 8), tag(0x8825, 4, 1, 8)),
        "a sub-directory beyond the end": exif(turned, tag(0x8769, 4, 1, 0xFFFFFFF0)),
        "a number where text belongs": exif(tag(0x010F, 4, 1, 7), turned, tag(0x9286, 7, 3, 0x0041FFFF)),
        "a fraction over nothing": exif(turned, tag(0x011A, 5, 1, 38), behind=b"\1\0\0\0\0\0\0\0"),
        "60 KB of maker notes": exif(turned, tag(0x927C, 7, 60000, 38), behind=b"\xa5" * 60000),
        "orientation in 32 bits": exif(tag(0x0112, 4, 1, 6)),
    }
    for format in ("JPEG", "PNG", "WEBP"):
        for kind, content in kinds.items():
            yield _given(f"{format}, {kind}", coded(on_side, format, exif=content), upright)
        for orientation in (0, 9, 255, 65535):
            content = exif(tag(0x0112, 3, 1, orientation))
            yield _given(f"{format}, orientation {orientation}", coded(picture(), format, exif=content), upright)
        for kind, content in {
            "two orientations in one": exif(tag(0x0112, 3, 2, 6 | 8 << 16)),
            "orientation as text": exif(tag(0x0112, 2, 2, ord("6"))),
            "orientation as a fraction": exif(tag(0x0112, 5, 1, 26), behind=struct.pack("<II", 6, 1)),
        }.items():
            yield _given(f"{format}, {kind}", coded(picture(), format, exif=content), Expected(None))
        for kind, content in {
            "garbage": b"Exif\0\0" + b"\xa5" * 500,
            "nothing": b"Exif\0\0",
            "half a header": b"Exif\0\0II*",
            "no directory": b"Exif\0\0II*\0\xff\xff\xff\xff",
            "60,000 tags": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\1" * 60000,
        }.items():
            yield _given(f"{format}, EXIF is {kind}", coded(picture(), format, exif=content), upright)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    yield _given("JPEG, XMP alone tells the orientation", coded(on_side, "JPEG", xmp=xmp), upright)
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "a" * 900_000, zip=True)
    yield _given("PNG with a long text", coded(picture(), "PNG", pnginfo=info), upright)
    whole = coded(picture(), "TIFF", compression=None)
    for number, damage in {0x8769: "EXIF", 0x8825: "place"}.items():
        yield _given(f"TIFF, {damage} beyond the end", with_tiff_tag(whole, number, 0xFFFFFFF0), upright)


def with_tiff_tag(content: bytes, number: int, value: int) -> bytes:
    """A TIFF file with one more tag, its directory moved to the end."""
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    entries = content[start + 2 : start + 2 + 12 * count] + struct.pack("<HHII", number, 4, 1, value)
    ordered = b"".join(sorted((entries[at : at + 12] for at in range(0, len(entries), 12)), key=lambda e: e[:2][::-1]))
    directory = struct.pack("<H", count + 1) + ordered + struct.pack("<I", 0)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + directory


def rle_bmp(width: int, height: int, runs: bytes) -> bytes:
    """An 8-bit BMP of run lengths, which Pillow does not write."""
    colours = b"\0\0\0\0" + b"\x14\x14\xdc\0" * 255
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    offset = 14 + len(header) + len(colours)
    return b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + header + colours + runs


def bombs() -> Iterator[PhotoFile]:
    """Small files that claim to be enormous, or to be read for hours."""
    gif, jpeg = coded(picture(), "GIF"), coded(picture(), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    webp = coded(_see_through(), "WEBP", icc_profile=b"x" * 10)
    canvas = webp.index(b"VP8X") + 12
    tiff = coded(picture(), "TIFF", compression=None)
    bmp = coded(picture(), "BMP")
    for side in (8001, 16000, 65000):
        big, small = struct.pack(">HH", side, side), struct.pack("<HH", side, side)
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        yield _given(
            f"PNG {side}", PNG + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 999)), REFUSED
        )
        yield _given(f"JPEG {side}", jpeg[:frame] + big + jpeg[frame + 4 :], REFUSED)
        yield _given(f"GIF {side}", gif[:6] + small + gif[10:], REFUSED)
        yield _given(f"PPM {side}", b"P6 %d %d 255\n" % (side, side), REFUSED)
        yield _given(f"PPM plain {side}", b"P3 %d %d 255\n1 2 3" % (side, side), REFUSED)
        yield _given(f"PFM {side}", b"PF\n%d %d\n-1.0\n" % (side, side), REFUSED)
        yield _given(f"BMP {side}", bmp[:18] + struct.pack("<ii", side, side) + bmp[26:], REFUSED)
        yield _given(f"WEBP {side}", webp[:canvas] + struct.pack("<I", side - 1)[:3] * 2 + webp[canvas + 6 :], REFUSED)
        for format in ("AVIF", "HEIF"):
            content = coded(picture(), format)
            at = content.index(b"ispe") + 8
            yield _given(f"{format} {side}", content[:at] + struct.pack(">II", side, side) + content[at + 8 :], REFUSED)
        for number, what in ((0x0100, "wide"), (0x0101, "high")):
            yield _given(f"TIFF {side} {what}", with_tiff_value(tiff, number, 1_000 * side), REFUSED)
    for entry in (0x0100, 0x0101):
        tiff = with_tiff_value(tiff, entry, 7999)
    yield _given("TIFF without its pixels", tiff, REFUSED)
    yield _given("GIF frame larger than its screen", _gif_with_frame(gif, 65000), REFUSED)
    for side in (2000, 7000, 7999):
        yield _given(f"BMP of empty lines {side}", rle_bmp(side, side, b"\1\1\0\0" * side), EITHER)
        yield _given(f"PPM plain {side}", b"P3 %d %d 255\n1 2 3" % (side, side), EITHER)
        yield _given(f"PGM scaled {side}", b"P5 %d %d 100\n" % (side, side), EITHER)
        yield PhotoFile(f"JPEG of many scans {side}", partial(many_scans, side), EITHER)
    yield PhotoFile("BMP of single pixels", lambda: rle_bmp(4000, 4000, b"\1\1" * 16_000_000), EITHER)
    yield PhotoFile("PGM scaled, all of it", lambda: b"P5 5000 5000 100\n" + b"\7" * 25_000_000, EITHER)
    yield PhotoFile("PPM plain, all of it", lambda: b"P2 4000 4000 9\n" + b"7 " * 16_000_000, EITHER)
    yield PhotoFile("PBM plain, all of it", lambda: b"P1 7000 5000\n" + b"1" * 35_000_000, EITHER)
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 150_000 + b"\0"
    start = gif.index(b",", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    yield PhotoFile("GIF with a comment of 38 MB", lambda: gif[:start] + comment + gif[start:], EITHER)
    chunk = png_chunk(b"raNd", b"")
    png_file = coded(picture(), "PNG")
    yield PhotoFile("PNG of three million chunks", lambda: png_file[:33] + chunk * 3_000_000 + png_file[33:], EITHER)
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 50_000_000))
    yield _given("PNG with a text of 50 MB", png_file[:33] + text + png_file[33:], EITHER)
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(b"a" * 50_000_000))
    yield _given("PNG with a profile of 50 MB", png_file[:33] + profile + png_file[33:], EITHER)


def _gif_with_frame(gif: bytes, side: int) -> bytes:
    at = gif.index(b",\0\0\0\0", 13) + 5
    return gif[:at] + struct.pack("<HH", side, side) + gif[at + 4 :]


def with_tiff_value(content: bytes, number: int, value: int) -> bytes:
    """A TIFF file with another value in one of its tags."""
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, at)[0] == number:
            return content[: at + 2] + struct.pack("<HII", 4, 1, value) + content[at + 12 :]
    raise AssertionError(f"no tag {number}")


def many_scans(side: int, num_scans: int = 5000) -> bytes:
    """A progressive JPEG of empty scans, each of which takes as long as a full one."""
    jpeg = coded(Image.new("L", (16, 16), 100), "JPEG", progressive=True)
    frame = jpeg.index(b"\xff\xc2") + 5
    scan = jpeg.rindex(b"\xff\xda")
    return (
        jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 : scan] + jpeg[scan:-2] * num_scans + b"\xff\xd9"
    )


def giants() -> Iterator[PhotoFile]:
    """Real photos just below the limit: read, or refused as too large, but with bounded time and memory."""
    side = int(MAX_PIXELS**0.5) - 1
    limits = {"WEBP": [4890], "AVIF": [5650], "HEIF": [5650], "TIFF": [6160]}  # sides that must be read
    kinds: list[tuple[str, str, dict[str, object]]] = [
        ("L", "PNG", {"compress_level": 1}),
        ("1", "PNG", {"compress_level": 1}),
        ("RGB", "PNG", {"compress_level": 1}),
        ("RGBA", "PNG", {"compress_level": 1}),
        ("LA", "PNG", {"compress_level": 1}),
        ("P", "PNG", {"compress_level": 1, "transparency": 0}),
        ("I;16", "PNG", {"compress_level": 1}),
        ("RGB", "PNG", {"compress_level": 1, "icc_profile": swapped_profile()}),
        ("RGBA", "PNG", {"compress_level": 1, "exif": oriented(6)}),
        ("L", "JPEG", {}),
        ("RGB", "JPEG", {"exif": oriented(6)}),
        ("RGB", "JPEG", {"subsampling": 0, "progressive": True}),
        ("CMYK", "JPEG", {"subsampling": 0}),
        ("CMYK", "JPEG", {"subsampling": 0, "progressive": True}),
        ("RGB", "JPEG", {"icc_profile": swapped_profile(), "exif": oriented(6)}),
        ("P", "GIF", {}),
        ("RGB", "BMP", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("RGB", "TIFF", {"compression": "tiff_lzw", "exif": oriented(6)}),
        ("RGBA", "TIFF", {"compression": "tiff_lzw", "strip_size": 2**30}),
        ("CMYK", "TIFF", {"compression": "packbits"}),
        ("F", "TIFF", {"compression": "packbits"}),
        ("I", "TIFF", {"compression": "packbits"}),
        ("RGB", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
        ("RGBA", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
        ("RGB", "AVIF", {}),
        ("RGBA", "AVIF", {}),
        ("RGB", "HEIF", {"quality": 10}),
        ("RGB", "PPM", {}),
        ("I", "PPM", {}),
    ]
    for mode, format, options in kinds:
        colour = {"RGBA": (220, 20, 20, 128), "LA": (100, 128), "CMYK": (0, 200, 200, 0), "F": 0.5, "I": 30000}.get(
            mode, (220, 20, 20) if mode == "RGB" else 1 if mode in ("P", "1") else 100
        )
        for each in (side, *limits.get(format, ())):
            what = ", ".join(key for key in options if key in ("exif", "icc_profile", "progressive"))
            make = partial(_solid, mode, each, colour, format, options)
            yield PhotoFile(f"{format} {mode} {each} {what}", make, Expected(may_be_refused=each == side))


def _solid(mode: str, side: int, colour: object, format: str, options: dict[str, object]) -> bytes:
    image = Image.new("I" if mode == "I;16" else mode, (side, side), colour)  # type: ignore[arg-type]
    return coded(image.convert(mode) if mode == "I;16" else image, format, **options)


def check(opened: Image.Image, expected: Expected) -> None:
    """Check a picture against the expected one, of which an upload keeps less than twice `JPEG_SIDE` pixels.

    Raises:
        AssertionError: It is not.
    """
    assert expected.may_be_read, "was read, and must not be"
    assert opened.mode == "RGB", f"is {opened.mode}, not RGB"
    # INFO
    opened.load()
    if expected.picture is None:
        return
    seen = expected.picture
    if opened.size != seen.size:
        times = 2 ** math.floor(math.log2(max(1, min(seen.size) / JPEG_SIDE)))
        shrunk = np.divide(seen.size, times)
        assert max(abs(shrunk - opened.size)) <= 1, f"is of size {opened.size}, not {seen.size}"
        seen = seen.resize(opened.size)
    difference = np.abs(np.asarray(opened, np.int16) - np.asarray(seen, np.int16)).mean()
    assert difference <= expected.tolerance, f"differs by {difference:.0f} levels"


def check_refusal(error: BadImage, expected: Expected) -> None:
    """Check that a refusal is allowed, and one sentence.

    Raises:
        AssertionError: It is not.
    """
    said = str(error)
    assert expected.may_be_refused, f"was refused: {said}"
    assert len(said) > 20 and said.endswith(".") and said.isprintable(), f"is told {said!r}"


Ways = dict[str, Callable[[Path], Image.Image | None]]
"""Functions that open a file, by name; those without a picture return None."""


def upload(path: Path) -> Image.Image:
    """What the models see of a file that is sent to the page."""
    with tempfile.TemporaryDirectory() as place:
        return open_copy(store_copy(path, Path(place), at_least=JPEG_SIDE))


def ways_in(predict: Callable[[Path], object]) -> Ways:
    """All functions that open files of users."""

    def ask(path: Path) -> None:
        predict(path)

    return {
        "path": open_image,
        "bytes": lambda path: open_image(path.read_bytes()),
        "upload": upload,
        "model": ask,
    }


def try_file(file: PhotoFile, folder: Path, ways: Ways) -> tuple[set[str], float]:
    """Open one file in several ways.

    Returns:
        The results that occurred, of "read" and "refused", and the seconds of the slowest function.

    Raises:
        AssertionError: What came of it is not what must.
    """
    became, slowest = set(), 0.0
    given, path = folder / "given", folder / ("photos/" + file.name)
    path.parent.mkdir()
    given.write_bytes(file.make())
    forget_peak()
    for way, function in ways.items():
        if way == "bytes" and given.stat().st_size > MAX_UPLOAD:
            continue
        shutil.copyfile(given, path)
        started = time.perf_counter()
        with limited(MAX_SECONDS):
            try:
                opened: Image.Image | BadImage | None = function(path)
            except BadImage as error:
                opened = error
        slowest = max(slowest, time.perf_counter() - started)
        if isinstance(opened, BadImage):
            check_refusal(opened, file.expected)
        elif opened is not None:
            check(opened, file.expected)
        became.add("refused" if isinstance(opened, BadImage) else "read")
        del opened  # or it were in memory while the next is opened
        left = [other.name for other in path.parent.iterdir() if other != path]
        assert not left, f"leaves {left} behind"
    shutil.rmtree(path.parent)
    return became, slowest


def forget_peak() -> None:
    """Reset the measurement of this process's largest memory, if the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End this process if it takes longer: C code that hangs can't be interrupted."""
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def tried_alone(file: PhotoFile, ways: Ways) -> tuple[str, float, float]:
    """Try a file in a process of its own.

    Returns:
        The result, the seconds of the slowest function, and the largest memory of the process in MB.
    """
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.close(out)
        os.write(into, json.dumps(_report(file, ways)).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return ("HANGS" if number == signal.SIGALRM else f"CRASHES: signal {number}"), MAX_SECONDS, 0
    became, seconds, megabytes = json.loads(said)
    return (f"TAKES {megabytes:.0f} MB" if megabytes > MAX_MEGABYTES else became), seconds, megabytes


def _report(file: PhotoFile, ways: Ways) -> tuple[str, float, float]:
    try:
        with tempfile.TemporaryDirectory() as folder:
            became, seconds = try_file(file, Path(folder), ways)
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1000
        return " or ".join(sorted(became)), seconds, peak
    except AssertionError as error:
        return f"WRONG: {error}", 0, 0
    except BaseException:
        return "CRASHES: " + " | ".join(traceback.format_exc().strip().splitlines()[-7:]), 0, 0


def main() -> int:
    """Try every file and print the results."""
    from dogbreeds.serving.predictor import Predictor

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="files whose label contains this")
    parser.add_argument("--files", nargs="*", type=Path, metavar="DIR", help="try the files of these folders instead")
    options = parser.parse_args()
    files = itertools.chain(*map(of_others, options.files)) if options.files else corpus()
    ways = ways_in(Predictor(num_threads=1).predict)  # a forked process has none of the threads
    rows: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    slowest, largest = (0.0, ""), (0.0, "")
    for file in files:
        if options.only not in file.label:
            continue
        row = tried_alone(file, ways)
        rows[file.label.split(":")[0]].append(row)
        slowest, largest = max(slowest, (row[1], file.label)), max(largest, (row[2], file.label))
        if row[0].isupper() or row[0][:2].isupper():
            print(f"{file.label}\n    {row[0]}", flush=True)
    print(f"{'':<12}{'files':>8}{'read':>8}{'refused':>9}{'wrong':>8}{'seconds':>9}{'MB':>6}")
    everything = [row for part in rows.values() for row in part]
    for name, part in {**rows, "all": everything}.items():
        count = Counter("wrong" if row[0][:2].isupper() else row[0].split(" ")[0] for row in part)
        figures = (len(part), count["read"], count["refused"], count["wrong"])
        worst = (max(row[1] for row in part), max(row[2] for row in part))
        print("{:<12}{:>8,}{:>8,}{:>9,}{:>8,}{:>9.1f}{:>6.0f}".format(name, *figures, *worst))
    print(f"slowest: {slowest[1]}; largest: {largest[1]}")
    return 1 if any(row[0][:2].isupper() for row in everything) else 0


if __name__ == "__main__":
    sys.exit(main())
