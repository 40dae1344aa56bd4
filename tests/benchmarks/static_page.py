"""The page without a server, in Chromium: how often it answers as a server does, and how fast.

    PYTHONPATH=. taskset -c 0,1 python tests/benchmarks/static_page.py --photos FOLDER

An answer is the same if its verdict and its first breed are. The time of a look is that of a photo, from its file to
the answer to it as a whole, by the number of looks at it.
"""

import random
import shutil
import statistics
import tempfile
from pathlib import Path

import tyro
from playwright.sync_api import Browser, sync_playwright

from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.publish import publish_static
from tests.static_page import SEVERAL_THREADS, BrowserPredictor, served

NUM_TIMED = 40
"""Photos that are answered with several threads, for the time alone."""
NUM_VISITORS = 5
WHEN_ANSWERED = """
    addEventListener("load", () => { window.loaded = performance.now(); });
    new MutationObserver(() => {
        if (document.body?.dataset.photo === "answered") window.answered ??= performance.now();
    }).observe(document, { subtree: true, childList: true, attributes: true });
"""
"""Playwright looks for an answer every half a second; the page knows it to the millisecond."""
CHOOSE = "input[type=file]:not([capture])"


def main(photos: Path, run_dir: Path = DEFAULT_RUN, num_photos: int = 400, onnxruntime_web: Path | None = None) -> None:
    """Print the figures, with and without the headers that allow several threads.

    Args:
        photos: A folder of photos and sub-folders, of which some are drawn.
        run_dir: What answers.
        num_photos: How many are drawn.
        onnxruntime_web: The archive of that npm package; by default it is downloaded.
    """
    files = sorted(file for file in photos.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    drawn = random.Random(0).sample(files, min(num_photos, len(files)))
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        site = Path(temporary) / "site"
        publish_static(run_dir, onnxruntime_web=onnxruntime_web, dry_run=site)
        print(
            f"{sum(file.stat().st_size for file in site.iterdir()) / 1e6:.1f} MB in {len(list(site.iterdir()))} files"
        )
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, headers, num in (("several threads", SEVERAL_THREADS, NUM_TIMED), ("one thread", {}, num_photos)):
            with served(site, headers) as (address, _):
                print(f"{name}:", flush=True)
                first_answers(browser, address, drawn[0])
                compare(browser, address, Predictor(run_dir), drawn[:num])
        browser.close()


def first_answers(browser: Browser, address: str, photo: Path) -> None:
    """Print how long visitors wait for the answer to a photo that they choose at once."""
    waits: dict[str, list[tuple[float, float]]] = {"first visit": [], "second visit": []}
    for _ in range(NUM_VISITORS):
        context = browser.new_context()
        page = context.new_page()
        page.add_init_script(WHEN_ANSWERED)
        for times in waits.values():
            page.goto(address)
            page.set_input_files(CHOOSE, photo)
            page.wait_for_function("() => window.answered")
            loaded, answered = page.evaluate("[window.loaded, window.answered]")
            times.append((answered / 1000, (answered - loaded) / 1000))
            page.wait_for_function("() => document.querySelector('#device').textContent.endsWith('too.')")
        context.close()
    for visit, times in waits.items():
        for since, seconds in zip(("opening the page", "its load"), zip(*times, strict=True), strict=True):
            spread = f"median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            print(f"  first answer, {visit}, after {since}: {spread}")


def compare(browser: Browser, address: str, predictor: Predictor, photos: list[Path]) -> None:
    """Print how often the answers are the same, and the time of a look and of a photo with all its dogs."""
    page = browser.new_page()
    in_browser = BrowserPredictor(page, address)
    looks, wholes, differences, are_same, are_same_dogs = [], [], [], [], []
    for photo in photos:
        expected, found = predictor.predict(photo), in_browser.predict(photo.read_bytes())
        looks.append(found["milliseconds"] / found["numLooks"])
        wholes.append(found["withDogs"])
        answer, *dogs = [(each["verdict"], each["breeds"][0]["name"]) for each in (found, *found["dogs"])]
        predictions = [expected, *(dog.prediction for dog in expected.dogs)]
        wanted, *wanted_dogs = [(each.verdict, each.breeds[0].breed) for each in predictions]
        are_same.append(answer == wanted)
        if dogs or wanted_dogs:
            are_same_dogs.append(dogs == wanted_dogs)
        differences.append(abs(found["breeds"][0]["probability"] - expected.breeds[0].probability))
        if (answer, dogs) != (wanted, wanted_dogs):
            print(f"  {photo.name}: {wanted}, {wanted_dogs} on a server, {answer}, {dogs} here")
    print(f"  same answer: {sum(are_same)} of {len(photos)}; largest difference in probability {max(differences):.3f}")
    print(f"  same answer to each of several dogs: {sum(are_same_dogs)} of {len(are_same_dogs)} photos")
    for name, times in (("a look", looks), ("a photo, until each of its dogs is answered", wholes)):
        slowest = statistics.quantiles(times, n=20)[-1]
        print(f"  {name}: median {statistics.median(times):.0f} ms, 95 % within {slowest:.0f} ms")
    page.close()


if __name__ == "__main__":
    tyro.cli(main)
