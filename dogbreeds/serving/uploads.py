"""Photos that people send, freed at once of what their files tell besides the picture."""

import os
from pathlib import Path

from PIL import Image

from dogbreeds.images import open_image

MAX_KEPT_SIDE = 2048
"""What is kept of an upload has at most this many pixels on its longer side: enough for a screen, and for any view."""

_HARMLESS = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression"}
"""What a JPEG file may say besides its pixels to be kept as it is."""


def open_upload(path: Path) -> Image.Image:
    """Open an uploaded photo, and leave in its place a JPEG without place, time, camera, thumbnail or comments.

    A file that has none of these already stays as it is, so that a photo that is answered again is not coded again.

    Args:
        path: The upload; the name is kept, whatever its ending.

    Returns:
        The photo, upright and RGB, at most `MAX_KEPT_SIDE` pixels on its longer side.

    Raises:
        BadImage: It can't be read.
    """
    photo = open_image(path, at_least=MAX_KEPT_SIDE)
    photo.thumbnail((MAX_KEPT_SIDE, MAX_KEPT_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    if not _is_clean(path):
        clean = path.with_name(f".{path.name}.clean")
        bare = Image.frombytes("RGB", photo.size, photo.tobytes())  # pixels alone, none of the file's other facts
        bare.save(clean, "JPEG", quality=92)
        os.replace(clean, path)
    return photo


def _is_clean(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(3) != b"\xff\xd8\xff":
            return False
        file.seek(0)
        with Image.open(file, formats=("JPEG",)) as image:
            return set(image.info) <= _HARMLESS and max(image.size) <= MAX_KEPT_SIDE
