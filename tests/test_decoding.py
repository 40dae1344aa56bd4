"""Decoding in processes of their own: what one photo can do to the others, and to the server."""

import asyncio
import io
import os
import time
from pathlib import Path

import pytest
from conftest import make_photo
from PIL import Image

from dogbreeds.images import JPEG_SIDE, BadImage, open_image
from dogbreeds.serving import decoding
from dogbreeds.serving.decoding import Decoder
from dogbreeds.serving.uploads import open_copy, stored_frames
from tests.videos import SIZE, encode, numbered


def run(decoder: Decoder, task):
    """The result of a task that uses a decoder, which is closed at the end."""

    async def closing():
        try:
            return await task
        finally:
            await decoder.close()

    return asyncio.run(closing())


async def copied(decoder: Decoder, folder: Path, content: bytes, address: str = "a"):
    """The copy of a file, or what is wrong with it."""
    number = len(list(folder.iterdir()))
    source, place = folder / f"{number}.part", folder / f"{number}"
    place.mkdir()
    source.write_bytes(content)
    try:
        return await decoder.copy(source, place, address)
    except BadImage as error:
        return error


def coded(photo: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format)
    return buffer.getvalue()


def test_photos_come_back_as_they_were_opened_here_and_bad_files_as_a_reason(tmp_path):
    decoder = Decoder(JPEG_SIDE, num_processes=1)
    photo = make_photo(2, 1, (300, 200))

    async def task():
        return [await copied(decoder, tmp_path, content) for content in (coded(photo), b"text", b"", coded(photo))]

    first, text, empty, last = run(decoder, task())
    assert open_copy(first) == open_copy(last) == photo
    assert (text.problem, empty.problem) == ("not_a_photo", "empty") and "not a photo" in str(text)


def test_a_photo_that_takes_too_much_memory_is_too_large_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_START", decoding._START.replace("serve_jobs()", "serve_jobs(200 << 20)"))
    decoder = Decoder(JPEG_SIDE, num_processes=1)
    large = coded(Image.new("RGB", (7000, 7000)))

    async def task():
        return await copied(decoder, tmp_path, large), await copied(decoder, tmp_path, coded(make_photo(2, 1)))

    refused, read = run(decoder, task())
    assert refused.problem == "too_large" and isinstance(read, Path)


def test_a_process_that_dies_or_hangs_costs_one_photo(tmp_path, monkeypatch):
    decoder = Decoder(JPEG_SIDE, num_processes=1)
    photo = coded(make_photo(2, 1))

    async def after(signal: int, seconds: float) -> tuple[object, object]:
        (process,) = decoder._idle
        os.kill((await process.start()).pid, signal)
        monkeypatch.setattr(decoding, "MAX_SECONDS", seconds)
        lost = await copied(decoder, tmp_path, photo)
        monkeypatch.setattr(decoding, "MAX_SECONDS", 60)
        return lost, await copied(decoder, tmp_path, photo)

    async def task():
        return [await copied(decoder, tmp_path, photo), *await after(9, 60), *await after(19, 0.2)]

    before, killed, after_it, hung, at_last = run(decoder, task())
    assert isinstance(before, Path) and isinstance(after_it, Path) and isinstance(at_last, Path)
    assert killed.problem == hung.problem == "damaged"


@pytest.mark.slow
def test_large_photos_come_one_after_the_other_and_small_ones_beside_them(tmp_path):
    decoder = Decoder(JPEG_SIDE)
    large = coded(Image.new("RGB", (6000, 6000)))
    small = coded(make_photo(2, 1))
    most = []

    async def watch():
        while True:
            most.append(decoder._large._working.total())
            await asyncio.sleep(0.002)

    async def task():
        await decoder.start()
        watching = asyncio.create_task(watch())
        ended = {}

        async def timed(name, content, address):
            await copied(decoder, tmp_path / address, content, address)
            ended[name] = time.monotonic()

        for address in "abc":
            (tmp_path / address).mkdir()
        bombs = [timed(f"{address}{number}", large, address) for address in "ab" for number in range(3)]
        await asyncio.gather(*bombs, timed("small", small, "c"))
        watching.cancel()
        return ended

    ended = run(decoder, task())
    assert max(most) == 1 and sorted(ended, key=ended.get).index("small") <= 1


def test_closing_waits_for_a_process_that_another_has_killed(tmp_path):
    """Or its end would be told to a loop that is closed, with a traceback in the log."""
    decoder = Decoder(JPEG_SIDE, num_processes=1)
    source = tmp_path / "a.part"
    source.write_bytes(coded(Image.new("RGB", (4000, 3000))))

    async def task():
        await decoder.start()
        process = await decoder._processes[0].start()
        copying = asyncio.create_task(decoder.copy(source, tmp_path, "a"))
        await asyncio.sleep(0.05)
        copying.cancel()
        for _ in range(8):  # until it has killed the process, whose end takes longer
            await asyncio.sleep(0)
        await decoder.close()
        return process.returncode

    assert asyncio.run(task()) == -9


def clip(path: Path, num_pictures: int = 30) -> bytes:
    """A video of 15 pictures a second."""
    return encode(path, [numbered(i) for i in range(num_pictures)], [i / 15 for i in range(num_pictures)]).read_bytes()


def test_of_a_video_frames_are_kept_and_one_is_read_at_a_time(tmp_path, monkeypatch):
    decoder = Decoder(32, num_processes=1, takes_videos=True)
    content, photo = clip(tmp_path / "clip.mp4"), coded(make_photo(2, 1))

    async def task():
        first, second, other = await asyncio.gather(
            *(copied(decoder, tmp_path / address, content, address[0]) for address in ("a", "a2", "b"))
        )
        cut = await copied(decoder, tmp_path / "a", content[: len(content) // 2])
        os.kill((await decoder._video_process.start()).pid, 19)  # it hangs
        monkeypatch.setattr(decoding, "MAX_VIDEO_SECONDS", 0.5)
        hung, beside = await asyncio.gather(
            copied(decoder, tmp_path / "a", content, "a"), copied(decoder, tmp_path / "b", photo, "a")
        )
        monkeypatch.setattr(decoding, "MAX_VIDEO_SECONDS", 60)
        return first, second, other, cut, hung, beside, await copied(decoder, tmp_path / "a", content)

    for name in ("a", "a2", "b"):
        (tmp_path / name).mkdir()
    first, second, other, cut, hung, beside, after = run(decoder, task())
    frames = stored_frames(first)
    assert [frame.seconds for frame in frames] == [0, 0.533, 1.067, 1.6]
    assert {open_copy(frame.copy).size for frame in frames} == {SIZE} and isinstance(other, Path)
    assert second.problem == "video_busy" and cut.problem == hung.problem == "video_damaged"
    assert isinstance(beside, Path) and isinstance(after, Path)
    with pytest.raises(BadImage, match="by itself"):
        open_copy(first)


def test_a_page_that_takes_no_videos_says_what_it_needs(tmp_path):
    decoder = Decoder(32, num_processes=1)
    content = clip(tmp_path / "clip.mp4", 2)

    async def task():
        return await copied(decoder, tmp_path, content)

    refused = run(decoder, task())
    assert refused.problem == "video_off" and "pip install av" in str(refused)


def test_a_process_knows_no_secret_of_the_server(tmp_path, monkeypatch):
    monkeypatch.setenv("DOGBREEDS_ACCESS_KEY", "secret")
    decoder = Decoder(JPEG_SIDE, num_processes=1)

    async def task():
        await decoder.start()
        return Path(f"/proc/{decoder._idle[0]._process.pid}/environ").read_bytes()

    assert b"secret" not in run(decoder, task())


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.slow
def test_the_copy_of_a_large_photo_is_what_the_models_see_of_the_photo(mode, tmp_path):
    decoder = Decoder(JPEG_SIDE, num_processes=1)
    content = coded(make_photo(2, 1, (4200, 3100)).convert(mode), "JPEG")

    async def task():
        return await copied(decoder, tmp_path, content)

    assert open_copy(run(decoder, task())) == open_image(content, at_least=JPEG_SIDE)
