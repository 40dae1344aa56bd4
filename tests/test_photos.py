import hashlib
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import denied, make_photo

from dogbreeds import machine, photo_paths
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, open_image
from dogbreeds.photo_paths import open_paths
from dogbreeds.photos import photo_digest, photo_files, read_bytes, read_photo, read_photos


@pytest.fixture
def paths(tmp_path):
    """Five photos of different widths; the second is no photo and the fourth is missing."""
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        make_photo(0, number, (40 + number, 30)).save(path)
    paths[1].write_bytes(b"a text")
    paths[3].unlink()
    return paths


def width(source):
    return open_image(source).width


def test_each_photo_is_read_in_order_or_has_its_error(paths):
    results = list(read_photos(paths, width))
    assert [each for each in results if isinstance(each, int)] == [40, 42, 44]
    assert isinstance(results[1], BadImage) and results[1].problem == "not_a_photo"
    assert isinstance(results[3], BadImage) and results[3].problem == "missing"
    assert read_photo(paths[0], width) == 40 and isinstance(read_photo(paths[1], width), BadImage)


def test_bytes_and_their_digest_come_from_one_read(paths):
    content = paths[0].read_bytes()
    assert read_bytes(paths[0]) == read_bytes(content) == content
    assert photo_digest(content) == hashlib.sha256(content).hexdigest()

    def digest_and_width(source):
        content = read_bytes(source)
        return photo_digest(content), width(content)

    results = list(read_photos(iter(paths), digest_and_width))
    assert results[0] == (photo_digest(content), 40)
    assert isinstance(results[3], BadImage) and results[3].problem == "unreadable"
    assert str(results[3]) == "The file can't be read (No such file or directory)."


def test_what_is_in_a_hidden_folder_is_no_photo(tmp_path):
    folder = tmp_path / ".mine"  # the folder that is named may be hidden itself
    names = ["b.png", "a/c.png", ".hidden.png", ".thumbnails/1.png", "a/.ipynb_checkpoints/c.png", "a/c.png.xmp"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    assert photo_files(folder) == [folder / "a/c.png", folder / "b.png"]
    with open_paths(folder) as found:
        assert sorted(found) == ["a/c.png", "b.png"], "as in index"


def test_what_can_not_be_listed_is_not_missing_in_silence(tmp_path, monkeypatch):
    for name in ("a.png", "open/b.png", "closed/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.png").symlink_to("nowhere.png")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "closed":  # root may list every folder
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert photo_files(tmp_path) == [tmp_path / name for name in ("a.png", "closed", "link.png", "open/b.png")]


def test_folders_may_be_nested_deeper_than_functions(tmp_path, monkeypatch):
    deepest = "a/" * (2 * sys.getrecursionlimit())
    monkeypatch.setattr(photo_paths, "_names", lambda _, inside: ["x.png"] if inside == deepest else ["a/", "b.png"])
    with open_paths(tmp_path) as found:
        names = list(found)
    assert names[0] == f"{deepest}x.png" and names[-1] == "b.png"
    assert len(names) == 2 * sys.getrecursionlimit() + 1


def test_what_fails_while_photos_are_in_use_is_not_said_of_their_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="a table"), open_paths(tmp_path):
        raise FileNotFoundError("a table")


def test_a_list_in_utf_16_names_files_that_can_not_be_read(tmp_path):
    (tmp_path / "list.txt").write_bytes("photo.png\n".encode("utf-16"))
    for path in photo_files(tmp_path / "list.txt"):
        found = read_photo(path, read_bytes)
        assert isinstance(found, BadImage) and str(found) == "The file can't be read (embedded null byte)."


@pytest.mark.parametrize("ending", [".txt", ".csv", ".parquet"])
def test_a_list_that_may_not_be_read_is_one_line(tmp_path, monkeypatch, ending):
    path = tmp_path / f"list{ending}"
    path.write_text("path\nphoto.png\n")
    denied(monkeypatch, path)
    with pytest.raises(UserError, match=r"list\.\w+' can't be read \(Permission denied\)"), open_paths(path):
        pass


def test_other_errors_are_raised(paths):
    with pytest.raises(ZeroDivisionError):
        list(read_photos(paths, lambda source: 1 // 0))


def test_few_are_read_ahead_on_several_cores(paths, monkeypatch):
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    asked, threads = [], set()
    together = threading.Barrier(2, timeout=30)

    def sources():
        for number in range(40):
            asked.append(number)
            yield paths[0]

    def read(source):
        threads.add(threading.get_ident())
        together.wait()
        return width(source)

    stream = read_photos(sources(), read, num_ahead=6)
    assert not asked
    for number, _ in enumerate(stream, 1):
        assert len(asked) <= number + 6
    assert len(asked) == 40 and len(threads) == 2 and threading.get_ident() not in threads


def test_a_stream_that_is_left_cancels_what_is_ahead(paths, monkeypatch):
    started = []

    def read(source):
        started.append(source)
        time.sleep(0.01)  # so that not all of the 40 are read before it is left
        return width(source)

    monkeypatch.setattr(machine, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))
    stream = read_photos(paths[:1] * 50, read, num_ahead=40)
    next(stream)
    stream.close()
    assert len(started) < 41
