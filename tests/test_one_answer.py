"""A photo gets one answer, whoever asks for it and how: command line, table, page, and endpoint for programs."""

import csv
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import ExifTags, Image
from pillow_heif import register_heif_opener

from dogbreeds.images import JPEG_SIDE, open_image
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.uploads import store_copy
from tests.served_page import served_page

MAX_DIFFERENCE = 0.005
"""Between the probabilities of a breed, in any two ways."""
NUM_PHOTOS = 50


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def deep(image: Image.Image) -> Image.Image:
    """16 bits of grey."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def with_holes(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


KINDS = [
    (".jpg", {"quality": 90}, None),
    (".jpg", {"quality": 75, "progressive": True}, None),
    (".jpg", {"quality": 95, "subsampling": 0, "exif": turned(6)}, None),
    (".jpg", {"exif": turned(3)}, None),
    (".jpg", {"exif": turned(5), "comment": b"at home"}, None),
    (".jpg", {"quality": 90}, "CMYK"),
    (".jpg", {}, "L"),
    (".png", {}, None),
    (".png", {}, with_holes),
    (".png", {"transparency": 0}, "P"),
    (".png", {}, deep),
    (".png", {}, "1"),
    (".webp", {"quality": 80}, None),
    (".webp", {"lossless": True, "method": 0}, with_holes),
    (".gif", {}, None),
    (".gif", {"transparency": 3}, "P"),
    (".bmp", {}, None),
    (".bmp", {}, "L"),
    (".tiff", {"compression": "tiff_lzw"}, None),
    (".tiff", {}, "CMYK"),
    (".tiff", {}, deep),
    (".ppm", {}, None),
    (".heic", {"quality": 80, "enc_params": {"preset": "ultrafast"}}, None),
    (".heic", {"quality": 60, "enc_params": {"preset": "ultrafast"}}, with_holes),
    (".avif", {"quality": 70, "speed": 10}, None),
]
"""The ending, the options, and the mode or what makes the picture."""


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Coloured blots with an edge and a grain, on which the shipped models have no firm opinion."""
    rng = np.random.default_rng(seed)
    blots = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.integers(-30, 31, (size[1], size[0], 1), np.int16)
    stripes = 25 * (np.arange(size[0], dtype=np.int16) // (6 + seed % 9) % 2)[None, :, None]
    return Image.fromarray((np.asarray(blots) + grain + stripes).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """A small and a large photo of each kind, no two of a size."""
    register_heif_opener()
    folder = tmp_path_factory.mktemp("photos")
    for number, (ending, options, mode) in enumerate(KINDS):
        large = (2300, 2081) if number == 2 else (1100 + 11 * number, 1041 + 3 * number)  # at least twice what is kept
        for place, size in enumerate([(211 + 17 * number, 477 - 11 * number), large]):
            image = picture(2 * number + place, size)
            image = mode(image) if callable(mode) else image.convert(mode) if mode else image
            image.save(folder / f"{2 * number + place:02}{ending}", **options)
    return sorted(folder.iterdir())


def differences(answers: dict[str, dict[str, float]], others: dict[str, dict[str, float]]) -> dict[str, float]:
    """By file of the second, the largest difference of the probabilities that both name."""
    found = {}
    for name, breeds in others.items():
        common = breeds.keys() & answers[name].keys()
        assert common, f"{name}: {breeds} and {answers[name]}"
        found[name] = max(abs(breeds[breed] - answers[name][breed]) for breed in common)
    return found


class Visitor:
    """Asks the server as a browser or a program does, each time from another address: the rate is limited."""

    def __init__(self, server: str, number: int) -> None:
        self._to, self._source = server.removeprefix("http://"), (f"127.0.0.{2 + number % 200}", 0)

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        connection = HTTPConnection(self._to, timeout=60, source_address=self._source)
        try:
            connection.request(method, "/gradio_api/" + path, body, {"Content-Type": kind})
            reply = connection.getresponse()
            content = reply.read()
            assert reply.status == 200, content
            return content
        finally:
            connection.close()

    def upload(self, path: Path) -> dict:
        head = f'--B\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
        body = head.encode() + path.read_bytes() + b"\r\n--B--\r\n"
        (place,) = json.loads(self.request("POST", "upload", body, "multipart/form-data; boundary=B"))
        return {"path": place, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def call(self, endpoint: str, *data: object) -> dict:
        event = json.loads(self.request("POST", f"call/{endpoint}", json.dumps({"data": data}).encode()))["event_id"]
        return json.loads(self.request("GET", f"call/{endpoint}/{event}").decode().split("data: ")[1])[0]

    def show(self, session: str, function: int, photo: dict, model: str) -> dict[str, float]:
        """What the page shows as bars."""
        asked = {"data": [photo, model], "fn_index": function, "session_hash": session}
        self.request("POST", "queue/join", json.dumps(asked).encode())
        said = self.request("GET", f"queue/data?session_hash={session}").decode().split("data: ")
        (done,) = (event for event in map(json.loads, said[1:]) if event["msg"] == "process_completed")
        *_, details = done["output"]["data"]
        bars = re.findall(r'class="name">([^<]+)<.*?style="width: ([\d.]+)%', details)
        return {name: float(width) / 100 for name, width in bars}


def as_answer(breeds: list[dict]) -> dict[str, float]:
    return {candidate["breed"]: candidate["probability"] for candidate in breeds}


def on_the_command_line(run: Path, photos: list[Path]) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "dogbreeds", "predict", "--run-dir", run, "--json", *photos]
    said = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    answers = map(json.loads, said.splitlines())
    return {Path(answer["path"]).name: as_answer(answer["breeds"]) for answer in answers}


def in_a_table(run: Path, photos: list[Path], output: Path) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "dogbreeds", "index", photos[0].parent, "--output", output, "--run-dir", run]
    subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, check=True)
    with output.open(newline="") as file:
        return {
            row["path"]: {row[f"breed{rank}"]: float(row[f"probability{rank}"]) for rank in ("", "_2", "_3")}
            for row in csv.DictReader(file)
        }


def by_a_visit(server: str, functions: int, models: list[str], number: int, path: Path) -> dict[str, dict[str, float]]:
    """The answers of the endpoints and of the page, which is then asked for another model, and for the first again."""
    visitor = Visitor(server, number)
    answers, photo = {}, visitor.upload(path)
    if number % 2:
        answers[f"{models[0]}, predict"] = as_answer(visitor.call("predict", photo, models[0])["breeds"])
    else:
        for answer in visitor.call("compare", photo)["answers"]:
            answers[f"{answer['model']}, compare"] = as_answer(answer["breeds"])
    photo = visitor.upload(path)
    for turn, model in enumerate([*models, models[0]]):
        answers[f"{model}, page, turn {turn}"] = visitor.show(f"{number}", functions, photo, model)
    return answers


@pytest.mark.slow
def test_a_photo_has_one_answer_in_every_way(photos, tiny_run, tmp_path):
    assert len(photos) == NUM_PHOTOS
    runs = {DEFAULT_RUN.name: DEFAULT_RUN, "tiny": tiny_run}
    with served_page([sys.executable, "app.py", "--run-dir", *runs.values()]) as (server, _):
        connection = HTTPConnection(server.removeprefix("http://"))
        connection.request("GET", "/config")
        config = json.loads(connection.getresponse().read())
        (function,) = (each["id"] for each in config["dependencies"] if each["api_name"] == "show")
        visit = partial(by_a_visit, server, function, list(runs))
        with ThreadPoolExecutor(4) as pool:
            visits = dict(zip((path.name for path in photos), pool.map(visit, range(len(photos)), photos), strict=True))
    found = {}
    for model, run in runs.items():
        expected = on_the_command_line(run, photos)
        ways = {f"{model}, index": in_a_table(run, photos, tmp_path / f"{model}.csv")}
        for way in dict.fromkeys(chain.from_iterable(visits.values())):
            if way.startswith(model):
                ways[way] = {name: answers[way] for name, answers in visits.items() if way in answers}
        assert len(ways) == (3 if model == "tiny" else 5)
        for way, answers in ways.items():
            found |= {(way, name): each for name, each in differences(expected, answers).items()}
    worst = sorted(found.items(), key=lambda item: -item[1])
    assert worst[0][1] <= MAX_DIFFERENCE, worst[:12]


@pytest.mark.parametrize(
    "view", [Preprocessing(260), pytest.param(Preprocessing(224), marks=pytest.mark.slow), Preprocessing(32, "squash")]
)
@pytest.mark.slow
def test_how_a_photo_was_opened_changes_no_pixel(view, photos, tmp_path):
    for path in photos[::3]:
        seen = view(open_image(path, at_least=view.decoded_side))
        copy = store_copy(path, tmp_path, at_least=max(JPEG_SIDE, view.decoded_side))
        assert np.array_equal(view(open_image(copy, at_least=view.decoded_side)), seen), path.name
        assert path.suffix == ".jpg" or np.array_equal(view(open_image(path)), seen), path.name
