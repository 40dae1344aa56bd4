"""Every photo of a data set, decoded, turned upright and scaled once: an array on disk that epochs and runs share.

    <folder>/<key>/pixels.bin    uint8 (N, size, size, 3), memory-mapped
    <folder>/<key>/cache.json    its contents: the preprocessing, the digest, size and checksum of each photo, and a
                                 checksum of all that
    <folder>/<key>/near-duplicates.json   the digests of photos that look the same, once a run has asked for them

The key is a hash of the photos' digests and the preprocessing. A cache is written under another name and then renamed,
so it is complete or absent. What a disk damages later is found when it is first read, and decoded again. Imports no
torch.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock
from tqdm import tqdm

from dogbreeds.addresses import Place
from dogbreeds.errors import UserError
from dogbreeds.files import atomic_write, cache_folder, flush, partial_path, whole_or_absent
from dogbreeds.images import BadImage, open_image
from dogbreeds.machine import on_all_cores
from dogbreeds.photos import NUM_AHEAD, photo_digest, read_bytes, read_photos
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.options import DataOptions

FORMAT = 2
"""Increased when what is stored of a photo changes."""
_KEY_DIGITS = 24
_CACHE_NAME = re.compile(rf"[0-9a-f]{{{_KEY_DIGITS}}}(\.partial)?")
NEAR_DUPLICATES = "near-duplicates.json"
_opened: set[Path] = set()
"""Caches that this process uses, and therefore does not remove."""


@dataclass
class _Contents:
    """What cache.json says."""

    view: dict[str, Any]
    """`Preprocessing.geometry`."""
    digests: list[str]
    """Of the readable photos' files, in the order of the rows; `sizes` (width, height) and `checksums` (CRC-32) too."""
    sizes: list[tuple[int, int]]
    checksums: list[int]
    problems: dict[str, str]
    """Why a photo can't be decoded, by the digest of its file."""

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self))
        with atomic_write(folder / "cache.json") as temporary:
            temporary.write_text(json.dumps({**asdict(self), "checksum": zlib.crc32(text.encode())}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "_Contents":
        """Read what was saved.

        Raises:
            OSError, ValueError, TypeError: It is absent or damaged.
        """
        contents = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
        checksum = contents.pop("checksum", None)  # which the first release with format 2 did not save
        if checksum is not None and zlib.crc32(json.dumps(contents).encode()) != checksum:
            raise ValueError("its checksum differs")
        return cls(**contents)


class PixelCache:
    """An open cache. Each row is compared with its checksum when it is first read; damaged ones are made anew."""

    def __init__(
        self,
        path: Path,
        preprocessing: Preprocessing,
        contents: _Contents,
        sources: Sequence[Place | bytes],
        index_of: dict[str, int],
    ) -> None:
        """Use `open_pixel_cache` instead.

        Args:
            path: The folder of this cache.
            preprocessing: How the photos were scaled.
            contents: What the folder says of itself.
            sources: The photos, from which damaged rows are made anew.
            index_of: Their indices there, by digest.
        """
        self._path, self._contents, self._sources, self._index_of = path, contents, sources, index_of
        self.preprocessing = preprocessing
        """How the photos were scaled; its `mean` and `std` have no effect."""
        self.sizes = np.array(contents.sizes, dtype=np.int32).reshape(-1, 2)
        """`(N, 2)` int32: width and height of each decoded photo, upright, in pixels."""
        self.problems = contents.problems
        """Why a photo can't be decoded, by the digest of its file."""
        self.row_of = {digest: row for row, digest in enumerate(contents.digests)}
        """The row of a photo in the pixels and in `sizes`, by the digest of its file."""
        shape = (len(contents.digests), preprocessing.size, preprocessing.size, 3)
        # Shared with other processes, so that each sees what one of them has made anew.
        self._pixels = np.memmap(path / "pixels.bin", np.uint8, "r+", shape=shape) if len(self.sizes) else None
        self._is_checked = np.zeros(len(self.sizes), dtype=bool)

    def rows(self, digests: Iterable[str]) -> np.ndarray:
        """The rows of these photos, `(n,)` int64."""
        return np.array([self.row_of[digest] for digest in digests], dtype=np.int64)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """A copy of the pixels of some rows `(n,)`: `(n, size, size, 3)` uint8.

        Raises:
            UserError: A row is damaged, and its photo can't be read any more.
        """
        if self._pixels is None:
            return np.empty((0, self.preprocessing.size, self.preprocessing.size, 3), np.uint8)
        pixels = self._pixels[rows]
        new = np.flatnonzero(~self._is_checked[rows])
        if any(zlib.crc32(pixels[i].data) != self._contents.checksums[rows[i]] for i in new):
            self._mend(self._pixels)
            return self.read(rows)
        self._is_checked[rows] = True
        return pixels

    def near_duplicates(self, find: Callable[[], list[list[str]]]) -> list[list[str]]:
        """The digests of each group of photos that look the same; found once, and then kept beside the pixels.

        Args:
            find: Compares all photos, which takes a while.
        """
        path = self._path / NEAR_DUPLICATES
        with FileLock(self._path.parent / "lock"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                stored = json.loads(path.read_text(encoding="utf-8"))
                if zlib.crc32(json.dumps(stored["groups"]).encode()) == stored["checksum"]:
                    groups: list[list[str]] = stored["groups"]
                    return groups
            groups = find()
            record = {"groups": groups, "checksum": zlib.crc32(json.dumps(groups).encode())}
            with suppress(OSError), atomic_write(path) as temporary:  # without room it is found again the next time
                temporary.write_text(json.dumps(record), encoding="utf-8")
        return groups

    def _mend(self, pixels: np.memmap) -> None:
        """Find all damaged rows, so that their number is said once, and decode their photos again."""
        checksums, digests = self._contents.checksums, self._contents.digests

        def is_whole(row: int) -> bool:
            return zlib.crc32(pixels[row].data) == checksums[row]

        def decode(row: int) -> np.ndarray:
            content = read_bytes(self._sources[self._index_of[digests[row]]])
            if photo_digest(content) != digests[row]:
                raise BadImage("The file was changed.", "unreadable")
            return _decode(content, self.preprocessing)[0]

        with FileLock(self._path.parent / "lock"):
            damaged = [
                row for row, whole in enumerate(on_all_cores(is_whole, range(len(pixels)), NUM_AHEAD)) if not whole
            ]
            for row, decoded in zip(damaged, read_photos(damaged, decode), strict=True):
                if isinstance(decoded, BadImage):
                    raise UserError(
                        f"the pixel cache {str(self._path)!r} is damaged, and one of its photos can't be read any more "
                        f"({str(decoded).rstrip('.')}): mend that and give the same command again"
                    )
                pixels[row] = decoded
                checksums[row] = zlib.crc32(decoded.data)  # another one where Pillow was built otherwise
            if not damaged:
                return  # another process was faster
            pixels.flush()
            with suppress(FileNotFoundError):  # another run has removed the cache to make room; here it is still open
                self._contents.save(self._path)
        self._is_checked[:] = True
        tqdm.write(  # above the progress bar of an epoch
            f"{len(damaged)} of {len(pixels)} photos in the pixel cache {str(self._path)!r} were damaged: they were "
            "decoded again",
            file=sys.stderr,
        )


def open_pixel_cache(
    preprocessing: Preprocessing,
    sources: Sequence[Place | bytes],
    digests: Sequence[str],
    options: DataOptions,
    *,
    progress: bool = True,
) -> PixelCache:
    """Open the cache of these photos. It is created if there is none, and again, with a message, if it is cut short.

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
            cache = _open(path, preprocessing, sources, index_of)
            if cache is None:
                if path.exists():
                    print(
                        f"the pixel cache {str(path)!r} is damaged or cut short: it is created again", file=sys.stderr
                    )
                    shutil.rmtree(path)
                num_bytes = len(index_of) * preprocessing.size**2 * 3
                _make_room(folder, round(options.max_cache_gigabytes * 1e9), num_bytes)
                _build(path, preprocessing, sources, index_of, progress)
                cache = _open(path, preprocessing, sources, index_of)
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
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:_KEY_DIGITS]


def _open(
    path: Path, preprocessing: Preprocessing, sources: Sequence[Place | bytes], index_of: dict[str, int]
) -> PixelCache | None:
    """The cache; None if it is absent, cut short or of other photos."""
    try:
        contents = _Contents.load(path)
        same = contents.view == preprocessing.geometry and {*contents.digests, *contents.problems} == index_of.keys()
        num_rows = len(contents.digests)
        whole = num_rows == len(contents.checksums) == len(contents.sizes)
        whole = whole and (path / "pixels.bin").stat().st_size == num_rows * preprocessing.size**2 * 3
        return PixelCache(path, preprocessing, contents, sources, index_of) if same and whole else None
    except (OSError, ValueError, TypeError):
        return None


def _decode(source: Place | bytes, preprocessing: Preprocessing) -> tuple[np.ndarray, tuple[int, int]]:
    """What a row has of a photo, and the size of the photo."""
    image = open_image(source, at_least=preprocessing.decoded_side)
    return np.ascontiguousarray(preprocessing.cut(image)), image.size


def _build(
    path: Path, preprocessing: Preprocessing, sources: Sequence[Place | bytes], index_of: dict[str, int], progress: bool
) -> None:
    shutil.rmtree(partial_path(path), ignore_errors=True)  # left by a process that was killed
    contents = _Contents(preprocessing.geometry, [], [], [], {})
    with whole_or_absent(path) as partial:
        with (partial / "pixels.bin").open("wb") as file:
            decoded = read_photos(index_of.values(), lambda index: _decode(sources[index], preprocessing))
            bar = tqdm(decoded, "decoding photos", len(index_of), unit="photo", disable=not progress)
            for digest, photo in zip(index_of, bar, strict=True):
                if isinstance(photo, BadImage):
                    contents.problems[digest] = str(photo)
                    continue
                pixels, size = photo
                file.write(pixels.data)
                contents.digests.append(digest)
                contents.sizes.append(size)
                contents.checksums.append(zlib.crc32(pixels.data))
        flush(partial / "pixels.bin")
        contents.save(partial)


def _make_room(folder: Path, max_bytes: int, needed: int) -> None:
    """Remove the least recently used caches until another one of `needed` bytes is within `max_bytes`."""
    remedy = "name another disk with --cache-dir, use fewer photos, or decode in every epoch with --cache off"
    # With what killed processes left: because of the lock, no other process is writing a cache now.
    # Whatever else is in the folder, which may be a person's disk, is not ours to remove.
    caches = (path for path in folder.iterdir() if _CACHE_NAME.fullmatch(path.name) and path.is_dir())
    oldest_first = sorted(caches, key=lambda path: path.stat().st_mtime)
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
