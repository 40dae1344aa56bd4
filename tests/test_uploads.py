import asyncio
import io
import json
import os
import subprocess
import sys
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, make_photo
from PIL import Image, PngImagePlugin
from pillow_heif import register_heif_opener

from dogbreeds.answers import Answer
from dogbreeds.images import JPEG_SIDE, BadImage, open_image
from dogbreeds.serving import upload_route, uploads
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page.many_photos import _updates, answer_many
from dogbreeds.serving.page.review import begin, lines
from dogbreeds.serving.page.texts import ENGLISH
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.questions import Refused
from dogbreeds.serving.upload_route import UploadRoute
from dogbreeds.serving.uploads import UploadFolder, open_copy, private_upload_folder, store_copy

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
    assert SECRET in path.read_bytes()
    copy = copied(path)
    photo = open_copy(copy)
    assert SECRET not in copy.read_bytes() and photo.mode == "RGB" and photo.size == (320, 240) and not photo.info
    assert photo == open_image(path, at_least=JPEG_SIDE)  # without loss


def copied(path, at_least: int = JPEG_SIDE):
    """The copy that is kept of an upload."""
    return store_copy(path, path.parent, at_least=at_least)


def test_a_film_behind_the_picture_is_gone(tmp_path):
    path = tmp_path / "motion.jpg"
    make_photo(2, 1, (320, 240)).save(path, quality=95)
    path.write_bytes(path.read_bytes() + b"ftypmp42" + SECRET * 100)
    assert SECRET not in copied(path).read_bytes()


@pytest.mark.parametrize(("at_least", "size"), [(520, (750, 1000)), (751, (1500, 2000))])
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_the_photo_that_is_kept_is_upright_and_of_the_size_that_models_need(ending, at_least, size, tmp_path):
    path = tmp_path / f"large{ending}"
    Image.new("RGB", (4000, 3000), "teal").save(path, exif=exif(orientation=6))
    assert Image.open(copied(path, at_least)).size == size


def test_a_long_photo_is_kept_whole(tmp_path):
    path = tmp_path / "panorama.png"
    panorama = make_photo(2, 1, (20_000, 60))
    panorama.save(path)
    assert open_copy(copied(path)) == panorama


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
    assert SECRET not in copied(tmp_path / "upload.png").read_bytes()


async def copy_here(source, place, address):
    return store_copy(source, place, at_least=JPEG_SIDE)


def added(folder: UploadFolder, content: bytes, address: str = "1.2.3.4"):
    arrived = folder.arrival()
    arrived.write_bytes(content)
    copy = asyncio.run(folder.add(arrived, address))
    assert not arrived.exists()
    return copy


def test_each_upload_has_a_place_of_its_own_that_nobody_can_guess(tmp_path):
    folder = UploadFolder(tmp_path, copy_here)
    copies = [added(folder, png(1)) for _ in range(3)]
    assert len({copy.parent for copy in copies}) == 3 and {copy.name for copy in copies} == {"photo.webp"}
    assert all(len(copy.parent.name) == 32 and copy.parent.parent == tmp_path for copy in copies)
    assert open_copy(copies[0]) == open_copy(copies[1])


def test_of_what_is_no_photo_the_reason_and_a_picture_are_kept(tmp_path):
    copy = added(UploadFolder(tmp_path, copy_here), b"I am a text " + SECRET)
    with pytest.raises(BadImage, match="not a photo") as raised:
        open_copy(copy)
    assert raised.value.problem == "not_a_photo" and Image.open(copy).size == (320, 240)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and SECRET in file.read_bytes()]


def test_an_upload_that_fails_leaves_nothing_behind(tmp_path):
    async def fail(source, place, address):
        (place / "half").touch()
        raise KeyError

    folder = UploadFolder(tmp_path, fail)
    with pytest.raises(KeyError):
        added(folder, b"x")
    assert list(tmp_path.iterdir()) == []


def test_one_address_can_not_fill_the_folder_and_all_can_not_fill_the_disk(tmp_path, monkeypatch):
    folder = UploadFolder(tmp_path, copy_here)
    size = sum(file.stat().st_size for file in added(folder, png(1), "a").parent.iterdir())
    monkeypatch.setattr(uploads, "MAX_STORED_OF_ADDRESS", 2 * size)
    assert folder.refusal("a") is None
    added(folder, png(1), "a")
    assert "Your address has sent as many photos as it may" in folder.refusal("a") and folder.refusal("b") is None
    monkeypatch.setattr(uploads, "MAX_STORED", 2 * size)
    assert "as many photos as it can" in folder.refusal("b")
    asyncio.run(folder.delete_older(-1))
    assert folder.refusal("a") is None and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(uploads, "MIN_FREE", 1 << 60)
    assert "as many photos as it can" in folder.refusal("a")


def disk(monkeypatch, total: int, free: int) -> None:
    """Let every folder lie on such a disk."""
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda path: SimpleNamespace(total=total, free=free))


@pytest.mark.parametrize("total", [256 << 20, 1 << 30, 64 << 30])
def test_a_small_disk_takes_photos_too_and_a_part_of_it_stays_free(total, tmp_path, monkeypatch, capsys):
    disk(monkeypatch, total, total)
    folder = UploadFolder(tmp_path, copy_here)
    assert folder.refusal("a") is None and not capsys.readouterr().err
    stays_free = min(total // 4, 1 << 30)
    disk(monkeypatch, total, stays_free)
    assert folder.refusal("a") is None
    disk(monkeypatch, total, stays_free - 1)
    assert "as many photos as it can" in folder.refusal("a")
    disk(monkeypatch, total, total)
    folder._held.add("1", "a", stays_free)  # half of what all may
    assert "Your address" in folder.refusal("a") and folder.refusal("b") is None
    folder._held.add("2", "b", stays_free - 1)
    assert folder.refusal("c") is None
    folder._held.add("3", "c", 1)
    assert "as many photos as it can" in folder.refusal("c")


def test_a_disk_that_has_no_room_is_told_at_the_start(tmp_path, monkeypatch, capsys):
    disk(monkeypatch, 1 << 30, 1000)
    UploadFolder(tmp_path, copy_here)
    told = capsys.readouterr().err
    assert repr(str(tmp_path)) in told and "set GRADIO_TEMP_DIR" in told and told.count("\n") == 1


HOLD = """
import os, sys
from dogbreeds.serving.uploads import private_upload_folder
(private_upload_folder() / "photo.webp").touch()
print("ready", flush=True)
sys.stdin.read()
"""


def test_only_a_video_may_be_larger_than_a_photo_and_one_of_an_address_at_a_time(tmp_path, monkeypatch):
    for name, value in {"MAX_FILE": 2000, "MAX_BYTES": 9000, "NUM_VIDEOS": 2}.items():
        monkeypatch.setattr(upload_route, name, value)
    head = b"\0\0\0\x18ftypisom"
    come, arrive = asyncio.Event(), asyncio.Event()

    async def copy(source, place, address):
        raise BadImage(f"{source.stat().st_size}", "damaged")

    async def sent(folder, content, address, pause=False):
        """What is said of a file that comes in parts of 1,000 bytes."""
        body = b'--B\r\nContent-Disposition: form-data; filename="a"\r\n\r\n' + content + b"\r\n--B--\r\n"
        parts = [body[start : start + 1000] for start in range(0, len(body), 1000)]

        async def receive():
            part = parts.pop(0)
            if not parts and pause:
                come.set()
                await arrive.wait()
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        try:
            (path,) = await route.receive("multipart/form-data; boundary=B", address, address, receive)
            return path.name
        except Refused as refused:
            return str(refused)

    async def task():
        pausing = asyncio.create_task(sent(tmp_path, head + bytes(5000), "a", pause=True))
        await come.wait()
        said = [await sent(tmp_path, head + bytes(num), "a") for num in (5000, 900)]  # of that address
        said += [
            await sent(tmp_path, content, "b") for content in (head + bytes(5000), bytes(5000), head + bytes(9001))
        ]
        arrive.set()
        said.insert(0, await pausing)
        monkeypatch.setattr(upload_route, "VIDEO_SECONDS", 0.0)
        return [*said, await sent(tmp_path, head + bytes(5000), "c")]

    route = UploadRoute(UploadFolder(tmp_path, copy, takes_videos=True))
    first, again, small, other, no_video, larger, slow = asyncio.run(task())
    assert first == small == other == "unreadable.png" and not route._videos
    assert "Other videos are on their way" in again and "too slowly" in slow
    assert "larger than 0 MB" in no_video and "This video is larger than 0 MB" in larger


def test_uploads_of_a_killed_server_are_gone_at_the_next_start_and_those_of_a_living_one_stay(tmp_path, monkeypatch):
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    killed, living = (
        subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, env=environment, **pipes) for _ in range(2)
    )
    for process in (killed, living):
        assert process.stdout.readline() == b"ready\n"
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.glob("*/photo.webp"))) == 2
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    mine = private_upload_folder()
    assert len(list(tmp_path.glob("*/photo.webp"))) == 1 and mine.is_dir()
    living.communicate()
    assert living.returncode == 0 and list(tmp_path.iterdir()) == [mine]


def sent(folder, photos) -> list:
    """What the page knows of uploads: each file's own name, and where its copy is kept."""
    uploads = UploadFolder(folder, copy_here)
    return [(name, added(uploads, content)) for name, content in photos]


def png(label: int) -> bytes:
    buffer = io.BytesIO()
    make_photo(label, 0, (60 + label, 48)).save(buffer, "PNG")
    return buffer.getvalue()


def test_many_uploads_are_answered_even_two_alike(tiny_run, tmp_path):
    files = sent(tmp_path, [("a.png", png(1)), ("b.txt", b"text"), ("a.png", png(1)), ("c.png", png(2))])
    rows = [row for batch in answer_many(Predictor(tiny_run), files) for row in batch]
    assert [row.file for row in rows] == ["a.png", "b.txt", "a.png", "c.png"]
    assert [row.result.breeds[0].breed for row in rows if isinstance(row.result, Answer)] == [
        "Shih-Tzu",
        "Shih-Tzu",
        "Beagle",
    ]
    assert rows[1].result.problem == "not_a_photo" and rows[1].thumbnail == ""
    assert all(row.thumbnail.startswith("data:image/jpeg;base64,") for row in (rows[0], *rows[2:]))
    begun, *shown = map(json.loads, (begin("tiny") + lines(rows, ENGLISH)).splitlines())
    assert begun["header"].replace('"', "").startswith("file,verdict,breed,probability,breed_2") and len(shown) == 4


def test_the_page_gets_each_picture_with_its_line_and_at_the_end_and_the_lines_from_the_first_on(tiny_run, tmp_path):
    files = sent(tmp_path, [(f"{number}.png", png(number % 4)) for number in range(20)])
    models = ModelSet([Predictor(tiny_run)])
    values = [update[-1] for update in _updates(files, models.names[0], [], models, ENGLISH, lambda: False)]
    *during, end = [value["pictures"] for value in values]
    assert [len(pictures) for pictures in during] == [0, 4, 4, 4, 4, 4]
    assert end == [picture for pictures in during for picture in pictures], "for a page that missed some"
    assert all(later["lines"].startswith(value["lines"]) for value, later in pairwise(values))
    assert "data:image" not in values[-1]["lines"] and len(values[-1]["lines"].splitlines()) == 1 + 20 + 1


def test_an_upload_that_is_gone_is_reported(tiny_run, tmp_path):
    files = sent(tmp_path, [("a.png", png(1)), ("c.png", png(2))])
    files[0][1].unlink()
    rows = [row for batch in answer_many(Predictor(tiny_run), files) for row in batch]
    assert rows[0].result.problem == "missing" and isinstance(rows[1].result, Answer)
    assert str(tmp_path) not in lines(rows, ENGLISH)


def test_what_is_old_is_deleted_with_its_folder_and_what_is_new_stays(tmp_path):
    folder = UploadFolder(tmp_path, copy_here)
    copy = added(folder, png(1))
    (tmp_path / "half.part").touch()
    asyncio.run(folder.delete_older(60))
    assert copy.exists() and (tmp_path / "half.part").exists()
    asyncio.run(folder.delete_older(-1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep_seconds", [0.0, 1e9], ids=["while they come", "when all are there"])
def test_what_comes_first_of_a_request_that_takes_an_hour_is_as_new_as_its_end(keep_seconds, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "KEEP_SECONDS", keep_seconds)
    folder = UploadFolder(tmp_path, copy_here)
    parts = [b'--B\r\nContent-Disposition: form-data; filename="a"\r\n\r\n' + png(label) + b"\r\n" for label in (1, 2)]
    parts += [b"--B--", b"\r\n"]

    async def receive():
        places = [place for place in tmp_path.iterdir() if place.is_dir()]
        if keep_seconds == 0:  # each part comes after they are kept
            await asyncio.sleep(0.01)
            await folder.delete_older(60)
        for place in places:
            os.utime(place, (0, 0))  # as if that part had come late
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def task():
        copies = await UploadRoute(folder).receive("multipart/form-data; boundary=B", "a", "a", receive)
        await folder.delete_older(60)
        return copies

    copies = asyncio.run(task())
    assert len(copies) == 2 and all(copy.exists() for copy in copies)


def test_what_others_have_deleted_counts_no_more(tmp_path, monkeypatch):
    folder = UploadFolder(tmp_path, copy_here)
    copies = [added(folder, png(1), address) for address in "aab"]
    size = sum(file.stat().st_size for file in copies[0].parent.iterdir())
    monkeypatch.setattr(uploads, "MAX_STORED_OF_ADDRESS", 2 * size)
    monkeypatch.setattr(uploads, "MAX_STORED", 3 * size)
    assert "Your address" in folder.refusal("a") and "as many photos as it can" in folder.refusal("b")
    uploads.delete_copies(copies[:1])
    asyncio.run(folder.delete_older(60))
    assert folder.refusal("a") is None and folder.refusal("b") is None
    monkeypatch.setattr(uploads, "MAX_STORED_OF_ADDRESS", size)
    assert "Your address" in folder.refusal("a") and "Your address" in folder.refusal("b")


def test_little_is_remembered_of_an_upload_for_as_long_as_it_is_held(tmp_path):
    async def tiny(source, place, address):
        (place / "photo.webp").touch()
        return place / "photo.webp"

    async def come(first, last):
        for number in range(first, last):
            await folder.add(folder.arrival(), f"10.0.{number // 256}.{number % 256}")

    folder = UploadFolder(tmp_path, tiny)
    asyncio.run(come(0, 50))
    tracemalloc.start()
    try:
        asyncio.run(come(50, 550))
        assert tracemalloc.get_traced_memory()[0] < 500 * 50
        asyncio.run(folder.delete_older(-1))
        assert tracemalloc.get_traced_memory()[0] < 500 * 50
    finally:
        tracemalloc.stop()


def test_a_photo_that_comes_while_old_ones_are_deleted_counts_for_its_address(tmp_path, monkeypatch):
    folder = UploadFolder(tmp_path, copy_here)
    old, exists = added(folder, png(1), "a"), Path.exists

    def slow_exists(path):  # looks at the first place until another photo is there
        asyncio.run_coroutine_threadsafe(come(), loop).result(5)
        return exists(path)

    async def come():
        monkeypatch.setattr(Path, "exists", exists)
        arrived = folder.arrival()
        arrived.write_bytes(png(2))
        await folder.add(arrived, "b")

    async def sweep():
        nonlocal loop
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(Path, "exists", slow_exists)
        await folder.delete_older(-1)

    loop = None
    asyncio.run(sweep())
    monkeypatch.setattr(uploads, "MAX_STORED_OF_ADDRESS", 1)
    assert not old.exists() and folder.refusal("a") is None and "Your address" in folder.refusal("b")
