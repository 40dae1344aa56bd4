import io
import os
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import make_photo
from PIL import Image, PngImagePlugin
from pillow_heif import register_heif_opener

from dogbreeds.answers import Answer
from dogbreeds.images import BadImage
from dogbreeds.serving.page.many_photos import answer_many, to_csv
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.uploads import delete_older, named_for_browsers, open_upload, shown_by_browsers

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
        register_heif_opener()
    path = tmp_path / "upload"
    make_photo(2, 1, (320, 240)).save(path, format, **options)
    before = path.read_bytes()
    assert SECRET in before
    photo = open_upload(path)
    after = path.read_bytes()
    assert SECRET not in after and photo.mode == "RGB" and photo.size == (320, 240) and not photo.info
    assert [file.name for file in tmp_path.iterdir()] == ["upload"]
    assert open_upload(path) == photo and path.read_bytes() == after  # coded once, without loss


def test_a_film_behind_the_picture_is_gone(tmp_path):
    path = tmp_path / "motion.jpg"
    make_photo(2, 1, (320, 240)).save(path, quality=95)
    path.write_bytes(path.read_bytes() + b"ftypmp42" + SECRET * 100)
    open_upload(path)
    assert SECRET not in path.read_bytes()


@pytest.mark.parametrize(("at_least", "size"), [(520, (750, 1000)), (751, (1500, 2000))])
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_the_photo_that_is_kept_is_upright_and_of_the_size_that_models_need(ending, at_least, size, tmp_path):
    path = tmp_path / f"large{ending}"
    Image.new("RGB", (4000, 3000), "teal").save(path, exif=exif(orientation=6))
    assert open_upload(path, at_least=at_least).size == size
    assert Image.open(path).size == size


def test_a_long_photo_is_kept_whole(tmp_path):
    path = tmp_path / "panorama.png"
    panorama = make_photo(2, 1, (20_000, 60))
    panorama.save(path)
    assert open_upload(path) == open_upload(path) == panorama


def test_a_copy_for_browsers_has_a_name_that_says_what_it_is(tmp_path):
    path = tmp_path / "dog.heic"
    register_heif_opener()
    make_photo(2, 1, (320, 240)).save(path, "HEIF")
    photo = open_upload(path)
    named = [named_for_browsers(path) for _ in range(2)]
    assert named == [tmp_path / "dog.heic.webp"] * 2 and shown_by_browsers(named[0])
    before = named[0].read_bytes()
    assert open_upload(named[0]) == photo and named[0].read_bytes() == before


def late_chunk(name: bytes, content: bytes) -> bytes:
    """A PNG whose text comes after the pixels, where Pillow does not look for it."""
    buffer = io.BytesIO()
    make_photo(2, 1, (320, 240)).save(buffer, "PNG")
    chunk = len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
    return buffer.getvalue()[:-12] + chunk + buffer.getvalue()[-12:]


@pytest.mark.parametrize(
    "content",
    [late_chunk(b"tEXt", b"Comment\0" + SECRET), late_chunk(b"caBX", SECRET), late_chunk(b"tIME", b"") + SECRET],
    ids=["text", "private", "behind the end"],
)
def test_what_stands_behind_the_pixels_is_gone(content, tmp_path):
    (tmp_path / "upload.png").write_bytes(content)
    open_upload(tmp_path / "upload.png")
    assert SECRET not in (tmp_path / "upload.png").read_bytes()


def test_one_photo_that_is_asked_about_several_times_at_a_time(tmp_path):
    path = tmp_path / "dog.jpg"
    make_photo(2, 1, (640, 480)).save(path, exif=exif())
    with ThreadPoolExecutor(8) as pool:
        photos = list(pool.map(open_upload, [path] * 40))
    assert all(photo == photos[0] for photo in photos) and photos[0].size == (640, 480)
    assert SECRET not in path.read_bytes() and [file.name for file in tmp_path.iterdir()] == ["dog.jpg"]


def test_a_bad_upload_is_reported_and_emptied(tmp_path):
    (tmp_path / "text.jpg").write_text("I am a text")
    with pytest.raises(BadImage, match="not a photo"):
        open_upload(tmp_path / "text.jpg")
    assert (tmp_path / "text.jpg").read_bytes() == b""


@pytest.mark.parametrize(
    ("format", "shown"),
    [("JPEG", True), ("PNG", True), ("WEBP", True), ("GIF", True), ("AVIF", True), ("TIFF", False), ("HEIF", False)],
)
def test_what_browsers_show_is_known_by_content(format, shown, tmp_path):
    register_heif_opener()
    make_photo(2, 1).save(tmp_path / "named.jpg", format)
    assert shown_by_browsers(tmp_path / "named.jpg") == shown
    assert not shown_by_browsers(tmp_path / "nothing.jpg")


def sent(folder, photos) -> list:
    """Files where they are kept: each in a place of its own."""
    for number, (name, content) in enumerate(photos):
        path = folder / str(number) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        photos[number] = (name, path)
    return photos


def png(label: int) -> bytes:
    buffer = io.BytesIO()
    make_photo(label, 0, (60 + label, 48)).save(buffer, "PNG")
    return buffer.getvalue()


def test_many_uploads_are_answered_and_deleted_even_two_alike(tiny_run, tmp_path):
    files = sent(tmp_path, [("a.png", png(1)), ("b.txt", b"text"), ("a.png", png(1)), ("c.png", png(2))])
    rows = [row for batch in answer_many(Predictor(tiny_run), files) for row in batch]
    assert [row.file for row in rows] == ["a.png", "b.txt", "a.png", "c.png"]
    assert [row.result.breeds[0].breed for row in rows if isinstance(row.result, Answer)] == [
        "Shih-Tzu",
        "Shih-Tzu",
        "Beagle",
    ]
    assert rows[1].result.problem == "not_a_photo" and rows[1].thumbnail == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    table = to_csv(rows).decode("utf-8-sig").splitlines()
    assert table[0].replace('"', "").startswith("file,verdict,breed,probability,breed_2") and len(table) == 5


def test_uploads_are_deleted_when_nobody_waits_for_the_rest(tiny_run, tmp_path):
    files = sent(tmp_path, [(f"{number}.png", png(number % 4)) for number in range(4) for _ in range(10)])
    answers = answer_many(Predictor(tiny_run), files)
    next(answers)
    answers.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_upload_that_is_gone_is_reported(tiny_run, tmp_path):
    files = sent(tmp_path, [("a.png", png(1)), ("c.png", png(2))])
    files[0][1].unlink()
    rows = [row for batch in answer_many(Predictor(tiny_run), files) for row in batch]
    assert rows[0].result.problem == "missing" and isinstance(rows[1].result, Answer)
    assert str(tmp_path) not in to_csv(rows).decode()


def test_a_file_that_is_replaced_again_and_again_is_always_whole(tmp_path):
    path = tmp_path / "upload"
    make_photo(2, 1, (320, 240)).save(path, "JPEG", exif=exif(), quality=95)
    content = path.read_bytes()

    def upload(number: int) -> tuple[int, int]:
        arrived = tmp_path / str(number)
        arrived.write_bytes(content)
        os.replace(arrived, path)
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
