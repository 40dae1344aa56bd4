import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import make_photo
from PIL import Image, PngImagePlugin

from dogbreeds.images import BadImage
from dogbreeds.serving.uploads import MAX_KEPT_SIDE, delete_older, open_upload

SECRET = b"Phone of Ada"


def exif(orientation: int = 1) -> Image.Exif:
    facts = Image.Exif()
    facts[0x010F] = SECRET.decode()
    facts[0x0112] = orientation
    return facts


def text_chunk() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", SECRET.decode())
    return info


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"exif": exif()}),
        ("JPEG", {"comment": SECRET}),
        ("JPEG", {"xmp": SECRET}),
        ("PNG", {"pnginfo": text_chunk()}),
        ("PNG", {"exif": exif()}),
        ("WEBP", {"exif": exif()}),
        ("AVIF", {"exif": exif()}),
        ("TIFF", {"exif": exif()}),
        ("GIF", {"comment": SECRET}),
        ("HEIF", {"exif": exif().tobytes()}),
    ],
)
def test_what_a_file_tells_besides_the_picture_is_gone(format, options, tmp_path):
    if format == "HEIF":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    path = tmp_path / "upload"
    make_photo(2, 1, (320, 240)).save(path, format, **options)
    before = path.read_bytes()
    assert SECRET in before
    photo = open_upload(path)
    after = path.read_bytes()
    assert SECRET not in after and photo.mode == "RGB" and photo.size == (320, 240) and not photo.info
    assert [file.name for file in tmp_path.iterdir()] == ["upload"]
    again = open_upload(path)
    assert path.read_bytes() == after  # coded once
    assert abs(again.resize((1, 1)).getpixel((0, 0))[2] - photo.resize((1, 1)).getpixel((0, 0))[2]) < 5


def test_a_film_behind_the_picture_is_gone_and_the_length_stays(tmp_path):
    path = tmp_path / "motion.jpg"
    make_photo(2, 1, (320, 240)).save(path, quality=95)
    path.write_bytes(path.read_bytes() + b"ftypmp42" + SECRET * 100)
    length = path.stat().st_size
    open_upload(path)
    assert SECRET not in path.read_bytes() and path.stat().st_size == length


def test_the_photo_that_is_kept_is_upright_and_of_a_screens_size(tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (4000, 3000), "teal").save(path, exif=exif(orientation=6))
    assert open_upload(path).size == (MAX_KEPT_SIDE * 3 // 4, MAX_KEPT_SIDE)
    assert Image.open(path).size == (MAX_KEPT_SIDE * 3 // 4, MAX_KEPT_SIDE)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_file_that_tells_nothing_stays_as_it_is(format, tmp_path):
    path = tmp_path / "bare"
    make_photo(1, 1).save(path, format)
    before = path.read_bytes()
    open_upload(path)
    assert path.read_bytes() == before


def test_a_bad_upload_is_told_and_left(tmp_path):
    (tmp_path / "text.jpg").write_text("I am a text")
    with pytest.raises(BadImage, match="not a photo"):
        open_upload(tmp_path / "text.jpg")


def test_people_with_the_same_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "upload"
    make_photo(2, 1, (320, 240)).save(path, "JPEG", exif=exif(), quality=95)
    content = path.read_bytes()

    def upload(number: int) -> tuple[int, int]:
        arrived = tmp_path / str(number)
        arrived.write_bytes(content)
        os.replace(arrived, path)  # as gradio does: files of the same content and name lie in the same place
        return open_upload(path).size

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(upload, range(80))) == [(320, 240)] * 80
    assert [file.name for file in tmp_path.iterdir()] == ["upload"]


def test_what_is_old_is_deleted_with_its_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old.png").touch()
    (tmp_path / "part").touch()
    delete_older(tmp_path, time.time() + 1)
    delete_older(tmp_path, time.time() + 1)  # a folder is as young as what was last deleted in it
    assert list(tmp_path.iterdir()) == []


def test_what_is_new_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "new.png").touch()
    delete_older(tmp_path, time.time() - 60)
    assert (tmp_path / "folder" / "new.png").exists()
