"""Make the README's pictures of the page, with one of its own drawings in place of a photo.

PYTHONPATH=. python tests/screenshots.py
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from dogbreeds.serving.page.head import PICTURES
from tests.served_page import served_page

SCREENSHOTS = Path(__file__).with_name("screenshots")


def main() -> None:
    """Write the files."""
    SCREENSHOTS.mkdir(exist_ok=True)
    with served_page([sys.executable, "app.py"], quiet=True) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        desk = browser.new_page(viewport={"width": 1180, "height": 760}, locale="en-US")
        phone = browser.new_page(
            viewport={"width": 390, "height": 844}, locale="fr-FR", color_scheme="dark", has_touch=True, is_mobile=True
        )
        for page, name in ((desk, "side-by-side"), (phone, "phone")):
            page.goto(url)
            page.wait_for_selector("#sent > *", state="attached")
            page.set_input_files("#photo input:not([capture])", PICTURES / "white_dog.webp")
            page.wait_for_selector("#verdict .answer")
            if page is desk:
                page.locator("#compare button").click()
                page.get_by_label("Side by side").check()
                page.wait_for_selector("#details .cards")
            page.wait_for_timeout(1000)
            page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=page is desk)
        browser.close()


if __name__ == "__main__":
    main()
