"""Photos from files: their bytes, their digests, and one stream that opens many of them on all cores."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from dogbreeds.addresses import FIRST_BYTES, Address, Place, read_beginnings, reason
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, not_read, open_file
from dogbreeds.machine import on_all_cores
from dogbreeds.photo_paths import LISTS, open_paths, walk

NUM_AHEAD = 64
"""Photos that are opened ahead of the one in use."""

Source = TypeVar("Source")
Result = TypeVar("Result")
Item = TypeVar("Item")


def read_bytes(source: Place | bytes) -> bytes:
    """The content of a photo's file.

    Raises:
        BadImage: The file can't be read.
        UserError: The address can't be reached.
    """
    if isinstance(source, bytes):
        return source
    try:
        if isinstance(source, Address):
            return source.read_bytes()
        with open_file(source) as file:
            return file.read()
    except (OSError, ValueError) as error:  # a ValueError for a path that is none, such as one of a list in UTF-16
        why = reason(error) if isinstance(error, OSError) else error
        raise BadImage(f"The file can't be read ({why}).", "unreadable") from None


def read_ahead(sources: Sequence[Place]) -> list[Path | Address | bytes | BadImage]:
    """Fetch photos that are not on this machine, all at the same time.

    Returns:
        For each photo, what `dogbreeds.images.open_image` opens, or why it can't be read.

    Raises:
        UserError: The addresses can't be reached.
    """
    addresses = [source for source in sources if isinstance(source, Address)]
    contents = iter(read_beginnings(addresses))
    found: list[Path | Address | bytes | BadImage] = []
    for source in sources:
        content = next(contents) if isinstance(source, Address) else source
        if isinstance(content, OSError):
            found.append(not_read(source, content))
        else:  # a larger file is opened where it is: one that is no photo is not read to its end
            is_larger = isinstance(content, bytes) and len(content) == FIRST_BYTES
            found.append(source if is_larger else content)
    return found


def is_list(named: Path) -> bool:
    """Whether this is a list of paths, as `photo_paths.open_paths` reads it, and no folder."""
    return named.suffix.lower() in LISTS and named.is_file()


def photo_files(folder: Path) -> list[Path]:
    """Every file in a folder and its sub-folders, sorted, but for what `photo_paths.is_left_out` names, as in `index`.

    Links that lead nowhere and sub-folders that can't be listed are among them, so that nothing is missing in silence.

    Args:
        folder: The folder, or a list of paths of this machine, which are all returned.

    Raises:
        UserError: There is no such folder or list, or it holds no files.
    """
    if is_list(folder):
        with open_paths(folder) as listed:
            return [listed.file(path) for path in listed]
    files = sorted(folder / path for path in walk(folder)) if folder.is_dir() else []
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


def read_digests(sources: Iterable[Place | bytes]) -> Iterator[str | BadImage]:
    """The `photo_digest` of each photo, or why it can't be read."""
    return read_photos(sources, lambda source: photo_digest(read_bytes(source)))


def places_by_digest(sources: Iterable[Place | bytes]) -> tuple[dict[str, int], dict[int, BadImage]]:
    """Where each photo is among these, by its digest, of copies the first; and where those that can't be read are."""
    place_of: dict[str, int] = {}
    unreadable: dict[int, BadImage] = {}
    for place, digest in enumerate(read_digests(sources)):
        if isinstance(digest, BadImage):
            unreadable[place] = digest
        else:
            place_of.setdefault(digest, place)
    return place_of, unreadable


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of this many items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
