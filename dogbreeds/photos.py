"""Photos from files: their bytes, their digests, and one stream that opens many of them on all cores."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from dogbreeds.errors import UserError
from dogbreeds.images import BadImage
from dogbreeds.machine import on_all_cores

NUM_AHEAD = 64
"""Photos that are opened ahead of the one in use."""

Source = TypeVar("Source")
Result = TypeVar("Result")
Item = TypeVar("Item")


def read_bytes(source: Path | bytes) -> bytes:
    """The content of a photo's file.

    Raises:
        BadImage: The file can't be read.
    """
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise BadImage(f"The file can't be read ({error.strerror}).", "unreadable") from None


def photo_files(folder: Path) -> list[Path]:
    """Every file in a folder and its sub-folders, sorted, but for hidden ones.

    Raises:
        UserError: There is no such folder, or it holds no files.
    """
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    if not files:
        fault = "holds no photos" if folder.is_dir() else "is no folder"
        raise UserError(f"{str(folder)!r} {fault}: name the folder with the photos")
    return files


def photo_digest(content: bytes) -> str:
    """The SHA-256 of a photo's file, in hexadecimal: photos with the same digest are the same photo."""
    return hashlib.sha256(content).hexdigest()


def read_photo(source: Source, read: Callable[[Source], Result]) -> Result | BadImage:
    """The result of a function that opens one photo, or the `BadImage` that it raises."""
    try:
        return read(source)
    except BadImage as error:
        return error


def read_photos(
    sources: Iterable[Source], read: Callable[[Source], Result], *, num_ahead: int = NUM_AHEAD
) -> Iterator[Result | BadImage]:
    """Open many photos on all cores.

    The stream yields what `read` makes of each photo, not the photo itself: `num_ahead` decoded photos of 50 megapixels
    would fill 10 GB.

    Args:
        sources: Paths, bytes, or anything else that `read` takes. The caller's thread iterates over them, `num_ahead`
            ahead of what it uses.
        read: Opens one photo, usually with `dogbreeds.images.open_image`, and keeps what is needed. Several threads
            call it at a time.
        num_ahead: How many results may be in memory.

    Yields:
        For each source, in order, the result of `read`, or the `BadImage` that it raised.
    """
    return on_all_cores(lambda source: read_photo(source, read), sources, num_ahead)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of this many items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
