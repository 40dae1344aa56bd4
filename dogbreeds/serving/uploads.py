"""Uploaded photos: a lossless copy of each without its hidden data, in a place of its own, for a limited time.

Of a video, such copies of some frames are kept, and not its sound.
"""

import asyncio
import atexit
import fcntl
import io
import json
import os
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from dogbreeds.errors import UserError, report
from dogbreeds.images import BadImage, PhotoSource, not_read, open_image
from dogbreeds.serving.video import read_frames

MAX_STORED = 2 << 30
"""Bytes of all copies."""
MAX_STORED_OF_ADDRESS = 1 << 30
"""Bytes of one address's copies: a thousand photos or more."""
KEEP_SECONDS = 60.0
"""How often copies that are in use are kept from being deleted as old ones."""
MIN_FREE = 1 << 30
"""Bytes that stay free on the disk."""
FULL_DISK = 4 << 30
"""Bytes of the smallest disk for which these three limits hold as they are; for a smaller one they shrink with it."""

_MAX_WEBP_SIDE = 4096
"""Longer copies are PNG files: WebP can't hold them, or takes more memory."""
_FOLDER = "dogbreeds-"
_LOCK = ".in-use"
_PROBLEM = "problem.json"
_VIDEO = "video.json"
_CACHE_KILOBYTES = 256
"""That SQLite keeps in memory of whose places there are."""
_NUM_AT_ONCE = 500
"""Places that are looked for at a time."""
_VIDEO_THREADS = 2
"""That decode a video; the others stay for answers."""

Copy = Callable[[Path, Path, str], Awaitable[Path]]
"""Makes the copy of a file, in a folder, for an address; see `dogbreeds.serving.decoding.Decoder.copy`."""


def store_copy(source: PhotoSource, place: Path, *, at_least: int) -> Path:
    """Write a copy of a photo's pixels.

    The copy has no place, time, camera, thumbnail, film or comment, wherever they are in the file. It is lossless, and
    each model sees the same on it as on the file.

    Args:
        source: What `dogbreeds.images.open_image` opens.
        place: A folder.
        at_least: The width and height, in pixels, that the models need, of which a larger photo keeps less than twice.

    Returns:
        The copy, `photo.webp` or `photo.png`.

    Raises:
        BadImage: It can't be read.
    """
    return _stored(open_image(source, at_least=at_least), place / "photo")


@dataclass(frozen=True)
class StoredFrame:
    """A frame of a video."""

    seconds: float
    """From the first one."""
    copy: Path
    """What `open_copy` opens."""


def store_frames(source: Path, place: Path, *, at_least: int) -> Path:
    """Write copies of the frames of a video that `dogbreeds.serving.video.read_frames` takes.

    Args:
        source: A file of which `dogbreeds.serving.video.is_video` is true.
        place: A folder.
        at_least: As for `store_copy`.

    Returns:
        The list of the frames, `video.json`, which `stored_frames` reads.

    Raises:
        BadImage: It can't be read.
    """
    frames = read_frames(source, at_least=at_least, num_threads=_VIDEO_THREADS)
    listed = [(frame.seconds, _stored(frame.image, place / str(number)).name) for number, frame in enumerate(frames)]
    path = place / _VIDEO
    path.write_text(json.dumps(listed))
    return path


def _stored(photo: Image.Image, path: Path) -> Path:
    """Write a lossless file; the path with the ending of its format."""
    encoded = io.BytesIO()
    if max(photo.size) <= _MAX_WEBP_SIDE:
        path = path.with_suffix(".webp")
        photo.save(encoded, "WEBP", lossless=True, quality=0, method=0)  # the fastest
    else:
        path = path.with_suffix(".png")
        photo.save(encoded, "PNG", compress_level=1)
    path.write_bytes(encoded.getvalue())
    return path


def is_video_copy(copy: Path) -> bool:
    """Whether what `UploadFolder.add` returned is of a video."""
    return copy.name == _VIDEO


def stored_frames(copy: Path) -> list[StoredFrame]:
    """The frames of a video, in their order.

    Args:
        copy: What `UploadFolder.add` returned, of which `is_video_copy` is true.

    Raises:
        BadImage: The upload is deleted by now.
    """
    try:
        listed = json.loads(copy.read_bytes())
    except OSError as error:
        raise not_read(copy, error) from None
    return [StoredFrame(seconds, copy.with_name(name)) for seconds, name in listed]


def open_copy(path: Path) -> Image.Image:
    """Open what `UploadFolder.add` returned.

    Raises:
        BadImage: The upload could not be read, is deleted by now, or is a video.
    """
    with suppress(FileNotFoundError):
        problem = json.loads(path.with_name(_PROBLEM).read_bytes())
        raise BadImage(problem["message"], problem["problem"])
    if is_video_copy(path):
        message = "A video is answered by itself and by one model. Please send it as one photo, with one model chosen."
        raise BadImage(message, "video_alone")
    return open_image(path)


def delete_copies(paths: Sequence[Path]) -> None:
    """Delete what `UploadFolder.add` returned, with its place."""
    for path in paths:
        shutil.rmtree(path.parent, ignore_errors=True)


@asynccontextmanager
async def kept(paths: Sequence[Path]) -> AsyncIterator[None]:
    """Let copies count as new for `UploadFolder.delete_older` meanwhile and at the end, be they hours old.

    Args:
        paths: What `UploadFolder.add` returned; more may be added meanwhile.
    """

    async def keep() -> None:
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            _renew(paths)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        _renew(paths)


def _renew(paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            os.utime(path.parent)


class UploadFolder:
    """The places of the uploads: who holds how many bytes, and how old they are."""

    def __init__(self, path: Path, copy: Copy, *, takes_videos: bool = False) -> None:
        """Take an empty folder.

        Args:
            path: The folder.
            copy: Makes the copies.
            takes_videos: Whether `copy` takes videos too.
        """
        self.path, self._copy, self.takes_videos = path, copy, takes_videos
        self._held = _Held(path / ".held")
        # A folder in memory may be of a few hundred MB, of which `MIN_FREE` alone would leave nothing.
        self._share = min(1.0, shutil.disk_usage(path).total / FULL_DISK)
        if self._is_full():
            remedy = "free some, or set GRADIO_TEMP_DIR to a folder on another disk"
            report(f"the disk of {str(path)!r} has too little free space, so no photo is taken: {remedy}")

    def refusal(self, address: str) -> str | None:
        """Why this address can't send a photo now, in a sentence; None if it can."""
        if self._held.num_bytes_of(address) >= MAX_STORED_OF_ADDRESS * self._share:
            return "Your address has sent as many photos as it may: please try again in a few minutes."
        if self._is_full():
            return "The page holds as many photos as it can: please try again in a few minutes."
        return None

    def _is_full(self) -> bool:
        free = shutil.disk_usage(self.path).free
        return self._held.num_bytes >= MAX_STORED * self._share or free < MIN_FREE * self._share

    def arrival(self) -> Path:
        """A file to write what arrives to; `add` deletes it."""
        return self.path / f"{secrets.token_hex(16)}.part"

    async def add(self, arrived: Path, address: str) -> Path:
        """Put a copy of a file into a place that nobody can guess or shares, and delete the file.

        Args:
            arrived: What somebody sent.
            address: Whose it is.

        Returns:
            The copy, which `open_copy` opens. Of what can't be read, a picture that browsers can show instead.
        """
        place = self.path / secrets.token_hex(16)
        place.mkdir()
        try:
            path = await self._copy_or_problem(arrived, place, address)
            self._held.add(place.name, address, sum(file.stat().st_size for file in place.iterdir()))
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        finally:
            arrived.unlink(missing_ok=True)
        return path

    async def _copy_or_problem(self, arrived: Path, place: Path, address: str) -> Path:
        try:
            return await self._copy(arrived, place, address)
        except BadImage as error:
            shutil.rmtree(place)  # with what a killed process left
            place.mkdir()
            (place / _PROBLEM).write_text(json.dumps({"problem": error.problem, "message": str(error)}))
            return _no_picture(place)

    async def delete_older(self, seconds: float) -> None:
        """Delete what has not changed for so long, and forget what others have deleted."""
        await asyncio.to_thread(self._delete_before, time.time() - seconds)
        places = self._held.places()
        while places:
            self._held.remove(await asyncio.to_thread(self._absent, places))
            places = self._held.places(after=places[-1])

    def _delete_before(self, since: float) -> None:
        with os.scandir(self.path) as entries:  # one by one: there may be many
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.name != _LOCK and entry.stat(follow_symlinks=False).st_mtime < since:
                        shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)

    def _absent(self, places: list[str]) -> list[str]:
        return [place for place in places if not (self.path / place).exists()]


class _Held:
    """How many bytes are in each place, and whose they are.

    There may be tens of thousands for twenty minutes: so it is in a file without a name, of which SQLite keeps little
    in memory.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.executescript(
            f"""
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = {-_CACHE_KILOBYTES};
            CREATE TABLE held (place TEXT PRIMARY KEY, address TEXT, num_bytes INTEGER) WITHOUT ROWID;
            CREATE INDEX of_address ON held (address, num_bytes);
            """
        )
        path.unlink()
        self.num_bytes = 0
        """Of all."""

    def add(self, place: str, address: str, num_bytes: int) -> None:
        self._database.execute("INSERT INTO held VALUES (?, ?, ?)", (place, address, num_bytes))
        self.num_bytes += num_bytes

    def num_bytes_of(self, address: str) -> int:
        (found,) = self._database.execute("SELECT TOTAL(num_bytes) FROM held WHERE address = ?", (address,)).fetchone()
        return int(found)

    def places(self, *, after: str = "") -> list[str]:
        """The next places, at most `_NUM_AT_ONCE`, in their order."""
        query = "SELECT place FROM held WHERE place > ? ORDER BY place LIMIT ?"
        return [place for (place,) in self._database.execute(query, (after, _NUM_AT_ONCE))]

    def remove(self, places: list[str]) -> None:
        for place in places:
            found = self._database.execute("DELETE FROM held WHERE place = ? RETURNING num_bytes", (place,))
            for (num_bytes,) in found.fetchall():
                self.num_bytes -= num_bytes


def _no_picture(place: Path) -> Path:
    """A crossed grey field."""
    picture = Image.new("RGB", (320, 240), "#dddddd")
    ImageDraw.Draw(picture).line([(130, 90), (190, 150), (160, 120), (130, 150), (190, 90)], "#888888", 6)
    picture.save(place / "unreadable.png")
    return place / "unreadable.png"


def private_upload_folder() -> Path:
    """Make a folder for the uploads of this process alone, and set GRADIO_TEMP_DIR so that gradio uses it.

    gradio's default folder is shared by all its pages on a machine, and each serves what was sent to the others. This
    one is inside of the folder that GRADIO_TEMP_DIR named before, or the system's for temporary files. It is deleted
    when the process ends; if that was killed, when the next one starts.

    Raises:
        UserError: Nothing can be written there.
    """
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(parent)
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=parent)).resolve()
        _hold(folder)
    except OSError as error:
        message = f"uploads can't be stored in {str(parent)!r} ({error.strerror}): set GRADIO_TEMP_DIR to a folder"
        raise UserError(f"{message} that can be written to") from None
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _hold(folder: Path) -> None:
    """Lock a folder until this process ends, however it does."""
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)


def _delete_abandoned(parent: Path) -> None:
    """Delete the folders of processes that were killed."""
    for lock in parent.glob(f"{_FOLDER}*/{_LOCK}"):
        with suppress(OSError), lock.open() as file:  # somebody else's folder
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its process lives
            shutil.rmtree(lock.parent, ignore_errors=True)
