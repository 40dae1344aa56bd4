"""The page without a server: its modules beside those of Python, and the page as its visitor meets it."""

import base64
import io
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import stand_in_hub
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT, drawings_beside, make_photo, run_cli, scene
from huggingface_hub import metadata_load
from onnx import helper, numpy_helper
from PIL import Image
from stand_in_hub import StandInHub, use_hub

from dogbreeds.answers import answers
from dogbreeds.errors import UserError
from dogbreeds.images import halved, open_image
from dogbreeds.looks import Look, combined, next_box
from dogbreeds.run_folder import DEFAULT_RUN, RunFolder
from dogbreeds.serving import dog_detector, every_dog, heat_map
from dogbreeds.serving.dog_detector import DogDetector, Found
from dogbreeds.serving.page.head import PICTURES
from dogbreeds.serving.page.texts import ENGLISH, FRENCH
from dogbreeds.serving.prediction import Prediction
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.publish import publish_static
from dogbreeds.serving.static_page import runtime as npm
from dogbreeds.serving.static_page.build import build
from dogbreeds.serving.static_page.packed_weights import LOCATION, pack_weights
from dogbreeds.serving.static_page.runtime import Runtime
from tests.static_page import SEVERAL_THREADS, BrowserPredictor, served

KEPT = [texts.static_page["kept"] for texts in (ENGLISH, FRENCH)]
CHOOSE = "input[type=file]:not([capture])"


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """The npm package; where npm or the network is missing the test skips, but fails in CI."""
    try:
        content = npm.download()
    except UserError as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))
    file = tmp_path_factory.mktemp("npm") / "onnxruntime-web.tgz"
    file.write_bytes(content)
    return file


@pytest.fixture(scope="module")
def published(tiny_run, archive, tmp_path_factory):
    """The folder of the small model."""
    folder = tmp_path_factory.mktemp("static") / "tiny"
    publish_static(tiny_run, onnxruntime_web=archive, dry_run=folder)
    return folder


@pytest.fixture(scope="module")
def modules(browser, tmp_path_factory):
    """Runs code that uses the modules of the default run's page on values; in `given`, arrays are Float32Array."""
    folder = tmp_path_factory.mktemp("modules")
    build(RunFolder.open(DEFAULT_RUN), Runtime(script=b"", wasm=b""), folder)
    with served(folder) as (address, _):
        page = browser.new_page()
        page.goto(f"{address}/model.json")
        page.evaluate(
            """async () => {
                window.model = await (await fetch("model.json")).json();
                window.bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
                window.unpacked = (value) => Array.isArray(value) ? value.map(unpacked)
                    : value?.float32 ? new Float32Array(bytes(value.float32).buffer)
                    : value?.file ? new Blob([bytes(value.file)]) : value;
                window.base64 = (values) => new Promise((resolve) => {
                    const reader = new FileReader();
                    reader.onload = () => resolve(reader.result.split(",")[1]);
                    reader.readAsDataURL(new Blob([values]));
                });
            }"""
        )

        def call(code, *arguments):
            names = ["calibration", "looks", "answers", "heat_map", "view", "photos", "dog_detector", "every_dog"]
            imports = ", ".join(f"import('./{name}.js')" for name in names)
            script = (
                f"const [{', '.join(names)}] = await Promise.all([{imports}]); const given = unpacked(packed); {code}"
            )
            return page.evaluate(f"async (packed) => {{ {script} }}", to_browser(list(arguments)))

        yield call
        page.close()


def to_browser(value):
    if isinstance(value, np.ndarray):
        return {"float32": base64.b64encode(value.astype("<f4").tobytes()).decode()}
    if isinstance(value, bytes):
        return {"file": base64.b64encode(value).decode()}
    return [to_browser(each) for each in value] if isinstance(value, list | tuple) else value


def from_browser(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.fixture(scope="module")
def default_run():
    return RunFolder.open(DEFAULT_RUN)


def file_of(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


OPENED = "const photo = await photos.openPhoto(given[0], model.photo);"


@pytest.mark.parametrize(
    ("size", "box"),
    [((300, 261), None), ((1201, 1700), None), ((90, 120), None), ((333, 500), (10.3, 20.7, 300.1, 310.5))],
)
def test_a_look_has_the_same_pixels(modules, default_run, size, box):
    content = file_of(scene(1, size))
    image = open_image(content, at_least=default_run.preprocessing.decoded_side)
    expected = default_run.preprocessing(image, box)
    code = "const box = given[1] ?? view.region(model.view, photo.width, photo.height);"
    found = modules(f"{OPENED} {code} return base64(view.pixelValues(model.view, photo, box));", content, box)
    assert np.array_equal(from_browser(found, "<f4").reshape(expected.shape), expected)


@pytest.mark.parametrize("turn", [None, 6, 3])
def test_a_photo_is_opened_upright_and_on_white(modules, turn):
    image = scene(2, (64, 40))
    if turn is None:  # transparent below
        image.putalpha(Image.fromarray(np.repeat(np.array([255] * 20 + [0] * 20, np.uint8)[:, None], 64, axis=1)))
        content = file_of(image)
    else:
        exif = Image.Exif()
        exif[0x0112] = turn
        content = file_of(image, exif=exif)
    expected = np.asarray(open_image(content))
    width, height, data = modules(f"{OPENED} return [photo.width, photo.height, await base64(photo.data)];", content)
    assert np.array_equal(from_browser(data, np.uint8).reshape(height, width, 4)[..., :3], expected)


def random_look(rng, num_labels, box):
    stands_out = rng.uniform(0, 9)
    logits = rng.normal(0, 1, num_labels).astype(np.float32)
    logits[rng.integers(num_labels)] += stands_out
    features = rng.normal(0, 1, 1280).clip(0).astype(np.float32)
    return Look(box, logits, features, rng.normal(0, 1, (num_labels, 9, 9)).astype(np.float32))


def test_looks_verdicts_and_candidates_are_those_of_the_server(modules, default_run):
    rng, size = np.random.default_rng(0), (640, 480)
    verdicts, num_boxes, num_small_dogs = set(), 0, 0
    for num_looks in [1, 2, 3] * 10:
        looks = [random_look(rng, 120, (80.0, 0.0, 560.0, 480.0)) for _ in range(num_looks)]
        outputs = combined(looks)
        (expected,) = answers(outputs, default_run.calibration, default_run.labels)
        dog = [None, (10.0, 20.0, 90.0, 70.0), (0.0, 0.0, 300.0, 200.0)][rng.integers(3)]
        box = next_box(looks, size, default_run.calibration, lambda dog=dog: dog)
        given = [[look.box, look.logits, look.features, look.heat_map] for look in looks]
        found = modules(
            """
            const looked = given[0].map(([box, logits, features, data]) => ({
              box, logits, features, heatMap: { width: 9, height: 9, data } }));
            const outputs = looks.combined(looked, model.looks);
            const probabilities = calibration.probabilities(outputs.logits, model.calibration);
            return {
              ...answers.answer(probabilities, calibration.verdict(outputs, model.calibration), model),
              box: await looks.nextBox(
                looked, { width: 640, height: 480 }, model.calibration, model.looks, async () => given[1]),
            };""",
            given,
            dog,
        )
        assert (found["verdict"], found["group"]) == (expected.verdict, expected.group)
        for name in ("breeds", "candidates"):
            assert [each["name"] for each in found[name]] == [each.breed for each in getattr(expected, name)]
        assert found["breeds"][0]["probability"] == pytest.approx(expected.breeds[0].probability, abs=1e-5)
        assert (found["box"] is None) == (box is None)
        if box is not None:
            assert found["box"] == pytest.approx(box, abs=1e-3)
        verdicts.add(expected.verdict)
        num_boxes += box is not None
        num_small_dogs += box is not None and box == dog
    assert len(verdicts) > 2 and 0 < num_small_dogs < num_boxes < 30


@pytest.mark.parametrize("size", [(300, 261), (1201, 1700), (90, 120), (1500, 40), (1, 1)])
def test_the_dog_detector_sees_the_same_pixels(modules, default_run, size):
    content = file_of(scene(4, size))
    expected = dog_detector._pixels(open_image(content, at_least=default_run.preprocessing.decoded_side))
    width, height, pixels = modules(
        f"{OPENED} const seen = dog_detector.detectorView(photo, model.dog_detector);"
        "return [seen.width, seen.height, await base64(seen.pixels)];",
        content,
    )
    assert (height, width) == expected.shape[2:]
    assert np.array_equal(from_browser(pixels, "<f4").reshape(expected.shape), expected)


class RandomOutputs:
    """In place of the detector's network: it finds something in so many cells of a photo of 448 x 448 pixels."""

    def __init__(self, rng: np.random.Generator, num_found: int) -> None:
        num = 56**2 + 28**2 + 14**2
        self.scores, self.dog_scores = rng.uniform(0, 0.15, (2, 1, num)).astype(np.float32)
        self.distances = rng.normal(0, 3, (1, num, 4, 11)).astype(np.float32)
        found = rng.choice(num, num_found, replace=False)
        self.scores[0, found], self.dog_scores[0, found] = rng.uniform(0.2, 1, (2, num_found))

    def run(self, names, inputs):
        assert inputs["pixel_values"].shape == (1, 3, 448, 448)
        return [getattr(self, name) for name in names]


def test_what_the_dog_detector_finds_becomes_the_same_dogs(modules, monkeypatch):
    detector, photo, nums = DogDetector(num_threads=1), Image.new("RGB", (600, 600)), []
    for num_found in (1, 3, 6, 12, 60):
        outputs = RandomOutputs(np.random.default_rng(num_found), num_found)
        monkeypatch.setattr(detector, "_session", outputs)
        expected = detector._search(photo)
        found, likeliest = modules(
            """
            const [scores, dogScores, distances] = given;
            let num = 0;
            const network = async () => { num += 1; return { scores, dogScores, distances }; };
            const find = dog_detector.dogFinder(network, model.dog_detector);
            const photo = { width: 600, height: 600, data: new Uint8Array(4 * 600 * 600) };
            const found = await find(photo);
            if (await find(photo) !== found || num !== 1) throw new Error("it searches a photo twice");
            return [found, dog_detector.likeliestDog(found)];""",
            outputs.scores[0],
            outputs.dog_scores[0],
            outputs.distances[0],
        )
        assert [each["isSure"] for each in found] == [each.is_sure for each in expected]
        for one, other in zip(found, expected, strict=True):
            assert one["box"] == pytest.approx(other.box, abs=1e-3)
            assert one["score"] == pytest.approx(other.score)
        best = max(expected, key=lambda each: each.score)
        assert likeliest == pytest.approx(best.box, abs=1e-3)
        nums.append(len(expected))
    assert max(nums) == dog_detector.MAX_DOGS and len(set(nums)) > 1
    assert modules("return dog_detector.likeliestDog([]);") is None


def test_each_of_several_dogs_is_answered_as_a_photo_of_its_own(modules, default_run, monkeypatch):
    photo, close_ups = scene(5, (700, 1300)), []
    boxes = [
        (0.0, 3.2, 90.7, 60.1),
        (20.5, 0.0, 680.0, 1250.4),
        (300.0, 900.0, 401.0, 990.0),
        (500.5, 7.0, 600.0, 70.0),
    ]
    found = [Found(box, is_sure, 0.5) for box, is_sure in zip(boxes, [True, False, False, True], strict=True)]
    regions = [(0.1 * number, 0.2, 0.9, 1.0) for number in range(5)]
    verdicts = ["unsure", "not_a_dog", "confident", "not_a_dog", "unsure"]

    def predict(photos):
        close_ups.extend(halved(each, default_run.preprocessing.decoded_side) for each in photos[1:])
        return [
            Prediction(verdict, (), (), None, probabilities=np.zeros(0), heat_map=None, region=region, seconds=0.0)
            for verdict, region in zip(verdicts, regions, strict=True)
        ]

    monkeypatch.setattr(DogDetector, "find", lambda *_: found)
    expected = every_dog.predict_every_dog(photo, predict).dogs
    code = """
        const photo = await photos.openPhoto(given[0], { at_least: 1e6, max_pixels: 1e9 });
        const seen = [], [boxes, areSure, verdicts, regions] = given.slice(1);
        const predict = async (image) => {
            seen.push(image);
            return { verdict: verdicts[seen.length], region: regions[seen.length] };
        };
        const found = boxes.map((box, i) => ({ box, isSure: areSure[i] }));
        const dogs = await every_dog.everyDog(photo, found, predict, model.photo.at_least);
        const alone = await every_dog.everyDog(photo, found.slice(0, 1), predict, model.photo.at_least);
        if (alone.length || seen.length !== boxes.length) throw new Error("one dog is no several");
        const shown = seen.map(async ({ width, height, data }) => [width, height, await base64(data)]);
        return [dogs, await Promise.all(shown)];"""
    content = file_of(photo)
    dogs, seen = modules(code, content, boxes, [each.is_sure for each in found], verdicts, regions)
    assert [(dog["verdict"], dog["box"], dog["region"]) for dog in dogs] == [
        (dog.prediction.verdict, pytest.approx(dog.box), pytest.approx(dog.prediction.region)) for dog in expected
    ]
    assert [dog["verdict"] for dog in dogs] == ["not_a_dog", "confident", "unsure"]
    for (width, height, data), image in zip(seen, close_ups, strict=True):
        assert (width, height) == image.size
        pixels = from_browser(data, np.uint8).reshape(height, width, 4)
        assert np.array_equal(pixels[..., :3], np.asarray(image)) and (pixels[..., 3] == 255).all()


def test_a_heat_map_has_the_same_colours(modules):
    values = np.random.default_rng(3).uniform(0, 1, (9, 9)).astype(np.float32)
    expected = np.asarray(heat_map.colours(values, (128, 128))).astype(int)
    code = "const map = { width: 9, height: 9, data: given[0] };"
    found = modules(f"{code} return base64(heat_map.colours(map, 128, model.heat_map));", values)
    assert abs(from_browser(found, np.uint8).reshape(expected.shape).astype(int) - expected).max() <= 1


def test_large_weights_have_20_bits_and_compute_in_float32(modules, tmp_path):
    rng = np.random.default_rng(0)
    large = rng.normal(0, 1, (128, 128)) * 10.0 ** rng.integers(-6, 6, (128, 1))  # each row of its own size
    large[5] = 0
    weights = {"large": large, "small": rng.normal(0, 1, (128, 4)), "row": rng.normal(0, 1, 20_000)}
    weights |= {"odd": rng.normal(0, 1, (101, 201)), "kernel": rng.normal(0, 1, (16, 128, 3, 3))}
    initializers = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    shapes = {"large": (128, 128), "odd": (101, 201), "kernel": (16, 128, 3, 3)}
    outputs = [helper.make_tensor_value_info(f"{name}_out", 1, shape) for name, shape in shapes.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in shapes]
    graph = helper.make_graph(nodes, "weights", [], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    packed = pack_weights(model.SerializeToString())
    num, num_rows = 128 * 128 + 101 * 201 + 16 * 128 * 9, 128 + 101 + 16
    assert len(packed.weights) == 4 * num_rows + 2 * num + -(-num // 2)
    assert len(packed.network) < len(model.SerializeToString()) - 4 * num + 1000

    (tmp_path / "model.onnx").write_bytes(packed.network)
    code = "const file = await given[0].arrayBuffer(); const { unpackedWeights } = await import('./weights.js');"
    found = modules(f"{code} return base64(unpackedWeights(file, given[1]));", packed.weights, packed.rows)
    (tmp_path / LOCATION).write_bytes(base64.b64decode(found))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for name, values in zip(shapes, session.run(None, {}), strict=True):
        expected, values = (each.reshape(len(each), -1) for each in (weights[name].astype(np.float32), values))
        step = np.abs(expected).max(axis=1, keepdims=True) / (2**19 - 1)
        assert values.dtype == np.float32 and not np.array_equal(values, expected)
        assert (np.abs(values - expected) <= 0.7 * step).all(), "half a step, and the rounding to float32"


@pytest.fixture(scope="module")
def published_default(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("static") / "default"
    publish_static(onnxruntime_web=archive, dry_run=folder)
    return folder


@pytest.mark.slow
def test_all_of_the_default_run_is_at_most_25_mb(published_default):
    assert sum(file.stat().st_size for file in published_default.iterdir()) < 25_000_000


@pytest.mark.parametrize("headers", [{}, SEVERAL_THREADS], ids=["one thread", "several threads"])
@pytest.mark.slow
def test_the_default_run_answers_as_on_a_server(browser, published_default, headers):
    photos = [(PICTURES / name).read_bytes() for name in ("white_dog.webp", "shaggy_dog.webp", "cat.webp")]
    if not headers:  # how a photo is cut has nothing to do with the threads
        photos += [file_of(scene(seed, size)) for seed, size in enumerate([(800, 300), (300, 800)])]
    photos += [file_of(drawings_beside(*names)) for names in (("white_dog", "white_dog"), ("cat", "white_dog"))]
    predictor = Predictor()
    with served(published_default, headers) as (address, _):
        page = browser.new_page()
        in_browser = BrowserPredictor(page, address)
        assert page.evaluate("crossOriginIsolated") == bool(headers)
        nums = set()
        for photo in photos:
            expected, found = predictor.predict(photo), in_browser.predict(photo)
            for dog, other in zip(found["dogs"], expected.dogs, strict=True):
                assert dog["box"] == pytest.approx(other.box, abs=0.01)
            pairs = zip([found, *found["dogs"]], [expected, *(dog.prediction for dog in expected.dogs)], strict=True)
            for one, other in pairs:
                assert one["verdict"] == other.verdict
                assert one["breeds"][0]["name"] == other.breeds[0].breed
                assert one["breeds"][0]["probability"] == pytest.approx(other.breeds[0].probability, abs=0.02)
                assert one["region"] == pytest.approx(other.region, abs=0.01)
                assert np.array(one["heatMap"]) == pytest.approx(other.heat_map.ravel(), abs=0.05)
            nums.add(len(found["dogs"]))
        page.close()
    assert nums == {0, 2}


def opened(context, address):
    """The page, when it is ready; errors in its console end up in `page.problems`."""
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_function("kept => kept.includes(document.querySelector('#device').textContent)", arg=KEPT)
    return page


def answer_to(page, photo):
    page.set_input_files(CHOOSE, photo)
    page.wait_for_selector("body[data-photo=answered], body[data-photo=failed]")
    return page.inner_text("#verdict" if page.get_attribute("body", "data-photo") == "answered" else "#problem")


def assert_accessible(page, width):
    assert not Axe().run(page).response["violations"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def headline_of(prediction, texts):
    if prediction.verdict == "confident":
        return texts.name(prediction.breeds[0].breed)
    return getattr(texts, prediction.verdict)


@pytest.mark.parametrize(
    ("language", "width", "scheme"), [("en", 1280, "light"), pytest.param("fr", 390, "dark", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_the_page_answers_in_airplane_mode_and_sends_nothing(
    browser, published, tiny_run, tmp_path, language, width, scheme
):
    texts = {"en": ENGLISH, "fr": FRENCH}[language]
    photo = tmp_path / "my dog (1), é.png"
    make_photo(2, 77, (300, 260)).save(photo)
    expected = headline_of(Predictor(tiny_run).predict(photo), texts)
    context = browser.new_context(
        locale={"en": "en-US", "fr": "fr-FR"}[language],
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
    )
    asked = []
    context.on("request", lambda request: asked.append((request.method, request.url)))
    with served(published) as (address, requests):
        page = opened(context, address)
        before = len(requests)
        assert expected in answer_to(page, photo)
        assert len(requests) == before, "the photo made a request"
        assert_accessible(page, width)
    context.set_offline(True)  # and the server is gone
    page.reload()
    assert page.inner_text("h1") == texts.title
    assert expected in answer_to(page, photo)
    assert {method for method, _ in [*asked, *requests]} == {"GET"}
    assert all(url.startswith((address, f"blob:{address}")) for _, url in asked)
    names = {path.partition("?")[0].strip("/") for _, path in requests}
    assert names <= {"", *(file.name for file in published.iterdir())}
    assert not page.problems
    context.close()


@pytest.mark.parametrize(("language", "width", "scheme"), [("en", 390, "dark"), ("fr", 1280, "light")])
@pytest.mark.slow
def test_of_several_dogs_each_is_answered_when_it_is_chosen(
    browser, published_default, tmp_path, language, width, scheme
):
    texts = {"en": ENGLISH, "fr": FRENCH}[language]
    drawings_beside("white_dog", "white_dog").save(tmp_path / "two.png")
    expected = [headline_of(dog.prediction, texts) for dog in Predictor().predict(tmp_path / "two.png").dogs]
    context = browser.new_context(locale=language, viewport={"width": width, "height": 844}, color_scheme=scheme)
    with served(published_default) as (address, _):
        opened(context, address).close()
    context.set_offline(True)  # the detector was kept too
    page = context.new_page()
    page.goto(address)
    answer_to(page, tmp_path / "two.png")
    page.wait_for_selector(".dogs input")
    said, boxes = page.locator("#verdict [data-dog]:visible"), page.locator("#picture [data-box]")
    for number in (1, 2):
        page.locator(f"#picture [data-box='{number}']").click()
        assert texts.dog_of.format(number, 2) in said.inner_text() and expected[number - 1] in said.inner_text()
        assert page.locator(".dogs input").nth(number - 1).is_checked()
        heat, box = (page.locator(each).bounding_box() for each in ("#picture .heat:visible", f"[data-box='{number}']"))
        assert box["x"] - 1 <= heat["x"] and heat["x"] + heat["width"] <= box["x"] + box["width"] + 1
        assert page.locator("#details .how:visible").count() == 1
    page.locator(".dogs input").nth(1).press("ArrowLeft")
    assert texts.dog_of.format(1, 2) in said.inner_text() and boxes.count() == 2
    assert all(label.bounding_box()["height"] >= 44 for label in page.locator(".dogs label").all())
    assert_accessible(page, width)
    context.close()


@pytest.mark.slow
def test_a_photo_that_another_one_follows_is_dropped(browser, published_default):
    photos = [drawings_beside("white_dog", "white_dog"), drawings_beside("cat")]
    with served(published_default) as (address, _):
        page = browser.new_page()
        BrowserPredictor(page, address)
        is_answered = page.evaluate(
            """async (packed) => {
                const [first, second] = packed.map((photo) =>
                    new Blob([Uint8Array.from(atob(photo), (character) => character.charCodeAt(0))]));
                let isAnswered = false;
                ask(1, first).then(() => { isAnswered = true; });
                await ask(2, second);
                return isAnswered;
            }""",
            [base64.b64encode(file_of(photo)).decode() for photo in photos],
        )
        page.close()
    assert not is_answered


@pytest.mark.slow
def test_the_page_can_be_installed_and_switches_its_language(browser, published):
    context = browser.new_context(locale="en-US")
    with served(published) as (address, _):
        page = opened(context, address)
        page.click("text=Français")
        page.wait_for_function("title => document.querySelector('h1').textContent === title", arg=FRENCH.title)
        page.goto(address)
        page.wait_for_function("title => document.querySelector('h1').textContent === title", arg=FRENCH.title)
        session = context.new_cdp_session(page)
        errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert {error["errorId"] for error in errors} <= {"in-incognito"}
    context.close()


@pytest.mark.slow
def test_what_is_no_photo_gets_a_sentence_and_the_next_photo_an_answer(browser, published, tmp_path):
    bad = {"empty": b"", "not_a_photo": b"a text", "cut": (ROOT / "dogbreeds/serving/page/icon.svg").read_bytes()[:100]}
    context = browser.new_context()
    with served(published) as (address, _):
        page = opened(context, address)
        for name, content in bad.items():
            (tmp_path / f"{name}.png").write_bytes(content)
            told = answer_to(page, tmp_path / f"{name}.png")
            assert ENGLISH.static_page["empty" if name == "empty" else "not_a_photo"] in told
            assert not page.is_visible("#picture *")
        make_photo(1, 1, (200, 200)).save(tmp_path / "good.png")
        page.evaluate("document.body.dataset.photo = ''")
        answer_to(page, tmp_path / "good.png")
        assert page.is_visible("#picture canvas")
    context.close()


@pytest.mark.slow
def test_a_browser_without_simd_and_a_model_cut_short_get_a_sentence(browser, published, tmp_path):
    cut = {}
    for name in ("model", "detector"):
        cut[name] = shutil.copytree(published, tmp_path / name)
        (file,) = cut[name].glob(f"{name}-*.onnx")
        file.write_bytes(file.read_bytes()[:-100])
    no_simd = "WebAssembly.validate = () => false"
    for script, folder, name in (
        (no_simd, published, "no_simd"),
        ("", cut["model"], "model_damaged"),
        ("", cut["detector"], "model_damaged"),
    ):
        context = browser.new_context()
        context.add_init_script(script)
        with served(folder) as (address, _):
            page = context.new_page()
            page.goto(address)
            page.wait_for_selector("body[data-photo=failed]")
            assert ENGLISH.static_page[name] in page.inner_text("#problem")
        context.close()


@pytest.mark.slow
def test_where_the_storage_is_full_it_answers_and_says_that_it_needs_a_connection(browser, published, tmp_path):
    context = browser.new_context()
    with served(published) as (address, _):
        page = context.new_page()
        context.new_cdp_session(page).send(
            "Storage.overrideQuotaForOrigin", {"origin": address, "quotaSize": 1_000_000}
        )
        page.goto(address)
        page.wait_for_selector(f"text={ENGLISH.static_page['not_kept']}")
        make_photo(1, 1, (200, 200)).save(tmp_path / "photo.png")
        answer_to(page, tmp_path / "photo.png")
        assert page.is_visible("#picture canvas")
    context.close()


@pytest.mark.slow
def test_a_new_version_replaces_what_is_kept(browser, published, tmp_path):
    site = shutil.copytree(published, tmp_path / "site")
    context = browser.new_context(locale="en-US")
    with served(site) as (address, _):
        opened(context, address).close()
        (model,) = site.glob("model-*.onnx")
        model.rename(site / "model-new.onnx")
        for name in ("model.json", "site.js"):
            (site / name).write_text((site / name).read_text().replace(model.name, "model-new.onnx"))
        page = opened(context, address)
        page.evaluate("async () => (await navigator.serviceWorker.getRegistration()).update()")
        page.wait_for_function("async () => Boolean(await caches.match('model-new.onnx'))")
        page.wait_for_function("async old => !(await caches.match(old))", arg=model.name)
    context.close()


@pytest.mark.slow
def test_it_is_pushed_as_a_static_space(tiny_run, archive, published, tmp_path, monkeypatch):
    # The Hub puts a page of its own into a new static Space.
    monkeypatch.setattr(stand_in_hub, "FIRST", {"index.html": b"hello", "style.css": b""})
    with StandInHub() as hub:
        use_hub(hub.address, tmp_path / "cache", monkeypatch)
        address = publish_static(tiny_run, repo_id="me/dogs", onnxruntime_web=archive)
        assert address == f"{hub.address}/spaces/me/dogs"
        space = hub.repositories["space", "me/dogs"]
        assert space.asked["sdk"] == "static"
        pushed = space.commits[space.newest]
    assert pushed == {file.name: file.read_bytes() for file in published.iterdir()}
    metadata = metadata_load(published / "README.md")
    assert metadata["sdk"] == "static" and (published / metadata["app_file"]).is_file()
    assert len(metadata["short_description"]) <= 60
    assert {
        name.title(): value for name, value in metadata["custom_headers"].items()
    }.items() >= SEVERAL_THREADS.items()


@pytest.mark.slow
def test_the_command_writes_the_folder_or_says_in_a_line_why_not(tiny_run, archive, tmp_path, monkeypatch, capsys):
    publish = ("publish", "static", "--model", tiny_run)
    status, _, told = run_cli(monkeypatch, capsys, *publish)
    assert status == 2 and "--repo-id USER/NAME pushes the page, --dry-run FOLDER writes it" in told
    written = (*publish, "--dry-run", tmp_path / "site", "--onnxruntime-web")
    status, out, _ = run_cli(monkeypatch, capsys, *written, archive)
    assert status == 0 and out == f"{tmp_path / 'site'}\n" and (tmp_path / "site/index.html").is_file()
    assert json.loads((tmp_path / "site/model.json").read_text())["name"] == tiny_run.name


def test_another_package_than_the_pinned_one_is_refused(tiny_run, tmp_path, monkeypatch):
    other = tmp_path / "other.tgz"
    other.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"other\.tgz' is not onnxruntime-web .* as published: `npm pack"):
        publish_static(tiny_run, onnxruntime_web=other, dry_run=tmp_path / "site")
    with pytest.raises(UserError, match="can't be read"):
        publish_static(tiny_run, onnxruntime_web=tmp_path / "missing.tgz", dry_run=tmp_path / "site")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(UserError, match=r"can't fetch onnxruntime-web.*install Node\.js, or name the file"):
        publish_static(tiny_run, dry_run=tmp_path / "site")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"is fetched with npm: install Node\.js"):
        publish_static(tiny_run, dry_run=tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_run_that_sees_photos_in_another_way_is_refused(tiny_run, tmp_path):
    run = RunFolder.open(tiny_run)
    for step in ("grayscale", "equalize", "blur"):
        other = replace(run, preprocessing=replace(run.preprocessing, **{step: True}))
        with pytest.raises(UserError, match=f"after the step {step}, which a static page can't do"):
            build(other, Runtime(script=b"", wasm=b""), tmp_path)
