import io
import os
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from photo_corpus import swapped_profile
from PIL import Image, ImageCms, ImageOps

from dogbreeds import images
from dogbreeds.images import MAX_PIXELS, BadImage, open_image


def picture() -> Image.Image:
    """An upright picture whose corners differ: red top left, green top right, blue bottom left, white bottom right."""
    image = Image.new("RGB", (60, 40), "white")
    image.paste((220, 20, 20), (0, 0, 30, 20))
    image.paste((20, 220, 20), (30, 0, 60, 20))
    image.paste((20, 20, 220), (0, 20, 30, 40))
    return image


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_is_the_picture(image: Image.Image, tolerance: float = 12) -> None:
    assert image.mode == "RGB" and image.size == (60, 40)
    difference = np.abs(np.asarray(image, float) - np.asarray(picture(), float))
    assert np.median(difference) <= tolerance and difference.mean() <= tolerance


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF"])
def test_every_format_is_read(format):
    assert_is_the_picture(open_image(saved(picture(), format)))


def test_paths_bytes_and_images_are_the_same(tmp_path):
    path = tmp_path / "a dog's photo, 'quoted'.png"
    path.write_bytes(saved(picture(), "PNG"))
    for source in (path, str(path), path.read_bytes(), picture()):
        assert_is_the_picture(open_image(source), 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF"])
def test_a_file_gives_the_pixels_of_its_bytes_and_is_closed(format, tmp_path):
    path = tmp_path / "photo"
    data = saved(picture(), format, **({"compression": "tiff_lzw"} if format == "TIFF" else {}))
    path.write_bytes(data)
    num_open = len(os.listdir("/dev/fd"))
    opened = open_image(path)
    assert len(os.listdir("/dev/fd")) == num_open
    path.write_bytes(b"")  # nothing is read from it later on
    assert np.array_equal(np.asarray(opened.resize(opened.size)), np.asarray(open_image(data)))
    path.write_bytes(data[:40])
    with pytest.raises(BadImage) as error:
        open_image(path)
    assert error.traceback and len(os.listdir("/dev/fd")) == num_open


def test_what_is_no_photo_is_not_read_into_memory(tmp_path):
    video = tmp_path / "video.mp4"
    video.write_bytes(b"\0\0\0\x18ftypisom")
    os.truncate(video, 500_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(BadImage, match="not a photo"):
            open_image(video)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_photo_may_come_through_a_pipe():
    readable, writable = os.pipe()
    os.write(writable, saved(picture(), "PNG"))
    os.close(writable)
    try:
        assert_is_the_picture(open_image(f"/dev/fd/{readable}"), 0)
    finally:
        os.close(readable)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # What a camera held that way stores, found by trying all eight turns
    for turn in [None, *Image.Transpose]:
        stored = picture() if turn is None else picture().transpose(turn)
        data = saved(stored, "JPEG", exif=exif, quality=95)
        if np.array_equal(np.asarray(ImageOps.exif_transpose(with_exif(stored, exif))), np.asarray(picture())):
            break
    else:
        raise AssertionError("no turn fits")
    assert_is_the_picture(open_image(data))


def with_exif(image: Image.Image, exif: Image.Exif) -> Image.Image:
    return Image.open(io.BytesIO(saved(image, "PNG", exif=exif)))


def test_damaged_exif_does_not_cost_the_photo():
    data = saved(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert_is_the_picture(open_image(data))


def test_cmyk():
    assert_is_the_picture(open_image(saved(picture().convert("CMYK"), "JPEG", quality=95)))


def test_palette_and_animation_give_the_first_frame():
    second = Image.new("RGB", (60, 40), "black")
    for data in (
        saved(picture().quantize(16), "PNG"),
        saved(picture(), "GIF", save_all=True, append_images=[second]),
        saved(picture(), "WEBP", save_all=True, append_images=[second], lossless=True),
    ):
        assert_is_the_picture(open_image(data))


def test_transparency_becomes_white():
    image = picture().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert np.asarray(open_image(saved(image, "PNG"))).min() == 255
    palette = picture().quantize(8)
    opened = open_image(saved(palette, "PNG", transparency=palette.getpixel((0, 0))))
    assert opened.getpixel((0, 0)) == (255, 255, 255) and opened.getpixel((45, 5))[1] > 180


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(format):
    ramp = np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)
    opened = np.asarray(open_image(saved(Image.fromarray(ramp), format)))[:, :, 0]
    assert np.abs(opened - ramp / 257).max() <= 1


def test_dark_sixteen_bit_photos_stay_dark():
    dark = np.full((4, 4), 200, np.uint16)
    assert np.asarray(open_image(saved(Image.fromarray(dark), "PNG"))).max() <= 1


def test_bad_files_are_named_in_a_sentence(tmp_path):
    jpeg = saved(picture().resize((600, 400)), "JPEG")
    cases = {
        "empty": b"",
        "not a photo": b"hello, I am a text file\n",
        "cut short": jpeg[: len(jpeg) // 2],
        "damaged": saved(picture(), "PNG")[:60] + b"\0" * 200,
    }
    for words, data in cases.items():
        with pytest.raises(BadImage, match=words) as error:
            open_image(data)
        assert "\n" not in str(error.value) and str(error.value).endswith(".")
    with pytest.raises(BadImage, match="no file"):
        open_image(tmp_path / "missing.jpg")
    with pytest.raises(BadImage, match="is a folder: python -m dogbreeds index"):
        open_image(tmp_path)


def test_float_images_are_scaled():
    ramp = np.linspace(0, 1, 60 * 40, dtype=np.float32).reshape(40, 60)
    assert np.asarray(open_image(saved(Image.fromarray(ramp), "TIFF")))[:, :, 0].max() == 255


def test_avif_under_a_common_brand():
    data = bytearray(saved(picture(), "AVIF"))
    assert data[8:12] == b"avif" and b"mif1" in data[12:64]
    data[8:12] = b"mif1"
    assert_is_the_picture(open_image(bytes(data)))


def test_heic_without_its_plug_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage, match="pillow-heif"):
        open_image(b"\0\0\0\x18ftypheic" + b"\0" * 100)


def test_heic_with_its_plug_in():
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(picture().resize((120, 80))).save(buffer, format="HEIF", quality=95)
    opened = open_image(buffer.getvalue())
    assert opened.mode == "RGB" and opened.size == (120, 80) and opened.getpixel((10, 10))[0] > 180


@pytest.mark.parametrize(
    ("mode", "limit", "is_read"), [("RGB;16", 2399, False), ("RGB;16", 2400, True), ("RGB", 2399, True)]
)
def test_heic_of_more_than_8_bits_may_have_fewer_pixels(mode, limit, is_read, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    monkeypatch.setattr(images, "_MAX_DEEP_HEIF_PIXELS", limit)
    buffer = io.BytesIO()
    heif.from_bytes(mode, (60, 40), bytes(60 * 40 * (6 if mode == "RGB;16" else 3))).save(buffer)
    if is_read:
        assert open_image(buffer.getvalue()).size == (60, 40)
    else:
        with pytest.raises(BadImage, match="too large"):
            open_image(buffer.getvalue())


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims to be this large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8001, 13000, 60000])
def test_bombs_are_refused_before_they_are_decoded(side, monkeypatch):
    assert side * side > MAX_PIXELS
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="too large"):
        open_image(bomb(side, side))


def test_formats_that_run_programs_are_not_opened():
    with pytest.raises(BadImage, match="not a photo"):
        open_image(saved(picture(), "EPS"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_colours_of_another_space_become_those_of_srgb(format):
    red = Image.new("RGB", (32, 32), (250, 5, 5))
    data = saved(red, format, icc_profile=swapped_profile())
    assert np.allclose(np.asarray(open_image(data)).mean((0, 1)), (5, 5, 250), atol=12)
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.allclose(np.asarray(open_image(saved(red, format, icc_profile=same))).mean((0, 1)), (250, 5, 5), atol=12)
    damaged = saved(red, format, icc_profile=b"no profile" * 20)
    assert np.allclose(np.asarray(open_image(damaged)).mean((0, 1)), (250, 5, 5), atol=12)
