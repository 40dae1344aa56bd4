"""Draw the pictures that the pages ship: examples to try, icons, and what other sites show of a link.

PYTHONPATH=. python tests/drawings.py
"""

import math
import random
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from dogbreeds.serving.page.head import PICTURES

ICON = PICTURES.with_name("icon.svg")
SITE = Path(__file__).parent.parent / "dogbreeds" / "serving" / "static_page" / "site"

Colour = tuple[int, int, int]

SIZE = (1200, 900)
"""Pixels in which is drawn; the pictures are smaller, so that edges are smooth."""
DOWN = math.pi / 2
"""The direction of hair that hangs."""
PINK = (225, 190, 180)


class Drawing:
    """An animal from the front, hair by hair, on a lawn."""

    def __init__(self, seed: int) -> None:
        """Draw the lawn.

        Args:
            seed: Of each hair.
        """
        self._random = random.Random(seed)
        rng = np.random.default_rng(seed)
        width, height = SIZE
        patches = Image.fromarray(rng.normal(128, 40, (height // 8, width // 8)).clip(0, 255).astype(np.uint8))
        light = np.asarray(patches.resize(SIZE, Image.Resampling.BICUBIC), float)[..., None] / 255 - 0.5
        lawn = np.array([96, 130, 62]) + 110 * light + rng.normal(0, 10, (height, width, 1))
        self._image = Image.fromarray(lawn.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(3))
        self._draw = ImageDraw.Draw(self._image)

    def fur(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        colour: Colour,
        *,
        hair: float,
        direction: float | None = None,
        disorder: float = 0.5,
    ) -> None:
        """An oval of hair, darker below.

        Args:
            centre: Of the oval.
            radii: Of the oval.
            colour: Of the hair.
            hair: Its length.
            direction: Into which it grows, in radians; None for away from the centre.
            disorder: Standard deviation of the direction, in radians.
        """
        (x, y), (rx, ry) = centre, radii
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=_shade(colour, 0.8))
        roots = []
        for _ in range(round(rx * ry / 8)):
            angle, share = self._random.uniform(0, math.tau), math.sqrt(self._random.random())
            roots.append((share, x + rx * share * math.cos(angle), y + ry * share * math.sin(angle)))
        # Hair at the edge, or high up, lies below the other.
        for _, left, top in sorted(roots, key=lambda root: -root[0] if direction is None else root[2]):
            towards = math.atan2(top - y, left - x) if direction is None else direction
            light = self._random.uniform(0.78, 1.12) * (1.08 - 0.15 * (top - y + ry) / ry)
            self._hair(left, top, towards + self._random.gauss(0, disorder), hair, _shade(colour, light))

    def pricked_ears(self, centre: tuple[float, float], gap: float, size: tuple[float, float], colour: Colour) -> None:
        """Two ears; `centre` lies between their lower ends."""
        (x, y), (width, height) = centre, size
        for side in (-1, 1):
            root, tip = x + side * gap, x + side * (gap + 30)
            self._draw.polygon([(root - width, y), (root + width, y), (tip, y - height)], fill=_shade(colour, 0.8))
            for _ in range(700):
                up = self._random.random()
                left = root + self._random.uniform(-1, 1) * (1 - up) * width + side * 30 * up
                light = self._random.uniform(0.8, 1.1)
                self._hair(left, y - height * up, -DOWN + self._random.gauss(0, 0.3), 18, _shade(colour, light))
            inside = [(root - width / 2, y - 10), (root + width / 2, y - 10), (tip - side * 5, y - 0.75 * height)]
            self._draw.polygon(inside, fill=PINK)

    def eyes(self, y: float, gap: float, radius: float, colour: Colour = (40, 25, 18)) -> None:
        """Two round eyes, each with a light."""
        for x in (600 - gap, 600 + gap):
            for share, fill in ((1.25, (25, 18, 15)), (0.95, colour), (0.5, (8, 6, 6))):
                self._disc(x, y, share * radius, fill)
            self._disc(x - radius / 5, y - 0.4 * radius, radius / 5, (240, 240, 240))

    def nose(self, y: float, radius: float) -> None:
        """A dog's nose."""
        self._draw.ellipse(
            (600 - 1.2 * radius, y - 0.8 * radius, 600 + 1.2 * radius, y + 0.8 * radius), fill=(22, 20, 20)
        )
        self._draw.ellipse(
            (600 - 0.6 * radius, y - 0.6 * radius, 600 + 0.5 * radius, y - 0.2 * radius), fill=(80, 78, 78)
        )
        self._draw.line((600, y + 0.8 * radius, 600, y + 1.6 * radius), fill=(30, 20, 20), width=6)

    def mouth(self, y: float, width: float) -> None:
        """Two arcs."""
        self._draw.arc((600 - width, y - 40, 600, y + 30), 10, 170, fill=(35, 22, 20), width=7)
        self._draw.arc((600, y - 40, 600 + width, y + 30), 10, 170, fill=(35, 22, 20), width=7)

    def tongue(self, y: float) -> None:
        """A tongue that hangs out."""
        self._draw.ellipse((570, y - 10, 630, y + 80), fill=(214, 110, 120))
        self._draw.line((600, y, 600, y + 60), fill=(180, 80, 95), width=4)

    def cats_nose(self, y: float) -> None:
        """A small nose, with whiskers."""
        self._draw.polygon([(572, y - 20), (628, y - 20), (600, y + 14)], fill=(201, 106, 106))
        for side in (-1, 1):
            for rise in (-36, 0, 36):
                self._draw.line(
                    (600 + side * 70, y + 35, 600 + side * 290, y + 20 + rise), fill=(250, 245, 235), width=4
                )

    def slit_pupils(self, y: float, gap: float, radius: float) -> None:
        """A cat's, over the pupils of `eyes`."""
        for x in (600 - gap, 600 + gap):
            self._disc(x, y, 0.9 * radius, (150, 185, 90))
            self._draw.ellipse((x - 6, y - 0.8 * radius, x + 6, y + 0.8 * radius), fill=(10, 8, 6))

    def finished(self) -> Image.Image:
        """The picture, with soft edges."""
        return self._image.filter(ImageFilter.GaussianBlur(2.4)).resize((800, 600), Image.Resampling.LANCZOS)

    def _hair(self, x: float, y: float, direction: float, length: float, colour: Colour) -> None:
        length *= self._random.uniform(0.6, 1.3)
        self._draw.line(
            (x, y, x + length * math.cos(direction), y + length * math.sin(direction)), fill=colour, width=3
        )

    def _disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def white_dog() -> Image.Image:
    """A white dog with pricked ears and a thick coat, somewhat as a Samoyed."""
    drawing, white = Drawing(58), (244, 241, 234)
    drawing.fur((600, 820), (289, 330), white, hair=40, disorder=0.7)
    drawing.pricked_ears((600, 278), 177, (80, 158), white)
    drawing.fur((600, 400), (244, 222), white, hair=40)
    drawing.fur((600, 610), (250, 150), white, hair=44)
    drawing.fur((600, 480), (98, 64), white, hair=14)
    drawing.eyes(379, 77, 17)
    drawing.nose(463, 39)
    drawing.mouth(538, 65)
    drawing.tongue(551)
    return drawing.finished()


def shaggy_dog() -> Image.Image:
    """A dog whose eyes are behind its hair, somewhat as an Old English sheepdog."""
    drawing, white, grey = Drawing(7), (242, 240, 236), (120, 124, 132)
    drawing.fur((600, 850), (380, 340), white, hair=60, direction=DOWN, disorder=0.35)
    drawing.fur((600, 400), (280, 270), white, hair=70, direction=DOWN, disorder=0.35)
    for x in (330, 870):
        drawing.fur((x, 430), (90, 190), grey, hair=60, direction=DOWN, disorder=0.3)
    drawing.nose(500, 38)
    drawing.tongue(590)
    return drawing.finished()


def cat() -> Image.Image:
    """A ginger cat."""
    drawing, ginger, light = Drawing(5), (214, 145, 76), (244, 226, 200)
    drawing.fur((600, 850), (270, 330), ginger, hair=24, direction=DOWN)
    drawing.pricked_ears((600, 300), 150, (85, 190), ginger)
    drawing.fur((600, 410), (250, 215), ginger, hair=20)
    for x, tilt in ((520, 0.2), (560, 0.1), (600, 0), (640, -0.1), (680, -0.2)):
        drawing.fur((x, 270), (12, 60), (150, 92, 40), hair=14, direction=DOWN + tilt, disorder=0.2)
    for x in (555, 645):
        drawing.fur((x, 520), (75, 60), light, hair=14)
    drawing.eyes(390, 105, 36)
    drawing.slit_pupils(390, 105, 36)
    drawing.cats_nose(480)
    drawing.mouth(530, 50)
    return drawing.finished()


def preview() -> Image.Image:
    """The white dog beside the name of the page, in the size that other sites expect."""
    image = Image.new("RGB", (1200, 630), "#1e1b4b")
    image.paste(white_dog().resize((840, 630)).crop((170, 0, 680, 630)), (0, 0))
    draw = ImageDraw.Draw(image)
    draw.multiline_text((570, 170), "What breed\nis this dog?", "white", ImageFont.load_default(84), spacing=12)
    draw.multiline_text(
        (574, 400),
        "One of 120, how sure that is,\nand where it shows.",
        "#c7d2fe",
        ImageFont.load_default(36),
        spacing=10,
    )
    return image


def _shade(colour: Colour, light: float) -> Colour:
    red, green, blue = (min(255, max(0, round(light * channel))) for channel in colour)
    return red, green, blue


def draw_icons() -> None:
    """The icon in pixels, for the page that can be installed: as it is, and with colour to all edges."""
    from playwright.sync_api import sync_playwright

    svg = ICON.read_text(encoding="utf-8")
    square = svg.replace('rx="96"', "")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, drawn, side in (("icon-192", svg, 192), ("icon-512", svg, 512), ("icon-maskable", square, 512)):
            page = browser.new_page(viewport={"width": side, "height": side})
            page.set_content(f"<style>body {{ margin: 0 }} svg {{ display: block }}</style>{drawn}")
            page.screenshot(path=SITE / f"{name}.png", omit_background=True)
            page.close()
        browser.close()


def main() -> None:
    """Write the files."""
    draw_icons()
    PICTURES.mkdir(exist_ok=True)
    for draw in (white_dog, shaggy_dog, cat):
        draw().resize((480, 360)).save(PICTURES / f"{draw.__name__}.webp", quality=75)
    preview().save(PICTURES / "preview.jpg", quality=80)


if __name__ == "__main__":
    main()
