import hashlib
import json
import os
import shutil
import threading
import zlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_photo, make_photo_folder, tiny_config
from torch.utils.data import DataLoader, Dataset

from dogbreeds.errors import UserError
from dogbreeds.images import open_image
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training import train as train_module
from dogbreeds.training.datasets import pixel_cache
from dogbreeds.training.datasets.pixel_cache import open_pixel_cache
from dogbreeds.training.datasets.splits import load_data
from dogbreeds.training.inputs import fits_on_gpu
from dogbreeds.training.options import DataOptions
from dogbreeds.training.train import set_up

VIEW = Preprocessing(24)


@pytest.fixture
def photos(tmp_path):
    paths = sorted(path for path in make_photo_folder(tmp_path / "photos", num_photos=5).rglob("*.png"))
    broken = tmp_path / "photos" / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:300])
    return [*paths, broken]


def digests(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def opened(paths, folder, view=VIEW, max_bytes=10**9):
    options = DataOptions(cache_dir=folder, max_cache_gigabytes=max_bytes / 1e9)
    return open_pixel_cache(view, paths, digests(paths), options, progress=False)


def pixels_of(cache):
    return cache.read(np.arange(len(cache.sizes)))


def forbid_decoding(monkeypatch):
    monkeypatch.setattr(pixel_cache, "open_image", lambda *_, **__: pytest.fail("a photo was decoded again"))


def test_it_holds_what_the_view_shows_of_each_photo(photos, tmp_path, monkeypatch):
    cache = opened(photos, tmp_path / "cache")
    good = photos[:-1]
    for path, row in zip(good, cache.rows(digests(good)), strict=True):
        image = open_image(path)
        assert np.array_equal(cache.read([row])[0], VIEW.cut(image)) and tuple(cache.sizes[row]) == image.size
    assert cache.problems == {digests(photos)[-1]: "This photo is incomplete: the file was cut short. Please choose "
                              "another copy."}  # fmt: skip
    forbid_decoding(monkeypatch)
    again = opened(photos[::-1], tmp_path / "cache")  # whatever the order
    assert np.array_equal(pixels_of(again), pixels_of(cache)) and again.problems == cache.problems


def test_another_view_or_other_photos_are_another_cache(photos, tmp_path):
    opened(photos, tmp_path / "cache")
    assert pixels_of(opened(photos, tmp_path / "cache", Preprocessing(16))).shape == (20, 16, 16, 3)
    assert len(opened(photos[:7], tmp_path / "cache").sizes) == 7
    assert len(list((tmp_path / "cache").glob("*/cache.json"))) == 3


def test_a_cache_of_an_earlier_version_still_opens(tmp_path, monkeypatch):
    """As the first release with format 2 wrote it, with Pillow 12.0.0; the key of cache.json and the folder's name."""
    monkeypatch.setattr(pixel_cache.PIL, "__version__", "12.0.0")
    good, bad, size = "a" * 64, "b" * 64, 2
    pixels = bytes(range(size * size * 3))
    folder = tmp_path / "f56fe4a96137bc60053c9574"
    folder.mkdir()
    (folder / "pixels.bin").write_bytes(pixels)
    (folder / "cache.json").write_text(
        '{"view": {"size": 2, "fit": "squash", "shortest_edge": null, "grayscale": true}, '
        f'"digests": ["{good}"], "sizes": [[40, 30]], "checksums": [{zlib.crc32(pixels)}], '
        f'"problems": {{"{bad}": "This photo is incomplete"}}}}'
    )
    forbid_decoding(monkeypatch)
    view = Preprocessing(size, "squash", grayscale=True)
    cache = open_pixel_cache(view, [b"", b""], [good, bad], DataOptions(cache_dir=tmp_path), progress=False)
    assert pixels_of(cache).tobytes() == pixels and cache.rows([good]).tolist() == [0]
    assert cache.sizes.tolist() == [[40, 30]] and cache.problems == {bad: "This photo is incomplete"}


def cut_short(path):
    (path / "pixels.bin").write_bytes((path / "pixels.bin").read_bytes()[:-1])


def of_other_data(path):
    record = json.loads((path / "cache.json").read_text())
    record["digests"][0] = "0" * 64
    (path / "cache.json").write_text(json.dumps(record))


def no_record(path):
    (path / "cache.json").unlink()


def torn_record(path):
    (path / "cache.json").write_text((path / "cache.json").read_text()[:-20])


def rotten_record(path):
    text = (path / "cache.json").read_text()
    assert "[56, 48]" in text
    (path / "cache.json").write_text(text.replace("[56, 48]", "[57, 48]", 1))


@pytest.mark.parametrize("damage", [cut_short, of_other_data, no_record, torn_record, rotten_record])
def test_a_damaged_cache_is_created_again_with_a_message(damage, photos, tmp_path, capsys):
    before = opened(photos, tmp_path / "cache")
    pixels, sizes = pixels_of(before), before.sizes
    damage(next((tmp_path / "cache").glob("*/pixels.bin")).parent)
    again = opened(photos, tmp_path / "cache")
    assert np.array_equal(pixels_of(again), pixels) and np.array_equal(again.sizes, sizes)
    assert "is damaged or cut short: it is created again" in capsys.readouterr().err


ROW_BYTES = 24 * 24 * 3


def black_out(folder, rows):
    """What a disk may do, behind the back of every process that has the cache open."""
    file = next(folder.glob("*/pixels.bin"))
    content = bytearray(file.read_bytes())
    for row in rows:
        content[row * ROW_BYTES : (row + 1) * ROW_BYTES] = bytes(ROW_BYTES)
    with file.open("r+b") as damaged:
        damaged.write(content)


@pytest.mark.parametrize("rows", [[3], [0, 5, 6, 19], range(20)], ids=len)
def test_damaged_rows_are_found_where_they_are_read_and_decoded_again(rows, photos, tmp_path, capsys):
    folder = tmp_path / "cache"
    before = pixels_of(opened(photos, folder))
    black_out(folder, rows)
    cache = opened(photos, folder)
    order = np.random.default_rng(0).permutation(20)
    for batch in np.split(order, 5):
        assert np.array_equal(cache.read(batch), before[batch])
    told = f"{len(rows)} of 20 photos in the pixel cache {str(next(folder.glob('*/')))!r} were damaged: they were "
    assert capsys.readouterr().err == told + "decoded again\n"
    assert np.array_equal(pixels_of(opened(photos, folder)), before)  # on the disk too
    assert not capsys.readouterr().err


def test_what_one_process_has_mended_the_others_see(photos, tmp_path, capfd):
    """In two data loaders with two workers each, of processes that opened the cache before it was damaged."""
    folder = tmp_path / "cache"
    caches = [opened(photos, folder) for _ in range(2)]
    before = pixels_of(opened(photos, folder))
    black_out(folder, range(1, 20))

    seen = []

    class Rows(Dataset):
        def __init__(self, cache):
            self.cache = cache

        def __len__(self):
            return 20

        def __getitem__(self, row):
            return self.cache.read(np.array([row]))[0]

    context = {"num_workers": 2, "multiprocessing_context": "fork"}
    loaders = [iter(DataLoader(Rows(cache), batch_size=5, **context)) for cache in caches]  # four workers start
    for batches in zip(*loaders, strict=True):
        seen.append([batch.numpy() for batch in batches])
    for rows in zip(*seen, strict=True):
        assert np.array_equal(np.concatenate(rows), before)
    for cache in caches:
        assert np.array_equal(pixels_of(cache), before)
    assert capfd.readouterr().err.count("were damaged: they were decoded again") == 1


def test_a_damaged_row_whose_photo_is_gone_or_another_is_an_error(photos, tmp_path):
    folder = tmp_path / "cache"
    cache = opened(photos, folder)
    row = int(cache.rows(digests(photos[:1]))[0])
    black_out(folder, [row])
    photos[0].write_bytes(photos[1].read_bytes())
    with pytest.raises(UserError, match=r"is damaged, and one of its photos .* \(The file was changed\): mend that"):
        cache.read(np.array([row]))
    photos[0].unlink()
    with pytest.raises(
        UserError, match=r"one of its photos can't be read any more \(The file can't be read .*mend that"
    ):
        cache.read(np.array([row]))


def test_a_decoder_that_gives_other_pixels_now_is_believed(photos, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "cache"
    opened(photos, folder)
    black_out(folder, [4])
    monkeypatch.setattr(
        pixel_cache, "open_image", lambda source, **_: open_image(source).point(lambda value: value ^ 1)
    )
    pixels = pixels_of(opened(photos, folder))
    assert "1 of 20 photos" in capsys.readouterr().err
    assert np.array_equal(pixels_of(opened(photos, folder)), pixels) and not capsys.readouterr().err


def test_an_interrupted_build_leaves_nothing(photos, tmp_path, monkeypatch):
    def interrupt(source, calls=[], **options):  # noqa: B006
        calls.append(source)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return open_image(source)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pixel_cache, "open_image", interrupt)
        opened(photos, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(opened(photos, tmp_path / "cache").sizes) == 20


def test_the_least_recently_used_are_removed_to_make_room(photos, tmp_path, capsys):
    folder, size = tmp_path / "cache", 24 * 24 * 3
    for start in (0, 5, 10):
        opened(photos[start : start + 5], folder, max_bytes=100 * size)
    opened(photos[:5], folder)  # the oldest, but used again
    pixel_cache._opened.clear()  # those were runs before
    opened(photos[15:20], folder, max_bytes=19 * size)
    assert "removed the pixel cache" in capsys.readouterr().err
    kept = [set(json.loads(file.read_text())["digests"]) for file in folder.glob("*/cache.json")]
    assert set(digests(photos[:5])) in kept and set(digests(photos[5:10])) not in kept


def test_folders_that_are_no_caches_are_not_removed_to_make_room(photos, tmp_path):
    folder, size = tmp_path / "a disk", 24 * 24 * 3
    for name in ("holiday", "0123456789abcdef"):  # the oldest
        (folder / name / "inside").mkdir(parents=True)
        (folder / name / "pixels.bin").write_bytes(bytes(30 * size))
        os.utime(folder / name, (0, 0))
    opened(photos[:5], folder)
    pixel_cache._opened.clear()
    opened(photos[10:20], folder, max_bytes=12 * size)
    assert len(list(folder.glob("*/cache.json"))) == 1, "the cache alone was removed"
    assert all((folder / name / "pixels.bin").is_file() for name in ("holiday", "0123456789abcdef"))


def test_what_this_run_uses_is_never_removed(photos, tmp_path):
    folder, size = tmp_path / "cache", 24 * 24 * 3
    opened(photos[:10], folder)
    with pytest.raises(UserError, match=r"the pixel caches of this run need .* more than --max-cache-gigabytes"):
        opened(photos[10:20], folder, max_bytes=19 * size)
    assert len(list(folder.glob("*/cache.json"))) == 1


def test_no_room_is_said_before_anything_is_decoded(photos, tmp_path, monkeypatch):
    forbid_decoding(monkeypatch)
    with pytest.raises(UserError, match=r"more than --max-cache-gigabytes 1e-06: raise it, .* --cache off"):
        opened(photos, tmp_path / "cache", max_bytes=1000)
    usage = shutil.disk_usage(tmp_path)._replace(free=2000)
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"no room for the pixel cache: .* --cache-dir, .* --cache off"):
        opened(photos, tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't keep the pixel cache in .*: name another folder with --cache-dir"):
        opened(photos, tmp_path / "file" / "cache")


def test_two_at_a_time_create_it_once(photos, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(pixel_cache, "open_image", lambda source, **_: decoded.append(source) or open_image(source))
    caches = []
    threads = [threading.Thread(target=lambda: caches.append(opened(photos, tmp_path / "cache"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caches) == 2 and len(decoded) == len(photos)


@pytest.mark.parametrize("augment", ["on", "off"])
@pytest.mark.parametrize("steps", [{}, {"grayscale": True, "equalize": True, "whitening": "zca"}], ids=str)
def test_training_sees_the_same_with_the_cache_and_without(photo_folder, tmp_path, augment, steps, monkeypatch):
    def model_preprocessing(model, options, checkpoint):  # with what a checkpoint may bring
        return replace(options.build(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))

    monkeypatch.setattr(train_module, "model_preprocessing", model_preprocessing)
    batches = []
    for cache in ("on", "off"):
        options = {"cache": cache, "augment": augment, "rotation": 10.0 if augment == "on" else 0.0, **steps}
        config = tiny_config(photo_folder, tmp_path / cache, **options)
        inputs = set_up(config).inputs
        batches.append([inputs.of_training(batch) for batch in inputs.training_batches(epoch=1, num_done=0)])
    for mine, theirs in zip(*batches, strict=True):
        assert np.array_equal(mine.numpy(), theirs.numpy())


def test_seeds_share_a_cache(photo_folder, tmp_path, monkeypatch):
    config = tiny_config(photo_folder, tmp_path / "run", augment="off")
    first = load_data(config, progress=False)
    forbid_decoding(monkeypatch)
    second = load_data(tiny_config(photo_folder, tmp_path / "run", augment="off", split_seed=1), progress=False)
    assert first.split_hash != second.split_hash and first.fingerprint == second.fingerprint


def test_photos_are_kept_whole_for_random_views_but_never_enlarged(photo_folder, tmp_path):
    sizes = {}
    for augment in ("on", "off"):
        splits = load_data(tiny_config(photo_folder, tmp_path / "run", augment=augment), progress=False)
        sizes[augment] = (splits.stored_preprocessing.size, splits.stored_preprocessing.fit)
    assert sizes == {"on": (37, "squash"), "off": (32, "crop")}
    config = tiny_config(photo_folder, tmp_path / "run", augment="on", image_size=64)
    assert load_data(config, progress=False).stored_preprocessing.size == max(64, *make_photo(0, 0).size)


def test_pixels_that_do_not_fit_stay_in_the_hosts_memory():
    assert fits_on_gpu(10 * 10**9, free=20 * 10**9) and not fits_on_gpu(10 * 10**9, free=19 * 10**9)
