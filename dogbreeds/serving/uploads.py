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

from PIL import Image, UnidentifiedImageError

from dogbreeds.images import open_image

MAX_KEPT_SIDE = 2048
"""What is kept of an upload has at most this many pixels on its longer side: enough for a screen, and for any view."""

_QUALITIES = (92, 85, 75, 60)
_PICTURE_ONLY = {"aspect", "chromaticity", "dpi", "gamma", "icc_profile", "interlace", "srgb", "transparency"}
"""What a PNG file may say besides its pixels to be kept as it is."""


def open_upload(path: Path) -> Image.Image:
    """Open an uploaded photo, and leave in its place a JPEG without place, time, camera, thumbnail, film or comments.

    A file that has none of these already stays as it is, so that a photo that is answered again is not coded again.

    Args:
        path: The upload; the name is kept, whatever its ending.

    Returns:
        The photo, upright and RGB, and nothing else of what the file said. What was coded again has at most
        `MAX_KEPT_SIDE` pixels on its longer side.

    Raises:
        BadImage: It can't be read.
    """
    photo = open_image(path, at_least=MAX_KEPT_SIDE)
    photo = Image.frombytes("RGB", photo.size, photo.tobytes())
    if not _is_picture_only(path):
        photo.thumbnail((MAX_KEPT_SIDE, MAX_KEPT_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        # The same file of two people lies in the same place, so each writes a file of its own.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".coded-", delete=False) as coded:
            coded.write(_jpeg(photo, path.stat().st_size))
        os.replace(coded.name, path)
    return photo


def _jpeg(photo: Image.Image, num_bytes: int) -> bytes:
    """The photo as a JPEG file of this length, if it fits: the browser may be loading the file that it replaces."""
    content = b""
    for quality in _QUALITIES:
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=quality)
        content = file.getvalue()
        if len(content) <= num_bytes:
            break
    return content.ljust(num_bytes, b"\0")  # what follows a JPEG's end is ignored


def _is_picture_only(path: Path) -> bool:
    """Whether a file is a JPEG or PNG that holds pixels and how to show them, and nothing else."""
    content = path.read_bytes()
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    except UnidentifiedImageError:
        return False
    if image.format == "PNG":
        return set(image.info) <= _PICTURE_ONLY
    parts: list[tuple[str, bytes]] = getattr(image, "applist", [])
    described = all(name in ("APP0", "APP14") or part.startswith(b"ICC_PROFILE") for name, part in parts)
    return described and content.rstrip(b"\0").endswith(b"\xff\xd9")  # phones append films and second pictures


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
