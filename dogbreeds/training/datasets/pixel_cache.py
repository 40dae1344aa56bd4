"""Every photo of a data set, decoded, turned upright and scaled once: an array on disk that epochs and runs share.

    <folder>/<key>/pixels.bin    uint8 (N, size, size, 3), memory-mapped
    <folder>/<key>/cache.json    its contents: the preprocessing, and the digest, size and checksum of each photo

The key is a hash of the photos' digests and the preprocessing. A cache is written under another name and then renamed,
so it is complete or absent. Imports no torch.
"""

import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock
from tqdm import tqdm

from dogbreeds.errors import UserError
from dogbreeds.files import cache_folder, flush, partial_path, whole_or_absent
from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import read_photos
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.options import DataOptions

FORMAT = 2
"""Increased when what is stored of a photo changes."""
NUM_CHECKED = 64
"""Photos whose checksum is compared when a cache is opened."""

_opened: set[Path] = set()
"""Caches that this process uses, and therefore does not remove."""


@dataclass(frozen=True)
class PixelCache:
    """An open cache."""

    preprocessing: Preprocessing
    """How the photos were scaled; its `mean` and `std` have no effect."""
    pixels: np.ndarray
    """`(N, size, size, 3)` uint8, memory-mapped: the readable photos, each content once."""
    sizes: np.ndarray
    """`(N, 2)` int32: width and height of each decoded photo, upright, in pixels."""
    problems: dict[str, str]
    """Why a photo can't be decoded, by the digest of its file."""
    row_of: dict[str, int]
    """The row of a photo in `pixels` and `sizes`, by the digest of its file."""

    def rows(self, digests: Iterable[str]) -> np.ndarray:
        """The rows of these photos, `(n,)` int64."""
        return np.array([self.row_of[digest] for digest in digests], dtype=np.int64)


def open_pixel_cache(
    preprocessing: Preprocessing,
    sources: Sequence[Path | bytes],
    digests: Sequence[str],
    options: DataOptions,
    *,
    progress: bool = True,
) -> PixelCache:
    """Open the cache of these photos. It is created if there is none, and again, with a message, if it is damaged.

    If several processes ask for the same cache at the same time, one of them creates it.

    Args:
        preprocessing: How the photos are scaled.
        sources: The photos.
        digests: The SHA-256 of each photo's file, in hexadecimal.
        options: The folder of all caches, $XDG_CACHE_HOME/dogbreeds or ~/.cache/dogbreeds by default, and their total
            size limit: the least recently used are removed, with a message.
        progress: Show a progress bar while photos are decoded.

    Raises:
        UserError: There is no room, on the disk or within the limit, or the folder can't be written.
    """
    folder = options.cache_dir or cache_folder()
    index_of = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    path = folder / _key(preprocessing, index_of)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # one for all caches, because making room removes others
            cache = _open(path, preprocessing, index_of)
            if cache is None:
                if path.exists():
                    print(
                        f"the pixel cache {str(path)!r} is damaged or cut short: it is created again", file=sys.stderr
                    )
                    shutil.rmtree(path)
                num_bytes = len(index_of) * preprocessing.size**2 * 3
                _make_room(folder, round(options.max_cache_gigabytes * 1e9), num_bytes)
                _build(path, preprocessing, sources, index_of, progress)
                cache = _open(path, preprocessing, index_of)
            assert cache is not None, f"{path} can't be opened though it was just written"
            os.utime(path)  # for the order of use
            _opened.add(path)
            return cache
    except OSError as error:
        raise UserError(
            f"can't keep the pixel cache in {str(folder)!r} ({error.strerror or error}): name another folder with "
            "--cache-dir, or decode in every epoch with --cache off"
        ) from None


def _key(preprocessing: Preprocessing, digests: Iterable[str]) -> str:
    # With Pillow's version, because another decoder or filter gives other pixels.
    contents = {"format": FORMAT, "pillow": PIL.__version__, "view": preprocessing.geometry, "digests": sorted(digests)}
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:24]


def _open(path: Path, preprocessing: Preprocessing, wanted: dict[str, int]) -> PixelCache | None:
    """The cache; None if it is absent, damaged or of other photos."""
    try:
        record = json.loads((path / "cache.json").read_text(encoding="utf-8"))
        digests, problems, checksums = record["digests"], record["problems"], record["checksums"]
        sizes = np.array(record["sizes"], dtype=np.int32).reshape(-1, 2)
        shape = (len(digests), preprocessing.size, preprocessing.size, 3)
        same = record["view"] == preprocessing.geometry and {*digests, *problems} == wanted.keys()
        whole = len(digests) == len(checksums) == len(sizes) and (path / "pixels.bin").stat().st_size == np.prod(shape)
        if not same or not whole:
            return None
        # Mode "c" (copy on write), because PyTorch warns about arrays that are not writable; nothing is written.
        pixels = np.memmap(path / "pixels.bin", np.uint8, "c", shape=shape) if digests else np.empty(shape, np.uint8)
        for row in np.linspace(0, len(digests) - 1, min(NUM_CHECKED, len(digests)), dtype=int):
            if zlib.crc32(pixels[row].data) != checksums[row]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return PixelCache(preprocessing, pixels, sizes, problems, {digest: row for row, digest in enumerate(digests)})


def _build(
    path: Path, preprocessing: Preprocessing, sources: Sequence[Path | bytes], index_of: dict[str, int], progress: bool
) -> None:
    def decode(index: int) -> tuple[np.ndarray, tuple[int, int]]:
        image = open_image(sources[index], at_least=preprocessing.decoded_side)
        return np.ascontiguousarray(preprocessing.cut(image)), image.size

    shutil.rmtree(partial_path(path), ignore_errors=True)  # left by a process that was killed
    digests, sizes, checksums, problems = [], [], [], {}
    with whole_or_absent(path) as partial:
        with (partial / "pixels.bin").open("wb") as file:
            decoded = read_photos(index_of.values(), decode)
            bar = tqdm(decoded, "decoding photos", len(index_of), unit="photo", disable=not progress)
            for digest, photo in zip(index_of, bar, strict=True):
                if isinstance(photo, BadImage):
                    problems[digest] = str(photo)
                    continue
                pixels, size = photo
                file.write(pixels.data)
                digests.append(digest)
                sizes.append(size)
                checksums.append(zlib.crc32(pixels.data))
        flush(partial / "pixels.bin")
        contents = {"digests": digests, "sizes": sizes, "checksums": checksums, "problems": problems}
        record = {"view": preprocessing.geometry, **contents}
        (partial / "cache.json").write_text(json.dumps(record), encoding="utf-8")


def _make_room(folder: Path, max_bytes: int, needed: int) -> None:
    """Remove the least recently used caches until another one of `needed` bytes is within `max_bytes`."""
    remedy = "name another disk with --cache-dir, use fewer photos, or decode in every epoch with --cache off"
    # With what killed processes left: because of the lock, no other process is writing a cache now.
    oldest_first = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    bytes_of = {path: sum(file.stat().st_size for file in path.iterdir()) for path in oldest_first}
    in_use = sum(bytes_of.pop(path) for path in oldest_first if path in _opened)
    if in_use + needed > max_bytes:
        raise UserError(
            f"the pixel caches of this run need {(in_use + needed) / 1e9:.1f} GB, more than --max-cache-gigabytes "
            f"{max_bytes / 1e9:g}: raise it, {remedy}"
        )
    while in_use + sum(bytes_of.values()) + needed > max_bytes:
        path = next(iter(bytes_of))
        print(
            f"removed the pixel cache {str(path)!r} ({bytes_of.pop(path) / 1e9:.1f} GB), the least recently used, to "
            f"stay within --max-cache-gigabytes {max_bytes / 1e9:g}",
            file=sys.stderr,
        )
        shutil.rmtree(path, ignore_errors=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"no room for the pixel cache: it needs {needed / 1e9:.1f} GB, the disk of {str(folder)!r} has "
            f"{free / 1e9:.1f} GB free; {remedy}"
        )
