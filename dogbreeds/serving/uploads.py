"""Uploaded photos: each is coded once, without its hidden data and without loss, and deleted in time."""

import asyncio
import atexit
import io
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

from PIL import Image

from dogbreeds.images import JPEG_SIDE, BadImage, open_image

_MAX_WEBP_SIDE = 4096
"""Longer copies are PNG files: WebP can't hold them, or takes more memory."""
_SHOWN_BY_BROWSERS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM")
"""The first bytes of files that browsers show: JPEG, PNG, GIF, WebP, BMP."""


def open_upload(path: Path, *, at_least: int = JPEG_SIDE) -> Image.Image:
    """Open an uploaded photo, and replace the file by a copy of the pixels, unless it is that copy.

    This removes place, time, camera, thumbnails, films and comments, wherever they are in the file. The copy is
    lossless, and each model sees the same on it as on the file.

    Args:
        path: The upload; its name is kept, whatever the suffix.
        at_least: The width and height, in pixels, that the models need, of which a larger photo keeps less than twice.

    Returns:
        The photo as `dogbreeds.images.open_image` returns it.

    Raises:
        BadImage: It can't be read; the file is then empty, so that a browser that loads it still finds one.
    """
    if _is_copy(path):
        return open_image(path)
    try:
        photo = open_image(path, at_least=at_least)
    except BadImage:
        _replace(b"", path)
        raise
    encoded = io.BytesIO()
    if max(photo.size) <= _MAX_WEBP_SIDE:
        photo.save(encoded, "WEBP", lossless=True, quality=0, method=0)  # the fastest
    else:
        photo.save(encoded, "PNG", compress_level=1)
    _replace(encoded.getvalue(), path)
    return photo


def _is_copy(path: Path) -> bool:
    """Whether a file has been replaced: the copies are read-only, and no upload is."""
    try:
        return not path.stat().st_mode & stat.S_IWUSR
    except OSError:
        return False


def named_for_browsers(path: Path) -> Path:
    """The copy in an upload's place under another name, which tells browsers that it is an image they can show."""
    named = path.with_name(f"{path.name}.webp")
    with suppress(FileExistsError, FileNotFoundError):  # asked before, or deleted meanwhile
        os.link(path, named)
    return named


def shown_by_browsers(path: Path) -> bool:
    """Whether a browser shows this file, by its content; browsers do not show HEIC and TIFF."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_SHOWN_BY_BROWSERS) or head[4:] == b"ftypavif"


def _replace(content: bytes, path: Path) -> None:
    """Replace a file by a read-only one, also while others read it."""
    if path.exists():
        partial = path.with_name(f".{uuid4().hex}")
        with suppress(FileNotFoundError):  # its folder was deleted meanwhile
            partial.write_bytes(content)
            partial.chmod(stat.S_IRUSR)
            partial.replace(path)


def private_upload_folder() -> Path:
    """Make a folder for the uploads of this process alone, and set GRADIO_TEMP_DIR so that gradio uses it.

    gradio's default folder is shared by all its pages on a machine, and each serves what was sent to the others. This
    one is inside of the folder that GRADIO_TEMP_DIR named before, or the system's for temporary files. It is deleted
    when the process ends, also by SIGTERM.
    """
    parent = os.environ.get("GRADIO_TEMP_DIR")
    if parent:
        Path(parent).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dogbreeds-", dir=parent)).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    return folder


@asynccontextmanager
async def deleting_leftovers(folder: Path, seconds: float) -> AsyncIterator[None]:
    """Meanwhile, delete what gradio's `delete_cache` leaves: incomplete uploads and empty folders.

    Read in gradio 6.31.0: it searches for old uploads every `seconds`, and keeps the name of one that somebody else has
    deleted for ever. So this searches halfway between two of its searches, for what it should have deleted before.

    Args:
        folder: The folder of uploads, with nothing else in it.
        seconds: Both values of `delete_cache`: the time between two searches, and the age of what is deleted.
    """

    async def sweep() -> None:
        await asyncio.sleep(seconds / 2)
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(delete_older, folder, time.time() - 1.5 * seconds)

    task = asyncio.create_task(sweep())
    try:
        yield
    finally:
        task.cancel()


def delete_older(folder: Path, since: float) -> None:
    """Delete files and empty folders that have not changed since a time, in seconds of the epoch."""
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):  # gradio deletes as well
                if path.lstat().st_ctime < since:
                    path.unlink()
        with suppress(OSError):  # it is not empty
            if Path(parent) != folder and Path(parent).stat().st_ctime < since:
                Path(parent).rmdir()
