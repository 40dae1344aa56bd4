"""Every photo of a data set, decoded, turned upright and scaled once: an array on disk that epochs and runs share.

    <folder>/<key>/pixels.bin    uint8 (N, size, size, 3), memory-mapped
    <folder>/<key>/cache.json    what is in it: the view, and of each photo its digest, size and checksum

The key names the contents: the photos' digests and the view. A cache is made under another name and renamed, so it is
whole or absent. Imports no torch.
"""

import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock
from tqdm import tqdm

from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import read_photos
from dogbreeds.preprocessing import Preprocessing

FORMAT = 2
"""Raised when what is kept of a photo changes."""
NUM_CHECKED = 64
"""Photos whose checksum is compared when a cache is opened."""

_opened: set[Path] = set()
"""Caches that this process uses, and so does not remove."""


@dataclass(frozen=True)
class PixelCache:
    """An open cache."""

    preprocessing: Preprocessing
    """How the photos were scaled; its `mean` and `std` play no part."""
    pixels: np.ndarray
    """`(N, size, size, 3)` uint8, memory-mapped: the readable photos, each content once."""
    sizes: np.ndarray
    """`(N, 2)` int32: width and height of each photo, upright, as it was decoded."""
    problems: dict[str, str]
    """By the digest of its file, why a photo can't be decoded."""
    row_of: dict[str, int]
    """By the digest of its file, the row of a photo in `pixels` and `sizes`."""

    def rows(self, digests: Sequence[str]) -> np.ndarray:
        """The rows of these photos, `(n,)` int64."""
        return np.array([self.row_of[digest] for digest in digests], dtype=np.int64)


def default_folder() -> Path:
    """Where caches are kept unless the user says otherwise: $XDG_CACHE_HOME/dogbreeds, else ~/.cache/dogbreeds."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dogbreeds"


def open_pixel_cache(
    view: Preprocessing,
    sources: Sequence[Path | bytes],
    digests: Sequence[str],
    *,
    folder: Path,
    max_bytes: int,
    progress: bool = True,
) -> PixelCache:
    """Open the cache of these photos, made first where it is not there; a damaged one is made anew, which is said.

    Processes that ask for the same cache at the same time make it once.

    Args:
        view: How the photos are scaled.
        sources: Where each photo is.
        digests: The SHA-256 of each photo's file, in hexadecimal.
        folder: Where caches are kept.
        max_bytes: What all caches in the folder may take together; those not used for longest make room, which is said.
        progress: Show a progress bar while photos are decoded.

    Raises:
        UserError: There is no room, on the disk or under `max_bytes`, or the folder can't be written.
    """
    index_of = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    path = folder / _key(view, index_of)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # one for all caches, for making room removes others
            if path.exists():
                cache = _open(path, view, index_of)
                if cache is not None:
                    os.utime(path)  # so that it counts as used
                    _opened.add(path)
                    return cache
                print(f"the pixel cache {str(path)!r} is damaged or cut short: it is made anew", file=sys.stderr)
                shutil.rmtree(path)
            _make_room(folder, max_bytes, len(index_of) * view.size**2 * 3)
            _build(path, view, sources, index_of, progress)
            cache = _open(path, view, index_of)
            assert cache is not None, f"{path} can't be opened though it was just written"
            _opened.add(path)
            return cache
    except OSError as error:
        raise UserError(
            f"can't keep the pixel cache in {str(folder)!r} ({error.strerror or error}): name another folder with "
            "--cache-dir, or decode in every epoch with --cache off"
        ) from None


def _key(view: Preprocessing, digests: dict[str, int]) -> str:
    # Pillow's version too, for another decoder or filter gives other pixels.
    facts = {"format": FORMAT, "pillow": PIL.__version__, "view": view.geometry, "digests": sorted(digests)}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _open(path: Path, view: Preprocessing, wanted: dict[str, int]) -> PixelCache | None:
    """The cache, or None where it is not what its name says."""
    try:
        record = json.loads((path / "cache.json").read_text(encoding="utf-8"))
        digests, problems, checksums = record["digests"], record["problems"], record["checksums"]
        same = record["view"] == view.geometry and {*digests, *problems} == wanted.keys()
        shape = (len(digests), view.size, view.size, 3)
        sizes = np.array(record["sizes"], dtype=np.int32).reshape(-1, 2)
        if not same or not len(digests) == len(checksums) == len(sizes):
            return None
        if (path / "pixels.bin").stat().st_size != int(np.prod(shape)):
            return None
        # Mode "c": pages that nobody writes, for PyTorch warns of arrays that can't be written.
        pixels = np.memmap(path / "pixels.bin", np.uint8, "c", shape=shape) if digests else np.empty(shape, np.uint8)
        for row in np.linspace(0, len(digests) - 1, min(NUM_CHECKED, len(digests)), dtype=int):
            if zlib.crc32(pixels[row].data) != checksums[row]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return PixelCache(view, pixels, sizes, problems, {digest: row for row, digest in enumerate(digests)})


def _build(
    path: Path, view: Preprocessing, sources: Sequence[Path | bytes], index_of: dict[str, int], progress: bool
) -> None:
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    readable, sizes, checksums, problems = [], [], [], {}
    try:
        with (
            (partial / "pixels.bin").open("wb") as file,
            tqdm(total=len(index_of), desc="decoding photos", unit="photo", disable=not progress) as bar,
        ):
            for digest, decoded in zip(index_of, _decode(sources, index_of.values(), view), strict=True):
                if isinstance(decoded, BadImage):
                    problems[digest] = str(decoded)
                else:
                    pixels, size = decoded
                    file.write(pixels.data)
                    readable.append(digest)
                    sizes.append(size)
                    checksums.append(zlib.crc32(pixels.data))
                bar.update()
            file.flush()
            os.fsync(file.fileno())
        record = {
            "view": view.geometry,
            "digests": readable,
            "sizes": sizes,
            "checksums": checksums,
            "problems": problems,
        }
        (partial / "cache.json").write_text(json.dumps(record), encoding="utf-8")
        partial.rename(path)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _decode(
    sources: Sequence[Path | bytes], indices: Iterable[int], view: Preprocessing
) -> Iterator[tuple[np.ndarray, tuple[int, int]] | BadImage]:
    """The pixels and the size of each of these photos, or why it can't be decoded."""

    def decode(index: int) -> tuple[np.ndarray, tuple[int, int]]:
        image = open_image(sources[index], at_least=view.decoded_side)
        return np.ascontiguousarray(view.cut(image)), image.size

    return read_photos(indices, decode)


def _make_room(folder: Path, max_bytes: int, needed: int) -> None:
    """Remove the caches not used for longest until another of `needed` bytes is within `max_bytes`."""
    remedy = "name another disk with --cache-dir, use fewer photos, or decode in every epoch with --cache off"
    # What a process left when it was killed counts too: under the lock nobody is making one now.
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
            f"removed the pixel cache {str(path)!r} ({bytes_of.pop(path) / 1e9:.1f} GB), not used for longest, to stay "
            f"within --max-cache-gigabytes {max_bytes / 1e9:g}",
            file=sys.stderr,
        )
        shutil.rmtree(path, ignore_errors=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"no room for the pixel cache: it needs {needed / 1e9:.1f} GB, the disk of {str(folder)!r} has "
            f"{free / 1e9:.1f} GB free; {remedy}"
        )
