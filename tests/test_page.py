"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import base64
import csv
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, drawings_beside, make_photo
from PIL import Image, ImageChops, ImageEnhance, ImageStat

from dogbreeds.photos import photo_files
from dogbreeds.run_folder import SHIPPED_RUNS
from dogbreeds.training.datasets.sources import read_dataset
from tests.served_page import served_page
from tests.videos import encode, even

SHIPPED = ROOT / "dogbreeds/pretrained/mobilenet_v2"
VIEWPORTS = {"en": {"width": 1280, "height": 900}, "fr": {"width": 390, "height": 844}}
"""English on a desk, French on a phone in dark mode."""
CHOOSE = "#photo input:not([capture])"
FOLDER = "#choose-many input[webkitdirectory]"
ANSWER = "#verdict .banner:visible, #picture img:visible, #details .how:visible"
PROBLEM = "#photo .error:visible"
UPLOAD, ANSWERS = re.compile(r"/gradio_api/upload($|\?)"), re.compile("/gradio_api/queue/data")
UNTIL_NOTHING_IS_DRAWN = """() => new Promise(resolve => {
    let quiet = setTimeout(resolve, 1000);
    const watch = new MutationObserver(() => { clearTimeout(quiet); quiet = setTimeout(resolve, 1000); });
    watch.observe(document, { subtree: true, childList: true });
})"""


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Path:
    """Where the server keeps what people send."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def server(tiny_run, uploads):
    """app.py as its user starts it, with two runs, and taking videos."""
    command = [sys.executable, "app.py", "--video", "--run-dir", tiny_run, SHIPPED]
    with served_page(command, environment={"GRADIO_TEMP_DIR": str(uploads)}) as (address, _):
        yield address


@contextmanager
def opened(browser, server, language):
    """The page, and at its end the check that nothing went wrong in the browser and nobody else was asked."""
    dark = "dark" if language == "fr" else "light"
    context = browser.new_context(
        locale={"en": "en-US", "fr": "fr-FR"}[language], viewport=VIEWPORTS[language], color_scheme=dark
    )
    page = context.new_page()
    problems, strangers = [], []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: strangers.append(request.url) if stranger(request.url, server) else None)
    page.goto(server)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    page.wait_for_selector("#sent > *", state="attached")
    yield page
    assert not problems and not strangers
    context.close()


@pytest.fixture
def page(browser, server):
    with opened(browser, server, "en") as page:
        yield page


@pytest.fixture(params=["en", pytest.param("fr", marks=pytest.mark.slow)])
def language(request):
    return request.param


@pytest.fixture
def either_page(browser, server, language):
    with opened(browser, server, language) as page:
        yield page


def stranger(url: str, server: str) -> bool:
    return not url.startswith((server, "data:", "blob:"))


def send(page, path) -> None:
    """Choose a photo and wait for its answer, or for what is said instead."""
    page.set_input_files(CHOOSE, path)
    page.wait_for_selector("body:not([data-photo=sending]) #verdict .banner")


def assert_accessible(page) -> None:
    """Nothing serious, by axe-core; and nothing to be scrolled sideways."""
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_timeout(400)  # for what fades in
    found = Axe().run(page).response["violations"]
    serious = {v["id"]: v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")}
    assert not serious
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def assert_for_fingers(page, selector) -> None:
    """Nothing of this is smaller than a finger."""
    targets = page.locator(selector).all()
    small = {
        target.evaluate("target => target.outerHTML.slice(0, 80)"): box
        for target in targets
        if (box := target.bounding_box()) and min(box["width"], box["height"]) < 44
    }
    assert targets and not small


def test_the_answer_comes_first(either_page, language, tmp_path):
    page, french = either_page, language == "fr"
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.jpg", quality=95)
    send(page, tmp_path / "dog.jpg")
    assert page.inner_text("#verdict .answer") == "Beagle" and ("Sûr" if french else "Confident") in page.inner_text(
        "#verdict"
    )
    assert re.search(r"(About|Environ) \d\d (of 100 answers|réponses)", page.inner_text("#verdict"))
    assert page.locator("#verdict").get_attribute("role") == "status"
    # Without scrolling: breed, heat map, look-alikes. Who answered, and how fast, is for who asks.
    height = page.viewport_size["height"]
    for part in ("#verdict .answer", "#picture .base", "#details .breeds li"):
        box = page.locator(part).first.bounding_box()
        assert box["y"] > 0 and box["y"] + box["height"] <= height, part
    assert "0\u202f%" not in page.inner_text("#details").replace("10\u202f%", "")
    assert not page.get_by_text("tiny").first.is_visible()
    page.locator(".how summary").click()
    assert re.search(r"(Answered by|Réponse de) tiny (in|en) \d+ ms", page.inner_text(".how"))


def test_the_heat_map_lies_over_the_photo_and_can_be_taken_away(page, tmp_path):
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.jpg", quality=95)
    send(page, tmp_path / "dog.jpg")
    base, heat = page.locator("#picture .base"), page.locator("#picture .heat")
    assert base.evaluate("image => image.complete && image.naturalWidth") == 300
    assert heat.get_attribute("alt") == "A heat map over it: bright places speak for Beagle."
    inner, outer = heat.bounding_box(), base.bounding_box()
    assert outer["x"] - 1 <= inner["x"] and inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 1
    assert outer["y"] - 1 <= inner["y"] and inner["y"] + inner["height"] <= outer["y"] + outer["height"] + 1

    def opacity(value: str) -> None:
        page.wait_for_function(
            "v => getComputedStyle(document.querySelector('#picture .heat')).opacity === v", arg=value
        )

    opacity("1")
    page.locator("#picture .layers").click()
    opacity("0")
    page.get_by_role("switch").press("Space")
    opacity("1")


@pytest.mark.parametrize("language", ["en", "fr"])
@pytest.mark.slow
def test_each_language_and_width_answers_and_can_be_used_by_everyone(either_page, language, tmp_path):
    page, french = either_page, language == "fr"
    assert page.locator("html").get_attribute("lang") == language
    assert page.inner_text("h1") == ("De quelle race est ce chien ?" if french else "What breed is this dog?")
    assert_accessible(page)
    make_photo(2, 5, (300, 260)).save(tmp_path / "dog.png")
    send(page, tmp_path / "dog.png")
    assert ("Sûr" if french else "Confident") in page.inner_text("#verdict")
    assert_accessible(page)
    (tmp_path / "text.jpg").write_bytes(b"I am a text")
    send(page, tmp_path / "text.jpg")
    assert ("n'est pas une photo" if french else "is not a photo") in page.inner_text("#verdict .error")
    assert_accessible(page)
    page.get_by_text("Ce que la réponse veut dire" if french else "What the answer means").click()
    page.get_by_text("S'en servir depuis un programme" if french else "Use it from a program").click()
    page.get_by_text("calibré" if french else "calibrated").wait_for()
    assert_accessible(page)


@pytest.mark.slow
def test_both_models_answer_side_by_side(either_page, language, tmp_path):
    page, french = either_page, language == "fr"
    make_photo(1, 5, (300, 260)).save(tmp_path / "dog.png")
    send(page, tmp_path / "dog.png")
    page.get_by_role("button", name="ViT").click()
    page.get_by_label("mobilenet_v2").check()
    page.get_by_text("mobilenet_v2 in" if not french else "Réponse de mobilenet_v2").wait_for(state="attached")
    page.locator(".how summary").click()
    page.get_by_text("mobilenet_v2 in" if not french else "Réponse de mobilenet_v2").wait_for()
    page.get_by_label("Côte à côte" if french else "Side by side").check()
    page.wait_for_selector("#details .cards")
    assert page.locator(".card h2").all_inner_texts() == ["tiny", "mobilenet_v2"]
    assert page.locator(".card .base").count() == page.locator(".card .heat").count() == 2
    # Stripes are a Shih-Tzu to the one that was trained on them, and no dog to the other.
    said = page.inner_text("#verdict")
    assert ("pas d'accord" if french else "disagree") in said and ("Shih Tzu" if french else "Shih-Tzu") in said
    assert ("Aucune de mes races" if french else "None of my breeds") in said
    assert_accessible(page)
    boxes = [card.bounding_box() for card in page.locator(".card").all()]
    assert (boxes[0]["x"] == boxes[1]["x"]) == french  # below each other on a phone


def test_of_several_dogs_each_has_a_box_and_is_answered_when_it_is_chosen(either_page, language, tmp_path):
    page, french = either_page, language == "fr"
    drawings_beside("white_dog", "shaggy_dog").save(tmp_path / "dogs.png")
    page.get_by_role("button", name="ViT").click()
    page.get_by_label("mobilenet_v2").check()
    send(page, tmp_path / "dogs.png")
    first, second = (f"Chien {i} sur 2" if french else f"Dog {i} of 2" for i in (1, 2))
    said = "#verdict .which-dog:visible"
    assert first in page.inner_text(said) and page.locator(said).count() == 1
    photo, boxes = page.locator("#picture .base").bounding_box(), page.locator("#picture .box")
    places = [page.locator(f"#picture [data-box='{number}']").bounding_box() for number in (1, 2)]
    middle = photo["x"] + photo["width"] / 2
    assert boxes.count() == 2 and photo["x"] <= places[0]["x"] and places[0]["x"] + places[0]["width"] <= middle
    assert middle <= places[1]["x"] and places[1]["x"] + places[1]["width"] <= photo["x"] + photo["width"] + 1
    assert page.locator("#picture .heat:visible").count() == page.locator("#details .how:visible").count() == 1
    page.locator("#picture [data-box='2']").click()
    assert second in page.inner_text(said) and page.locator(".dogs input").nth(1).is_checked()
    heat = page.locator("#picture .heat:visible").bounding_box()
    assert places[1]["x"] - 1 <= heat["x"] and heat["x"] + heat["width"] <= places[1]["x"] + places[1]["width"] + 1
    page.get_by_role("switch").press("Space")
    page.wait_for_function(
        "[...document.querySelectorAll('.heat')].every(each => getComputedStyle(each).opacity === '0')"
    )
    page.locator(".dogs input").nth(1).press("ArrowLeft")
    assert first in page.inner_text(said)
    assert all(label.bounding_box()["height"] >= 44 for label in page.locator(".dogs label").all())
    assert_accessible(page)


@pytest.mark.slow
def test_the_answer_can_be_kept_as_a_picture_and_on_paper(page, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where it was taken"
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.jpg", exif=exif)
    send(page, tmp_path / "dog.jpg")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as a picture").click()
    assert download.value.suggested_filename == "Beagle.jpg"
    kept = Image.open(download.value.path())
    assert kept.width == 1080 and kept.format == "JPEG" and not kept.getexif()
    height = round(1080 * 260 / 300)
    assert all(abs(found - 255) < 3 for found in kept.getpixel((1070, height + 40)))  # the margin of what is said
    written = kept.crop((48, height + 40, 600, kept.height - 40)).convert("L")
    assert written.getextrema()[0] < 40 < 250 < written.getextrema()[1]
    with_heat_map = kept.crop((0, 0, 1080, height))
    page.get_by_role("switch").uncheck()
    page.wait_for_function("getComputedStyle(document.querySelector('#picture .heat')).opacity === '0'")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as a picture").click()
    plain = Image.open(download.value.path()).crop((0, 0, 1080, height))
    assert ImageChops.difference(with_heat_map, plain).getbbox()
    seen = make_photo(2, 77, (300, 260)).resize(plain.size)
    assert ImageStat.Stat(ImageChops.difference(seen, plain)).mean[0] < 12

    page.evaluate("window.print = () => { window.isPrinted = true; }")
    page.get_by_role("button", name="Print a sheet").click()
    page.wait_for_function("window.isPrinted")
    assert not page.locator("body > .sheet").is_visible()
    page.emulate_media(media="print")
    page.locator("body > .sheet").wait_for()  # until it is visible, which a busy machine takes a moment for
    assert not page.locator("h1").is_visible()
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not page.locator("body > .sheet").count()


@pytest.mark.slow
def test_only_the_breeds_of_a_list_are_named(browser, server, tmp_path):
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.png")
    with opened(browser, server, "fr") as page:
        send(page, tmp_path / "dog.png")
        page.get_by_role("button", name="Ces races").click()
        page.locator("#only-breeds label").nth(119).wait_for()
        assert page.locator("#only-breeds label").count() == 120
        assert page.locator("#only-breeds label").first.bounding_box()["height"] >= 44
        assert page.evaluate(
            "(list => list.scrollWidth <= list.clientWidth)(document.querySelector('#only-breeds ul'))"
        )
        page.get_by_role("searchbox").fill("PEKIN")  # without its accent
        page.get_by_role("checkbox", name="Pékinois").check()
        page.get_by_text("seule race n'est pas un choix").wait_for()
        page.get_by_role("button", name="toutes les races").click()
        page.get_by_role("searchbox").fill("")
        for value in ("Shih-Tzu", "Golden retriever"):
            page.locator(f"#only-breeds [value='{value}']").check()
        page.get_by_text("Seules les 2 races").wait_for(state="attached")
        page.wait_for_timeout(200)  # where the page would be scrolled
        assert page.evaluate("document.querySelector('.find').getBoundingClientRect().top < innerHeight")
        assert "Beagle" not in page.inner_text("#verdict") + page.inner_text("#details")
        assert "Shih Tzu" in page.inner_text("#only-breeds .chosen")
        assert_accessible(page)
        page.get_by_role("tab", name="Plusieurs photos").click()
        page.set_input_files("#files input[type=file]", [tmp_path / "dog.png"])
        page.wait_for_selector("a.download")
        assert "Beagle" not in page.inner_text("#review section:visible")

        page.get_by_role("link", name="English").click()  # which loads the page anew
        page.get_by_text("Only these come into question: Golden retriever, Shih-Tzu.").wait_for()
        send(page, tmp_path / "dog.png")
        page.locator("#verdict").get_by_text("2 breeds").wait_for()
        assert "Beagle" not in page.inner_text("#details")


@pytest.mark.slow
def test_a_list_of_breeds_that_the_chosen_model_does_not_know_is_told(page, tmp_path):
    make_photo(2, 77).save(tmp_path / "dog.png")
    page.get_by_role("button", name="Only these breeds").click()
    for value in ("Beagle", "Pug"):
        page.locator(f"#only-breeds [value='{value}']").check()
    page.get_by_role("tab", name="Many photos").click()
    page.set_input_files("#files input[type=file]", [tmp_path / "dog.png"])
    page.locator("#status").get_by_text("tiny does not know these breeds: Pug.").wait_for()


@pytest.mark.slow
def test_a_video_has_one_answer_and_shows_the_frame_that_decided(page, server, uploads, tmp_path):
    from gradio_client import Client, handle_file

    pictures = [make_photo(2, number, (320, 240)) for number in range(20)]
    clip = encode(tmp_path / "clip.mp4", pictures, [number / 4 for number in range(20)])
    send(page, clip)
    assert page.inner_text("#verdict .answer") == "Beagle"
    decided = float(re.search(r"at (\d\.\d) s, speaks most", page.inner_text("#picture figcaption"))[1])
    assert 0 <= decided < 5 and page.locator("#picture .base").evaluate("image => image.naturalWidth") == 320
    assert_accessible(page)
    answer = Client(server, verbose=False).predict(handle_file(clip), "tiny", api_name="/predict")
    assert answer["breeds"][0]["breed"] == "Beagle" and answer["error"] is None
    assert round(answer["decided_by"]["seconds"], 1) == decided
    assert not list(uploads.rglob("*.mp4")) + list(uploads.rglob("*.part"))
    clip.write_bytes(clip.read_bytes()[:3000])
    send(page, clip)
    assert "This video is" in page.inner_text("#verdict .error")
    page.get_by_role("tab", name="Many photos").click()
    page.set_input_files("#files input[type=file]", [encode(clip, pictures[:4], [0, 1, 2, 3])])
    page.wait_for_selector("a.download")
    assert "A video is answered by itself" in page.inner_text("#review [data-verdict=error]")


@pytest.mark.slow
def test_each_dog_of_a_video_is_shown_in_the_frame_that_decided(either_page, language, tmp_path):
    page, french = either_page, language == "fr"
    white, shaggy = drawings_beside("white_dog"), drawings_beside("shaggy_dog")
    frames = []
    for left, right in ((white, ImageEnhance.Brightness(shaggy).enhance(0.3)), (shaggy, white)):
        frames.append(even(Image.fromarray(np.concatenate([np.asarray(left), np.asarray(right)], axis=1))))
    clip = encode(tmp_path / "clip.mp4", [frames[0], frames[1], frames[1]], [0, 0.5, 1])
    page.get_by_role("button", name="ViT").click()
    page.get_by_label("mobilenet_v2").check()
    send(page, clip)
    said, photos = "#verdict .which-dog:visible", page.locator("#picture .base:visible")
    assert page.inner_text(said) == ("Chien 1 sur 2" if french else "Dog 1 of 2") and photos.count() == 1
    middles, notes = {}, {}
    for number in (1, 2):
        page.locator(".dogs input").nth(number - 1).check()
        photo, box = photos.bounding_box(), page.locator(f"#picture [data-box='{number}']:visible").bounding_box()
        middles[number] = (box["x"] + box["width"] / 2 - photo["x"]) / photo["width"]
        notes[number] = page.inner_text("#picture figcaption")
        assert page.locator("#picture .box:visible").count() == page.locator("#picture .heat:visible").count() == 1
        assert_accessible(page)
    assert middles[2] < 0.5, "where the second is found in the brighter frame"
    assert re.search(r"à (0,5|1,0) s" if french else r"at (0\.5|1\.0) s", notes[2])


def tab_to(page, selector) -> None:
    for _ in range(20):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"the Tab key does not reach {selector}")


@pytest.mark.slow
def test_the_keyboard_alone_is_enough(page, tmp_path):
    make_photo(2, 7, (300, 260)).save(tmp_path / "dog.png")
    page.on("filechooser", lambda _: None)  # from now on the browser asks playwright, which it is slow to learn
    page.evaluate(UNTIL_NOTHING_IS_DRAWN)  # which would lose the focus
    tab_to(page, CHOOSE)
    assert page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle") != "none"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "dog.png")
    page.wait_for_selector("#verdict .confident")
    page.evaluate(UNTIL_NOTHING_IS_DRAWN)
    tab_to(page, "#compare button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#model input")
    tab_to(page, "#model input")
    for place in (1, 2):  # the answer to the first may not be there yet
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"document.querySelectorAll('#model input')[{place}].checked")
    page.wait_for_selector("#details .cards")


def test_a_phones_photo_is_shown_and_loses_where_it_was_taken(page, uploads, tmp_path):
    from pillow_heif import from_pillow

    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)
    exif[0x010F] = "Phone of Ada"
    photo = make_photo(2, 9, (320, 240))
    photo.save(tmp_path / "gps.jpg", exif=exif, comment=b"at home")
    from_pillow(photo).save(tmp_path / "live.heic", exif=exif.tobytes(), quality=90)
    for name in ("gps.jpg", "live.heic"):
        assert b"Phone of Ada" in (tmp_path / name).read_bytes()
        send(page, tmp_path / name)
        assert "Beagle" in page.inner_text("#verdict")
        page.wait_for_function("document.querySelector('#picture .base')?.naturalWidth > 0")
    kept = [file.read_bytes() for file in uploads.rglob("*") if file.is_file()]
    assert kept and not any(b"Phone of Ada" in content or b"at home" in content for content in kept)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("empty.jpg", b"", "empty", marks=pytest.mark.slow),
        pytest.param("short.jpg", None, "cut short", marks=pytest.mark.slow),
        ("notes.txt", b"Rex, 3 years", "is not a photo"),
    ],
)
def test_a_bad_file_is_explained_in_a_sentence(page, tmp_path, name, content, words):
    file = tmp_path / name
    if content is None:
        make_photo(0, 0, (400, 300)).save(file)
        file.write_bytes(file.read_bytes()[:2000])
    else:
        file.write_bytes(content)
    send(page, file)
    assert words in page.inner_text("#verdict .error") and not page.locator("#picture img").count()
    assert not page.locator(".toast-body").count()  # in which gradio says something of its own
    make_photo(0, 0).save(tmp_path / "good.png")
    send(page, tmp_path / "good.png")
    page.get_by_text("Chihuahua").first.wait_for()


def file_event(page, path, *, to: str, kind: str) -> None:
    """Paste or drop a file: it travels in the event, as from another program."""
    content = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(
        """([content, name, to, kind]) => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            const [target, options] = [document.querySelector(to), { bubbles: true, cancelable: true }];
            if (kind === "paste") {
                target.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
                return;
            }
            // The browser leaves the page for a file unless both events are taken.
            for (const name of ["dragover", "drop"]) {
                const event = new DragEvent(name, { ...options, dataTransfer: transfer });
                if (target.dispatchEvent(event)) throw new Error(`${name} is left to the browser`);
            }
        }""",
        [content, path.name, to, kind],
    )


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        ("paste", "body"),
        pytest.param("drop", "#compare", marks=pytest.mark.slow),
        pytest.param("drop", ".choose", marks=pytest.mark.slow),
        pytest.param("drop", "h1", marks=pytest.mark.slow),
    ],
)
def test_a_photo_may_be_pasted_or_dropped_anywhere(page, tmp_path, kind, to):
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.png")
    file_event(page, tmp_path / "dog.png", to=to, kind=kind)
    page.wait_for_selector("#verdict .confident")
    assert page.inner_text("#verdict .answer") == "Beagle"


@pytest.mark.slow
def test_photos_dropped_beside_the_box_of_many_are_answered(page, tmp_path):
    make_photo(2, 77).save(tmp_path / "dog.png")
    page.get_by_role("tab", name="Many photos").click()
    page.wait_for_selector("#files input[type=file]", state="attached")
    file_event(page, tmp_path / "dog.png", to="h1", kind="drop")
    page.wait_for_selector("a.download")
    assert "Photos answered: 1;" in page.inner_text("#status")


def test_before_a_photo_the_page_says_what_it_does_and_offers_drawings(either_page, language):
    page, french = either_page, language == "fr"
    box = page.inner_text("#photo")
    assert ("races" if french else "breeds") in box and ("dessins" if french else "drawing of ours") in box
    assert not page.locator("#model").is_visible()  # no question about models
    page.get_by_role("button", name="chat" if french else "cat").click()
    page.wait_for_selector("#verdict .banner")
    assert page.locator("#picture .base").evaluate("image => image.naturalWidth") == 480
    assert not page.get_by_role("button", name="chat" if french else "cat").is_visible()


@pytest.fixture
def failing_page(browser, server, language):
    """The page, where requests may fail."""
    context = browser.new_context(locale={"en": "en-US", "fr": "fr-FR"}[language])
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector("#sent > *", state="attached")
    yield page
    context.close()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "connection"),
        pytest.param(413, "40 MB", marks=pytest.mark.slow),
        pytest.param(503, "busy", marks=pytest.mark.slow),
        pytest.param(500, "could not be sent", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("language", ["en"])
def test_no_old_answer_stays_when_a_photo_gets_none(failing_page, tmp_path, status, words):
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.png")
    make_photo(0, 1, (300, 260)).save(tmp_path / "other.png")
    page = failing_page
    send(page, tmp_path / "dog.png")

    def answer(route) -> None:
        route.fulfill(status=status, json={"detail": "no"}) if status else route.abort()

    page.route("**/gradio_api/upload", answer)
    page.set_input_files(CHOOSE, tmp_path / "other.png")
    page.wait_for_selector(PROBLEM)
    assert words in page.inner_text(PROBLEM)
    assert not page.locator(ANSWER).count()
    page.unroute_all()
    send(page, tmp_path / "other.png")
    assert page.inner_text("#verdict .answer") == "Chihuahua" and not page.locator(PROBLEM).count()


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en"])
def test_a_question_that_is_lost_is_told_and_asked_again(failing_page, tmp_path):
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.png")
    page = failing_page
    page.route("**/gradio_api/queue/join**", lambda route: route.abort())
    page.set_input_files(CHOOSE, tmp_path / "dog.png")
    page.wait_for_selector(PROBLEM)
    assert "busy" in page.inner_text(PROBLEM)
    page.unroute_all()
    page.wait_for_selector("#verdict .confident")  # without a hand


@pytest.mark.slow
def test_the_old_answer_goes_as_soon_as_a_photo_is_sent(page, tmp_path):
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.png")
    make_photo(0, 1, (300, 260)).save(tmp_path / "other.png")
    send(page, tmp_path / "dog.png")
    held = []
    page.route("**/gradio_api/upload", lambda route: held.append(route))
    page.set_input_files(CHOOSE, tmp_path / "other.png")
    page.get_by_text("Sending and looking").wait_for()
    assert not page.locator(ANSWER).count()
    held.pop().continue_()
    page.wait_for_selector("#verdict .banner")
    assert page.inner_text("#verdict .answer") == "Chihuahua"


@pytest.mark.parametrize("fails", [False, True], ids=["is sent", "is refused"])
@pytest.mark.slow
@pytest.mark.parametrize("language", ["en"])
def test_an_answer_that_comes_while_another_photo_is_sent_or_after_it_was_refused_is_not_shown(
    failing_page, tmp_path, fails
):
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.png")
    make_photo(0, 1, (300, 260)).save(tmp_path / "other.png")
    page = failing_page
    page.evaluate("document.addEventListener('answered', () => { document.body.dataset.heard = ''; })")
    answer = held(page, ANSWERS, lambda: page.set_input_files(CHOOSE, tmp_path / "dog.png"))
    upload = held(page, UPLOAD, lambda: page.set_input_files(CHOOSE, tmp_path / "other.png"))
    if fails:
        upload.fulfill(status=503, json={"detail": "no"})
        page.wait_for_selector(PROBLEM)
    answer.continue_()
    page.wait_for_selector("body[data-heard]")
    assert not page.locator(ANSWER).count()
    if fails:
        assert "busy" in page.inner_text(PROBLEM)
    else:
        assert page.get_by_text("Sending and looking").is_visible()
        upload.continue_()
        page.wait_for_selector("#verdict .banner:visible")
        assert page.inner_text("#verdict .answer") == "Chihuahua"


def held(page, address, ask):
    """The next request to an address, which somebody asks for, and which then waits."""
    found = []
    page.route(address, lambda route: route.continue_() if found else found.append(route))
    ask()
    while not found:
        page.wait_for_timeout(20)
    return found[0]


@pytest.mark.slow
def test_too_many_files_are_told_before_they_are_sent(either_page, language, tmp_path):
    page, sent = either_page, []
    page.on("request", lambda request: sent.append(request.url) if "upload" in request.url else None)
    page.get_by_role("tab", name="Plusieurs photos" if language == "fr" else "Many photos").click()
    assert "500" in page.inner_text("#files")
    for number in range(501):
        (tmp_path / f"{number}.png").touch()
    page.set_input_files("#files input[type=file]", sorted(tmp_path.iterdir()))
    page.get_by_text("plus que les 500" if language == "fr" else "more than the 500").wait_for()
    assert_accessible(page)
    assert not sent
    make_photo(2, 77).save(tmp_path / "0.png")
    page.set_input_files("#files input[type=file]", [tmp_path / "0.png"])
    page.wait_for_selector("a.download")
    assert not page.locator("#too-many").is_visible()
    sent.clear()
    page.set_input_files(FOLDER, tmp_path)
    page.locator("#too-many").get_by_text("500").wait_for()
    assert not sent


@pytest.mark.slow
def test_a_phone_has_the_camera_first_and_targets_for_a_finger(browser, server):
    context = browser.new_context(
        locale="fr-FR", viewport=VIEWPORTS["fr"], has_touch=True, is_mobile=True, device_scale_factor=1
    )
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector("#photo .camera")
    with page.expect_file_chooser() as chooser:  # the camera, on a phone: the second tap takes the photo
        page.locator("#photo .button").first.tap()
    assert chooser.value.element.get_attribute("capture") == "environment"
    page.get_by_role("button", name="ViT").click()
    page.wait_for_selector("#model label")
    assert_for_fingers(page, "button:visible, a:visible, summary:visible, #photo .button:visible, #model label:visible")
    context.close()


@pytest.mark.slow
def test_the_language_is_chosen_remembered_and_holds_for_answers(browser, server, tmp_path):
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.png")
    context = browser.new_context(locale="en-US")
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector("#sent > *", state="attached")
    send(page, tmp_path / "dog.png")
    page.get_by_role("link", name="Français").click()
    page.get_by_text("De quelle race").wait_for()
    page.wait_for_selector("#verdict .banner")  # of the same photo
    assert "Sûr" in page.inner_text("#verdict") and page.locator("html").get_attribute("lang") == "fr"
    page.goto(server)  # another visit
    page.get_by_text("De quelle race").wait_for()
    page.wait_for_selector("#sent > *", state="attached")
    assert not page.locator("#verdict .banner").is_visible()
    send(page, tmp_path / "dog.png")
    assert "Sûr" in page.inner_text("#verdict")
    assert not context.cookies()
    context.close()


def test_a_link_to_the_page_shows_the_project(server):
    with urllib.request.urlopen(f"{server}/?lang=fr") as reply:
        head = reply.read().decode().partition("</head>")[0]
    found = dict(re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)"', head))
    assert found["og:title"] == "De quelle race est ce chien ?" and "120" in found["og:description"]
    assert found["og:url"] == f"{server}/"
    assert not [value for name, value in found.items() if "gradio" in value.lower() or "{" in value]
    with urllib.request.urlopen(found["og:image"]) as reply:
        assert Image.open(io.BytesIO(reply.read())).size == (1200, 630)


@pytest.mark.slow
def test_many_photos_are_answered_by_the_model_that_is_chosen(page, tmp_path):
    make_photo(1, 1).save(tmp_path / "dog.png")
    page.get_by_role("button", name="ViT").click()
    page.get_by_label("mobilenet_v2").check()
    page.get_by_role("tab", name="Many photos").click()
    page.set_input_files("#files input[type=file]", [tmp_path / "dog.png"])
    page.wait_for_selector("a.download")
    assert "mobilenet_v2" in page.inner_text("#review .model")


def many(tmp_path, num_photos=12) -> list[Path]:
    """Photos of four breeds, a text, and a name that a spreadsheet would run."""
    for number in range(num_photos):
        make_photo(number % 4, number).save(tmp_path / f"photo {number:03}.png")
    make_photo(1, 1).save(tmp_path / "=cmd|' (1).png")
    (tmp_path / "notes.txt").write_text("Rex, 3 years")
    return sorted(tmp_path.iterdir())


def downloaded(page, link="a.download >> nth=0") -> list[dict[str, str]]:
    """The rows of a CSV file that a link saves."""
    with page.expect_download() as download:
        page.locator(link).click()
    return list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8-sig"), newline="")))


def shown(page, part: str, section: str = "") -> list[str]:
    """What a part of each card says that is shown, perhaps of one section alone."""
    cards = page.locator(f"#review section{section} li:visible .{part}")
    return cards.all_text_contents()  # also of those that are out of sight


def widths_of_pictures(page) -> dict[str, int]:
    """Of each card, by its file; 0 where it has no picture."""
    return page.evaluate(
        """async () => Object.fromEntries(await Promise.all([...document.querySelectorAll("#review li")].map(
            async (card) => {
                const picture = card.querySelector("img");
                await picture.decode().catch(() => {});
                return [card.querySelector(".file").textContent, picture.naturalWidth];
            })))"""
    )


def review_many(page, french: bool, files: list[Path]) -> None:
    """Choose files and wait until all are answered."""
    page.get_by_role("tab", name="Plusieurs photos" if french else "Many photos").click()
    page.set_input_files("#files input[type=file]", files)
    page.wait_for_selector("a.download")


def test_many_photos_become_cards_to_sort_filter_and_download(either_page, uploads, language, tmp_path):
    page, french = either_page, language == "fr"
    review_many(page, french, many(tmp_path))
    assert page.locator("#status").get_attribute("role") == "status"
    assert re.search("Photos (answered: 14; .*: 1|traitées : 14 ; .* : 1)", page.inner_text("#status"))
    assert_accessible(page)
    rows = downloaded(page)
    assert [row["file"] for row in rows] == ["'=cmd|' (1).png", "notes.txt", *(f"photo {n:03}.png" for n in range(12))]
    assert rows[0]["breed"] == "Shih-Tzu" and float(rows[0]["probability"]) > 0.5 and rows[0]["verdict"] == "confident"
    assert "not a photo" in rows[1]["error"] and rows[1]["breed"] == ""
    assert not [file for file in uploads.rglob("*.png") if file.name.startswith("photo")]  # deleted as they are read
    # By verdict, and each photo once.
    assert shown(page, "file", "[data-verdict=error]") == ["notes.txt"]
    assert len(shown(page, "file")) == 14
    page.wait_for_function("document.querySelector('#review li img').naturalWidth === 56")  # the picture is there
    for row in rows[2:]:
        assert row["file"] in shown(page, "file", f"[data-verdict={row['verdict']}]")
    page.get_by_role("searchbox").fill("GOLDEN")
    assert set(shown(page, "answer")) == {"Golden retriever"}
    assert {row["breed"] for row in downloaded(page)} == {"Golden retriever"}
    page.get_by_role("searchbox").fill("")
    page.locator("[name=shown]").select_option("error")
    assert shown(page, "file") == ["notes.txt"] and "1" in page.inner_text("#review .shown")
    page.locator("[name=shown]").select_option("confident")
    in_order, breeds = shown(page, "file"), shown(page, "answer")
    assert in_order == sorted(in_order) and len(set(breeds)) > 1
    heads = {head: page.locator(f"#review [data-sort={head}]") for head in ("file", "answer", "probability")}
    heads["answer"].press("Enter")
    assert shown(page, "answer") == sorted(breeds)
    assert [head.get_attribute("aria-pressed") for head in heads.values()] == ["false", "true", "false"]
    page.get_by_role("button", name="Race, de A à Z" if french else "Breed, A to Z", pressed=True).press("Space")
    assert shown(page, "answer") == sorted(breeds, reverse=True)
    assert page.evaluate("document.activeElement.dataset.order") == "down"
    heads["file"].click()
    assert shown(page, "file") == in_order
    heads["file"].click()
    assert shown(page, "file") == in_order[::-1]
    for head in ("least sure first", "surest first") if not french else ("les moins sûres", "les plus sûres"):
        heads["probability"].click()
        assert head in heads["probability"].get_attribute("aria-label")
        percents = [int(re.match(r"\d+", said)[0]) for said in shown(page, "remark")]
        assert percents == sorted(percents, reverse=head in ("surest first", "les plus sûres"))
    assert all(
        box["x"] + box["width"] <= page.viewport_size["width"]
        for box in (card.bounding_box() for card in page.locator("#review li:visible").all())
    )


@pytest.mark.slow
def test_what_a_person_says_of_the_photos_is_data_for_evaluate_and_calibrate(page, tiny_run, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    sent = []
    review_many(page, False, many(folder))
    page.on("request", lambda request: sent.append(request.url) if not request.url.startswith("blob:") else None)
    page.locator("#review li", has_text="photo 002.png").get_by_role("button", name="Right").press("Space")  # Beagle
    page.locator("#review li", has_text="=cmd").get_by_role("button", name="Right").click()
    first = page.locator("#review li:visible .open").first
    first.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert_accessible(page)
    names = {}
    for label in ("Japanese_spaniel", "/other-photos", "/other-dogs"):
        while (name := dialog.locator("h2").inner_text()) in {"photo 002.png", "=cmd|' (1).png"}:
            dialog.get_by_role("button", name="Next").click()
        dialog.get_by_label("It shows").select_option(label)
        names[label] = name
        dialog.get_by_role("button", name="Next").click()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('#review .open')")
    assert "→ Japanese Chin (Japanese spaniel)" in page.inner_text(
        f"#review li:has-text('{names['Japanese_spaniel']}')"
    )
    assert "Checked: 5, of which corrected: 3." in page.inner_text("#review .checked")
    page.locator("[name=shown]").select_option("corrected")
    assert sorted(shown(page, "file")) == sorted(names.values())
    # Beside the photos, the lists are data.
    for name in ("labels", "other-photos", "other-dogs"):
        with page.expect_download() as download:
            page.locator(f"#review a[download='{name}.csv']").click()
        download.value.save_as(folder / f"{name}.csv")
    assert not sent
    labels = read_dataset(str(folder / "labels.csv"))["train"]
    assert {name: labels.names[label] for name, label in zip(labels.ids, labels.labels, strict=True)} == {
        "photo 002.png": "Beagle",
        "./=cmd|' (1).png": "Shih-Tzu",
        names["Japanese_spaniel"]: "Japanese spaniel",
    }
    for kind in ("other-photos", "other-dogs"):
        assert photo_files(folder / f"{kind}.csv") == [folder / names[f"/{kind}"]]
    evaluate = [sys.executable, "-m", "dogbreeds", "evaluate", "--data", folder / "labels.csv", "--run-dir", SHIPPED]
    done = subprocess.run([*evaluate, "--json"], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["n"] == 3, done.stderr


def drop_files(page, to: str, *paths: Path) -> None:
    """As from the file manager: also folders can be dropped."""
    box, session = page.locator(to).bounding_box(), page.context.new_cdp_session(page)
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


@pytest.mark.slow
def test_a_folder_in_place_of_one_photo_is_told(page, tmp_path):
    (tmp_path / "photos").mkdir()
    make_photo(2, 77).save(tmp_path / "photos/dog.png")
    drop_files(page, "h1", tmp_path / "photos")
    page.wait_for_selector(PROBLEM)
    assert "drop the folder under “Many photos”" in page.inner_text(PROBLEM)
    drop_files(page, "h1", tmp_path / "photos/dog.png")
    page.wait_for_selector("#verdict .confident")
    assert not page.locator(PROBLEM).count()


@pytest.mark.parametrize("how", ["chosen", "dropped", "dropped with another"])
@pytest.mark.slow
def test_lists_of_a_folder_say_where_in_it_each_photo_is(page, tmp_path, how):
    names = ["a/0.png", "a/1.png", "b/0.png", "b/c/0.png"]
    folder = tmp_path / "photos"
    for label, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_photo(label, 1).save(folder / name)
    (folder / ".hidden.png").touch()
    page.get_by_role("tab", name="Many photos").click()
    page.wait_for_selector("#files input[type=file]", state="attached")
    if how == "chosen":
        page.set_input_files(FOLDER, folder)
    elif how == "dropped":
        drop_files(page, "h1", folder)
    else:
        drop_files(page, "#files", folder / "a", folder / "b")
    page.wait_for_selector("a.download")
    assert page.locator("#review li").count() == 4
    for right in page.locator("#review li .right:visible").all():
        right.click()
    with page.expect_event("dialog") as asked:
        page.on("dialog", lambda dialog: dialog.dismiss())
        page.set_input_files(FOLDER, folder)  # another choice would replace what is not saved
    assert "not saved" in asked.value.message
    saved = [
        f"#review [download='{each.get_attribute('download')}']" for each in page.locator("[data-kind]:visible").all()
    ]
    assert sorted(row["path"] for each in saved for row in downloaded(page, each)) == names


@pytest.mark.parametrize("where", ["#files", "h1"])
@pytest.mark.parametrize(
    ("chosen", "waits"),
    [("files", UPLOAD), ("folder", UPLOAD), ("files", ANSWERS)],
    ids=["sent", "sent as a folder", "answered"],
)
@pytest.mark.slow
def test_what_is_dropped_while_other_photos_are_sent_or_answered_is_left(page, tmp_path, chosen, waits, where):
    for number, name in enumerate(("photos", "others")):
        (tmp_path / name).mkdir()
        make_photo(number, 1, (400 + 100 * number, 300)).save(tmp_path / name / "dog.png")
    sent = []
    page.on("request", lambda request: sent.append(request.url) if UPLOAD.search(request.url) else None)
    page.get_by_role("tab", name="Many photos").click()
    photo = tmp_path / "photos/dog.png"
    box = (FOLDER, photo.parent) if chosen == "folder" else ("#files input[type=file]", photo)
    request = held(page, waits, lambda: page.set_input_files(*box))
    file_event(page, tmp_path / "others/dog.png", to=where, kind="drop")
    drop_files(page, where, tmp_path / "others")
    request.continue_()
    page.wait_for_selector("a.download")
    assert len(sent) == page.locator("#review li").count() == 1
    assert page.locator("body").get_attribute("data-photo") is None  # which would be of the other tab
    page.locator("#review li .open").click()
    picture = page.get_by_role("dialog").locator("img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 400


def wait_until_failed(page, french: bool) -> None:
    page.locator("#status").get_by_text("pas toutes été traitées" if french else "Not all of these photos").wait_for()
    assert not page.locator("#stop").is_visible() and page.locator("#folder").is_enabled()
    page.locator(".toast-body").wait_for(state="detached", timeout=5_000)  # in which gradio says something of its own


@pytest.mark.slow
def test_a_list_that_is_refused_is_told_and_not_sent_with_the_next_one(failing_page, language, tmp_path):
    page, french = failing_page, language == "fr"
    make_photo(2, 1).save(tmp_path / "dog.png")
    make_photo(1, 1).save(tmp_path / "other.png")
    page.get_by_role("tab", name="Plusieurs photos" if french else "Many photos").click()
    page.route("**/queue/join**", lambda route: route.fulfill(status=503, json={"detail": "no"}))
    page.set_input_files("#files input[type=file]", tmp_path / "dog.png")
    wait_until_failed(page, french)
    page.unroute_all()
    page.set_input_files("#files :not(.icon-mode) > input", tmp_path / "other.png")
    page.wait_for_selector("a.download")
    assert shown(page, "file") == ["other.png"]


@pytest.mark.slow
def test_of_a_list_that_ends_in_an_error_what_was_answered_can_be_saved(failing_page, language, tmp_path):
    page, french = failing_page, language == "fr"
    for number in range(9):
        make_photo(number % 4, number).save(tmp_path / f"{number}.png")

    def cut_short(route) -> None:
        """Without the last photo, and with an error in place of the end."""
        reply = route.fetch()
        messages = [json.loads(part.removeprefix("data: ")) for part in reply.text().split("\n\n") if part]
        part = [each for each in messages if each["msg"] == "process_generating"][:3]
        end = {"msg": "process_completed", "event_id": part[0]["event_id"], "output": {"error": None}, "success": False}
        body = "".join(f"data: {json.dumps(each)}\n\n" for each in (*part, end, {"msg": "close_stream"}))
        route.fulfill(response=reply, body=body)

    page.route("**/queue/data*", cut_short)
    page.get_by_role("tab", name="Plusieurs photos" if french else "Many photos").click()
    page.set_input_files("#files input[type=file]", sorted(tmp_path.iterdir()))
    wait_until_failed(page, french)
    assert [row["file"] for row in downloaded(page)] == [f"{number}.png" for number in range(8)]
    page.unroute_all()
    page.set_input_files("#files :not(.icon-mode) > input", tmp_path / "8.png")
    page.locator("#status").get_by_text("traitées : 1" if french else "answered: 1").wait_for()


@pytest.mark.slow
def test_a_check_that_is_taken_back_is_nothing_to_be_saved(page, tmp_path):
    make_photo(2, 1).save(tmp_path / "dog.png")
    review_many(page, False, [tmp_path / "dog.png"])
    right = page.locator("#review li .right")
    right.click()
    right.click()
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.set_input_files("#files input[type=file]", [tmp_path / "dog.png"])
    page.locator("#review li .right[aria-pressed=false]").wait_for()
    page.wait_for_selector("a.download")
    assert not asked


@pytest.mark.slow
def test_every_photo_has_a_picture_whatever_its_format_and_name(page, tmp_path):
    from pillow_heif import from_pillow

    photo = make_photo(2, 1, (400, 300))
    names = ("a.jpg", "b.png", "c.webp", "d.gif", "e.bmp", "f.tiff", "g.ppm", "h.avif", "i.heic", "j.jpg", "k.jpg", "l")
    kinds = {".jpg": "JPEG", "": "PNG", ".heic": "HEIF"}
    for name in names:
        suffix = Path(name).suffix
        kind = {"j.jpg": "HEIF", "k.jpg": "TIFF"}.get(name) or kinds.get(suffix) or suffix[1:]
        from_pillow(photo).save(tmp_path / name) if kind == "HEIF" else photo.save(tmp_path / name, kind)
    (tmp_path / "m.jpg").write_text("Rex, 3 years")
    (tmp_path / "n.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-4000])
    review_many(page, False, sorted(tmp_path.iterdir()))
    # Of a photo that is cut short, the server has no picture, but the browser shows what there is.
    assert widths_of_pictures(page) == {**dict.fromkeys(names, 320), "m.jpg": 0, "n.jpg": 400}
    assert [picture.is_visible() for picture in page.locator("#review [data-verdict=error] img").all()] == [False, True]
    page.locator("#review li .open").first.click()
    dialog = page.get_by_role("dialog")
    for number, _ in enumerate(names):
        name = dialog.locator("h2").inner_text()
        page.wait_for_function("document.querySelector('#review dialog img').naturalWidth > 0")
        width = dialog.locator("img").evaluate("image => image.naturalWidth")
        # The photo as it was sent; in place of what the browser can't show, the picture of the card.
        assert width == (320 if name in {"f.tiff", "g.ppm", "i.heic", "j.jpg", "k.jpg"} else 400), name
        if number + 1 < len(names):
            dialog.get_by_role("button", name="Next").click()


def held_back(page) -> list:
    """The streams of answers, each of which arrives at once from now on, as through a proxy that keeps it back."""
    streams = []

    def at_once(route) -> None:
        streams.append(route.fetch())
        route.fulfill(response=streams[-1])

    page.route("**/queue/data*", at_once)
    return streams


@pytest.mark.slow
def test_every_photo_has_a_picture_when_all_answers_arrive_at_once(page, tmp_path):
    from pillow_heif import from_pillow

    for number in range(10):
        from_pillow(make_photo(number, 1, (400, 300))).save(tmp_path / f"{number}.heic")
    streams = held_back(page)
    review_many(page, False, sorted(tmp_path.iterdir()))
    assert streams
    page.wait_for_function(
        "[...document.querySelectorAll('#review li img')].filter(picture => picture.naturalWidth === 320).length === 10"
    )


@pytest.mark.slow
def test_each_photo_has_its_own_picture_when_the_tab_is_hidden_and_shown_meanwhile(page, tmp_path):
    from pillow_heif import from_pillow

    widths = {f"{number}.heic": 200 + 10 * number for number in range(10)}
    for number, (name, width) in enumerate(
        widths.items()
    ):  # which the browser can't show: the pictures are the server's
        from_pillow(make_photo(number, 1, (width, 200))).save(tmp_path / name)
    page.evaluate(  # as if the tab were hidden and shown between any two messages
        """() => {
            let hidden = false;
            const get = () => (hidden = !hidden) ? "visible" : "hidden";
            Object.defineProperty(Document.prototype, "visibilityState", { get });
        }"""
    )
    streams = held_back(page)
    review_many(page, False, sorted(tmp_path.iterdir()))
    assert streams and widths_of_pictures(page) == widths


@pytest.mark.parametrize("language", ["en", "fr"])
@pytest.mark.slow
def test_the_review_and_its_dialog_can_be_used_by_everyone_and_by_finger(either_page, language, tmp_path):
    page, french = either_page, language == "fr"
    review_many(page, french, many(tmp_path, 4))
    page.locator("#review li .right:visible").first.click()
    page.locator("#review [data-sort=answer]").click()
    controls = "#review :is(button, a, select, [type=search]):visible"
    assert page.locator(controls).count() > 15
    assert_for_fingers(page, controls)
    assert_accessible(page)
    page.locator("#review li:visible .open").first.click()
    assert_for_fingers(page, "#review dialog :is(button, select):visible")
    assert_accessible(page)


@pytest.mark.slow
def test_stopping_keeps_what_was_answered(page, tmp_path):
    make_photo(2, 1, (320, 240)).save(tmp_path / "0.png")
    for number in range(1, 80):
        shutil.copy(tmp_path / "0.png", tmp_path / f"{number}.png")
    page.get_by_role("button", name="ViT").click()
    page.get_by_label("mobilenet_v2").check()  # slower than the small ViT, which may answer all before it is stopped
    page.get_by_role("tab", name="Many photos").click()
    page.evaluate(  # in the page, since all may be answered before a click from here arrives
        """() => new MutationObserver((_, observer) => {
            const stop = document.querySelector("#stop");
            if (stop && document.querySelector("#status progress")?.value > 0) {
                observer.disconnect();
                stop.click();
            }
        }).observe(document.body, {attributes: true, childList: true, subtree: true})"""
    )
    page.set_input_files("#files input[type=file]", sorted(tmp_path.iterdir()))
    page.get_by_text("Stopped").wait_for()
    answered = int(re.search(r"Stopped. Photos answered: (\d+)", page.inner_text("#status")).group(1))
    assert 0 < answered < 80
    assert len(downloaded(page)) == answered == page.locator("#review li").count()
    page.wait_for_timeout(1500)
    assert str(answered) in page.inner_text("#status")  # nothing goes on behind


def test_people_who_ask_at_the_same_time_get_their_own_answers(server, tmp_path):
    from gradio_client import Client, handle_file

    client, jobs = Client(server, verbose=False), []
    for number in range(12):
        make_photo(number % 3, number).save(tmp_path / f"{number}.png")
        model = "tiny" if number % 4 else "mobilenet_v2"
        jobs.append((number, model, client.submit(handle_file(tmp_path / f"{number}.png"), model, api_name="/predict")))
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    broken = client.submit(handle_file(tmp_path / "broken.png"), "tiny", api_name="/predict")
    for number, model, job in jobs:
        answer = job.result()
        assert answer["model"] == model and answer["error"] is None and 0 < answer["seconds"] < 60
        if model == "tiny":
            assert answer["breeds"][0]["breed"] == ("Chihuahua", "Shih-Tzu", "Beagle")[number % 3]
    assert "incomplete" in broken.result()["error"] and broken.result()["verdict"] is None


@pytest.mark.slow
def test_programs_get_typed_answers_as_the_page_shows_them(browser, server, language, tmp_path):
    with opened(browser, server, language) as page:
        page.get_by_text("S'en servir depuis un programme" if language == "fr" else "Use it from a program").click()
        page.wait_for_selector("#program code")
        python, curl = (block.text_content() for block in page.locator("#program pre code").all())
    make_photo(2, 3).save(tmp_path / "dog.jpg", quality=95)
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count("'Beagle'") >= 2 and "'agree': False" in done.stdout
    done = subprocess.run(["bash", "-c", curl], cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.split("data: ")[1])[0]
    assert answer["breeds"][0]["breed"] == "Beagle" and answer["model"] == "tiny" and answer["verdict"] == "confident"


def test_endpoints_are_named_and_typed_and_no_others_are_described(server):
    with urllib.request.urlopen(f"{server}/gradio_api/info") as reply:
        endpoints = json.load(reply)["named_endpoints"]
    assert set(endpoints) == {"/predict", "/compare"}
    (returned,) = endpoints["/predict"]["returns"]
    assert {"verdict", "breeds", "candidates", "group", "model", "seconds", "error", "dogs", "decided_by"} == set(
        returned["type"]["properties"]
    )
    (returned,) = endpoints["/compare"]["returns"]
    assert {"answers", "agree", "error"} == set(returned["type"]["properties"])


def test_programs_are_told_that_each_dog_is_answered(server):
    with urllib.request.urlopen(f"{server}/gradio_api/info") as reply:
        described = json.load(reply)["named_endpoints"]["/predict"]["description"]
    assert "each of several" in described


def test_the_page_can_be_installed(server):
    with urllib.request.urlopen(f"{server}/manifest.json") as reply:
        manifest = json.load(reply)
    assert manifest["name"] == "Dog breeds" and manifest["display"] == "standalone"
    with urllib.request.urlopen(f"{server}{manifest['icons'][0]['src']}") as reply:
        assert b"<svg" in reply.read() and reply.headers["content-type"].startswith("image/svg")


def test_what_the_page_does_not_need_is_not_served(server):
    for path in ("/monitoring", "/gradio_api/file=/etc/passwd", f"/gradio_api/file={ROOT / 'app.py'}"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(server + path)
        assert error.value.code in (401, 403, 404)


@pytest.fixture
def refusal(monkeypatch, capsys):
    """What app.py says of arguments with which it does not start."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["app.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
        said = capsys.readouterr()
        assert stop.value.code == 2 and not said.out
        return said.err

    return run


def test_a_port_in_use_is_one_line(server, tiny_run, refusal):
    port = server.rsplit(":", 1)[1]
    assert refusal("--run-dir", tiny_run, "--port", port) == f"error: port {port} is in use: give another with --port\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid is no address of this machine"),
        (["--host", "192.0.2.1", "--port", "7999"], "--host 192.0.2.1 is no address of this machine"),
        (["--port", "70000"], "--port 70000: must be from 1 to 65535"),
    ],
)
def test_an_address_that_can_not_be_served_is_one_line(arguments, words, refusal):
    told = refusal(*arguments)
    assert words in told and told.count("\n") == 1


def test_the_help_names_the_models_that_answer():
    told = runpy.run_path(str(ROOT / "app.py"))["__doc__"]
    assert all(run.name in told for run in SHIPPED_RUNS) and f"{SHIPPED_RUNS[0].name} answers" in told


@pytest.mark.parametrize("key", ["", " \n"])
def test_an_access_key_that_is_empty_is_one_line_and_opens_nothing(key, refusal, monkeypatch):
    monkeypatch.setenv("DOGBREEDS_ACCESS_KEY", key)
    monkeypatch.setattr("dogbreeds.serving.server.run", lambda *_: None)  # where it would serve
    told = refusal()
    assert told.startswith("error: DOGBREEDS_ACCESS_KEY is empty: set it to a key") and told.count("\n") == 1


def test_a_missing_run_folder_is_one_line(tmp_path, refusal):
    told = refusal("--run-dir", tmp_path / "nothing")
    assert "no run folder" in told and told.count("\n") == 1
