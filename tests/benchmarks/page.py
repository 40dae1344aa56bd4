"""How long a person waits for the page: until it stands, from the drop of a photo to its answer, and for 100 photos.

    PYTHONPATH=. python tests/benchmarks/page.py --photos data/natural-dogs

Chromium on this machine asks a server on this machine, which answers with the CNN that comes with the project.
"""

import argparse
import random
import sys
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

from tests.served_page import served_page

PHOTO = "#photo input:not([capture])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.rglob("*") if path.is_file())
    random.Random(0).shuffle(photos)
    started = time.perf_counter()
    with served_page([sys.executable, "app.py"], quiet=True) as (url, _):
        print(f"page served             {time.perf_counter() - started:.1f} s after python app.py")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
            loads, answers = [], []
            for photo in photos[:10]:
                page = browser.new_context().new_page()
                started = time.perf_counter()
                page.goto(url)
                page.wait_for_selector(PHOTO, state="attached")
                loads.append(time.perf_counter() - started)
                page.wait_for_timeout(300)
                started = time.perf_counter()
                page.set_input_files(PHOTO, photo)
                page.wait_for_selector("#verdict .answer")
                answers.append(time.perf_counter() - started)
                page.close()
            print(f"page loaded             {_seconds(loads)}, each time in a new browser profile")
            print(f"first answer after drop {_seconds(answers)}")
            page = browser.new_page()
            page.goto(url)
            page.get_by_role("tab", name="Many photos").click()
            started = time.perf_counter()
            page.set_input_files("#files input[type=file]", photos[:100])
            page.wait_for_selector("a.download", timeout=120_000)
            print(f"{len(photos[:100])} photos              {time.perf_counter() - started:.1f} s, sending included")
            browser.close()


def _seconds(times: list[float]) -> str:
    return f"{median(times):.2f} s (median of {len(times)}, at most {max(times):.2f} s)"


if __name__ == "__main__":
    main()
