"""Photos that people send, freed at once of what their files tell besides the picture."""

import io
import os
from pathlib import Path
from tempfile import NamedTemporaryFile

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
    if not _is_picture_only(path):
        photo.thumbnail((MAX_KEPT_SIDE, MAX_KEPT_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        # A name of its own: the upload's may be as long as a name can be
        with NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as coded:
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
