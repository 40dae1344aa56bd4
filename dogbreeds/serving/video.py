"""A short video -> a few of its frames, upright and spread over all of it. It is read as a stream.

FFmpeg, through PyAV, is told which container to read, by the file's first bytes. Left to itself, it would also read
playlists, which open further files and addresses.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from dogbreeds.images import MAX_PIXELS, BadImage, halved

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_SECONDS = 60
MAX_BYTES = 200_000_000
MAX_DECODED = MAX_SECONDS * 240
"""The most frames that are decoded: 240 a second are the slow motion of phones."""
MIN_INTERVAL = 0.5
"""Seconds between two of the frames that are taken, at least: nearer ones show the same."""
MAX_FRAMES = 32
"""The most frames that are taken; those of longer videos are further apart."""
MAX_MISSING = 1.0
"""Seconds by which a whole file may end before the time that its header says."""

_PHOTO_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"crx ")
"""Of the container that videos share with photos."""
_HEAD_BYTES = 1024
"""What tells a video: five packets of a transport stream, so that no GIF is taken for one."""


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    seconds: float
    """From the first picture."""
    image: Image.Image
    """Upright and RGB."""


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a video, by its first bytes; what can't be read, or read only once, is none."""
    try:
        return Path(path).is_file() and _container_format(Path(path)) is not None
    except (OSError, ValueError):
        return False


def read_frames(path: str | os.PathLike[str], *, at_least: int, num_threads: int = 0) -> list[Frame]:
    """Take frames of a video, at most `MAX_FRAMES` and at least `MIN_INTERVAL` apart, the first one among them.

    Args:
        path: A file of which `is_video` is true.
        at_least: The width and height, in pixels, that the caller needs; larger frames are `halved`.
        num_threads: That decode, of which each holds some frames; 0 for one a core.

    Raises:
        BadImage: The video has no pictures, is cut short or damaged, or is longer or larger than the limits; or PyAV is
            not installed.
    """
    if find_spec("av") is None:
        raise BadImage("A video needs the package PyAV. Please install it (pip install av).", "video_off")
    import av

    num_bytes = Path(path).stat().st_size
    if num_bytes > MAX_BYTES:
        raise _too_large(f"has {num_bytes / 1e6:,.0f} MB")
    try:
        # A file, and not its name, which FFmpeg could take for an address.
        with (
            open(path, "rb") as file,
            av.open(file, "r", format=_container_format(Path(path)), metadata_errors="replace") as container,
        ):
            return _spread(_all_frames(container, num_threads), at_least)
    except MemoryError:  # one of FFmpeg's too
        raise _too_large("takes too much memory") from None
    except av.FFmpegError:
        message = "This video is damaged, or its file was cut short. Please choose another copy."
        raise BadImage(message, "video_damaged") from None


def _container_format(path: Path) -> str | None:
    """FFmpeg's name of the container that a file begins as; None of files that are no videos."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _PHOTO_BRANDS else "mov"  # MP4 too
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return "mov"  # of older cameras
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"  # WebM too
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    # Packets of a transport stream begin with a G; those of camcorders have a time of 4 bytes before it.
    if len(head) == _HEAD_BYTES and any(set(head[start::size]) == {ord("G")} for start, size in ((0, 188), (4, 192))):
        return "mpegts"
    return None


def _spread(frames: Iterator[tuple[float, "VideoFrame"]], at_least: int) -> list[Frame]:
    """Take frames of a stream whose length is not known: where they are too many, every second one is kept."""
    taken: list[Frame] = []
    interval = MIN_INTERVAL
    for seconds, frame in frames:
        if taken and seconds < taken[-1].seconds + interval - 0.001:  # Matroska rounds times to 1/1000 s
            continue
        upright = halved(frame.to_image(), at_least).rotate(round(frame.rotation / 90) * 90, expand=True)
        taken.append(Frame(round(seconds, 3), upright))
        if len(taken) > MAX_FRAMES:
            taken, interval = taken[::2], 2 * interval
    if not taken:
        raise _without_pictures()
    return taken


def _all_frames(container: "InputContainer", num_threads: int) -> Iterator[tuple[float, "VideoFrame"]]:
    """Every frame, and its seconds from the first one. What is wrong with the file is raised when it is reached."""
    import av

    stream = _picture_stream(container)
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = num_threads
    stated = None if container.duration is None else container.duration / av.time_base
    _check_length(stated or 0)
    first, num_decoded, ended = None, 0, 0.0
    for packet in container.demux():
        if packet.is_corrupt:
            raise _cut_short()
        if packet.pts is not None:
            ended = max(ended, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        for frame in stream.decode(packet) if packet.stream.index == stream.index else ():
            time = frame.time or 0.0
            first = time if first is None else first
            _check_length(time - first)
            num_decoded += 1
            if num_decoded > MAX_DECODED:
                raise _too_large(f"has more than {MAX_DECODED:,} pictures")
            yield time - first, frame
    if stated is not None and ended < stated - MAX_MISSING:
        raise _cut_short()


def _picture_stream(container: "InputContainer") -> "VideoStream":
    from av.stream import Disposition
    from av.video.stream import VideoStream

    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:  # the latter is the cover of a piece of music
        raise _without_pictures()
    assert isinstance(stream, VideoStream)
    if stream.codec_context is None:
        message = (
            "The pictures of this video are compressed in a way that can't be read. Please save it as MP4 (H.264)."
        )
        raise BadImage(message, "video_compression")
    if stream.width * stream.height > MAX_PIXELS:
        raise _too_large(f"has {stream.width} x {stream.height} pixels")
    return stream


def _check_length(seconds: float) -> None:
    if seconds >= MAX_SECONDS + 1:  # a camera that stops after a minute stops a little later
        raise _too_large(f"takes {seconds / 60:,.0f} minutes" if seconds >= 90 else f"takes {seconds:.0f} seconds")


def _too_large(what: str) -> BadImage:
    limits = f"{MAX_SECONDS} seconds and {MAX_BYTES // 1_000_000} MB"
    return BadImage(
        f"This video {what}: at most {limits} can be read. Please cut out the part with the dog.", "video_too_large"
    )


def _without_pictures() -> BadImage:
    return BadImage(
        "There are no pictures in this video. Please choose one that shows the dog.", "video_without_pictures"
    )


def _cut_short() -> BadImage:
    return BadImage("This video is incomplete: the file was cut short. Please choose another copy.", "video_cut_short")
