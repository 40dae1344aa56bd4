"""Photos that people send, freed at once of what their files tell besides the picture."""

import asyncio
import atexit
import io
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

from PIL import Image

from dogbreeds.images import BadImage, open_image

MAX_KEPT_SIDE = 2048
"""What is kept of an upload has at most this many pixels on its longer side: enough for a screen, and for any view."""

_QUALITY = 92
_SHOWN_BY_BROWSERS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM")
"""How files begin that browsers show: JPEG, PNG, GIF, WebP, BMP."""


def open_upload(path: Path) -> Image.Image:
    """Open an uploaded photo, and leave in its place a JPEG of its pixels alone.

    So place, time, camera, thumbnails, films and comments are gone, wherever in the file they stood.

    Args:
        path: The upload; the name is kept, whatever its ending.

    Returns:
        The photo, upright and RGB, and nothing else of what the file said; at most `MAX_KEPT_SIDE` pixels on its longer
        side.

    Raises:
        BadImage: It can't be read; the upload is emptied, so that a browser that loads it still finds a file.
    """
    try:
        photo = open_image(path, at_least=MAX_KEPT_SIDE)
    except BadImage:
        _put(b"", path)
        raise
    photo.thumbnail((MAX_KEPT_SIDE, MAX_KEPT_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    coded = io.BytesIO()
    photo.save(coded, "JPEG", quality=_QUALITY)
    _put(coded.getvalue(), path)
    return photo


def shown_by_browsers(path: Path) -> bool:
    """Whether a browser shows this file, whatever its name ends in; HEIC and TIFF it does not."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_SHOWN_BY_BROWSERS) or head[4:] == b"ftypavif"


def _put(content: bytes, path: Path) -> None:
    """Have a file hold this from now on, also while others read it: two people may send the same photo to one place."""
    if path.exists():
        partial = path.with_name(f".{uuid4().hex}")
        with suppress(FileNotFoundError):  # its folder is deleted meanwhile, as uploads are in time
            partial.write_bytes(content)
            partial.replace(path)


def own_folder() -> Path:
    """Make a folder for the uploads of this process alone, and have gradio use it.

    gradio's own is shared by all its pages on a machine, and serves each what was sent to the others. This one lies in
    the folder that GRADIO_TEMP_DIR names, or where the system keeps temporary files, and goes with the process, even if
    that is told to terminate.
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
async def sweeping(folder: Path, seconds: float) -> AsyncIterator[None]:
    """Meanwhile, delete what gradio's own schedule leaves: what was sent in part, and empty folders.

    gradio looks every so many seconds for uploads older than that, and never forgets one that it does not find; so this
    looks in between, for what gradio should have deleted the last time.

    Args:
        folder: Where uploads lie, and nothing else.
        seconds: The period and the age of gradio's schedule.
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
    """Delete files and empty folders that have not changed since then, seconds of the epoch."""
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):  # somebody else deletes as well
                if path.lstat().st_ctime < since:
                    path.unlink()
        with suppress(OSError):  # it is not empty
            if Path(parent) != folder and Path(parent).stat().st_ctime < since:
                Path(parent).rmdir()
