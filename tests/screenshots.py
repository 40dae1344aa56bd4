"""Make the README's pictures of the page, with a drawing of our own in place of a photo.

PYTHONPATH=. python tests/screenshots.py
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import sync_playwright

from tests.served_page import served_page

PICTURES = Path(__file__).with_name("screenshots")


def drawing(coat: str, ears: str, grass: str = "#7aa35a") -> Image.Image:
    """A dog's head on a lawn, drawn large and scaled down."""
    image = Image.new("RGB", (1600, 1200), "#b9d4ea")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 760, 1600, 1200), fill=grass)
    draw.ellipse((480, 700, 1120, 1500), fill=coat)  # chest
    draw.ellipse((640, 820, 960, 1400), fill="#f3ead9")
    draw.ellipse((520, 210, 1080, 840), fill=coat)  # head
    draw.polygon([(800, 220), (740, 480), (720, 640), (880, 640), (860, 480)], fill="#f3ead9")  # blaze
    draw.ellipse((640, 520, 960, 860), fill="#f3ead9")  # muzzle
    for side in (-1, 1):
        x = 800 + side * 290
        draw.ellipse((x - 110, 250, x + 110, 780), fill=ears)
        eye = 800 + side * 135
        draw.ellipse((eye - 48, 420, eye + 48, 510), fill="#2b1d14")
        draw.ellipse((eye - 6, 432, eye + 20, 458), fill="white")
    draw.ellipse((720, 570, 880, 680), fill="#1c1512")  # nose
    draw.arc((690, 640, 800, 760), 0, 150, fill="#3a2a20", width=12)
    draw.arc((800, 640, 910, 760), 30, 180, fill="#3a2a20", width=12)
    draw.ellipse((760, 750, 840, 850), fill="#d9737a")  # tongue
    return image.filter(ImageFilter.GaussianBlur(3)).resize((800, 600))


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with (
        served_page([sys.executable, "app.py"], quiet=True) as (url, _),
        TemporaryDirectory() as folder,
        sync_playwright() as playwright,
    ):
        photo = Path(folder) / "dog.png"
        drawing("#a9713b", "#6b4423").save(photo)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        desk = browser.new_page(viewport={"width": 1180, "height": 760}, locale="en-US")
        phone = browser.new_page(viewport={"width": 390, "height": 760}, locale="fr-FR", color_scheme="dark")
        for page, name in ((desk, "side-by-side"), (phone, "phone")):
            page.goto(url)
            page.wait_for_selector("#photo input[type=file]", state="attached")
            page.set_input_files("#photo input[type=file]", photo)
            page.wait_for_selector("#verdict .answer")
            if page is desk:
                page.get_by_label("Side by side").check()
                page.wait_for_selector("#details .cards")
            page.wait_for_timeout(1000)
            page.screenshot(path=PICTURES / f"{name}.png", full_page=page is desk)
        browser.close()


if __name__ == "__main__":
    main()
