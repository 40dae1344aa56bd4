"""Small videos, encoded by the tests."""

from pathlib import Path

import av
from PIL import Image

SIZE = (64, 48)


def numbered(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture whose top is red and whose brightness below says its number, 0 to 60."""
    picture = Image.new("RGB", size, (4 * number, 4 * number, 4 * number))
    picture.paste((255, 0, 0), (0, 0, size[0], size[1] // 4))
    return picture


def even(picture: Image.Image) -> Image.Image:
    """Cropped to a width and a height that codecs take."""
    return picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))


def encode(path: Path, pictures: list[Image.Image], times: list[float], **options: str) -> Path:
    """Write a video whose pictures are shown from these times on, seconds."""
    with av.open(str(path), "w", options=options) as container:
        codec = "libvpx" if path.suffix == ".webm" else "mpeg4"
        stream = container.add_stream(codec, rate=30, options={"qscale": "2", "flags": "+qscale"})
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "yuv420p"
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_image(picture)
            frame.pts = round(time * 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
