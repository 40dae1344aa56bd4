"""Photos that are cut out of others."""

import numpy as np
import pytest
from conftest import run_cli, scene
from PIL import Image, ImageEnhance

from dogbreeds.files import read_json
from dogbreeds.training.datasets.cropped_copies import find_cropped_copies

NUM_PHOTOS = 6
"""Few enough for each to be compared with each, whatever their features are."""
BOXES = {
    "large": (0.1, 0.05, 0.9, 0.95),
    "small": (0.3, 0.2, 0.85, 0.75),
    "narrow": (0.3, 0.1, 0.85, 0.9),
    "wide": (0.05, 0.3, 0.95, 0.8),
}
"""Left, top, right and bottom of a part."""


@pytest.fixture
def sources(tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(NUM_PHOTOS)]
    for number, path in enumerate(paths):
        scene(number, (320, 240)).save(path)
    return paths


def features(num: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, 8)).astype(np.float32)


@pytest.mark.parametrize("name", BOXES)
def test_a_part_is_found_and_told_from_its_whole(sources, name):
    whole = Image.open(sources[4])
    left, top, right, bottom = BOXES[name]
    cut = whole.crop((int(320 * left), int(240 * top), int(320 * right), int(240 * bottom)))
    ImageEnhance.Brightness(cut).enhance(0.7).save(sources[1], quality=70)
    assert find_cropped_copies(sources, features(NUM_PHOTOS)) == [(4, 1)]


def test_other_photos_are_not_parts(sources):
    assert find_cropped_copies(sources, features(NUM_PHOTOS)) == []
    Image.new("RGB", (320, 240), "grey").save(sources[0])  # plain photos fit into each
    Image.new("RGB", (200, 200), "white").save(sources[1])
    sources[2].write_bytes(b"no photo any more")
    assert find_cropped_copies(sources, features(NUM_PHOTOS)) == []
    assert find_cropped_copies(sources[:1], features(1)) == []


def test_photos_that_no_feature_joins_are_not_compared(sources, monkeypatch):
    monkeypatch.setattr("dogbreeds.training.datasets.cropped_copies._NUM_NEIGHBOURS", 1)
    Image.open(sources[4]).crop((30, 20, 290, 220)).save(sources[1])
    twice = [*sources, *sources[::-1]]  # 12 photos, of which 4 and 7 are wholes, 1 and 10 parts
    near = np.random.default_rng(0).normal(0, 0.01, (12, 8))
    apart, together = ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], [0, 1, 0, 2, 1, 2, 3, 4, 3, 4, 5, 5])
    for groups, expected in ((apart, []), (together, [(4, 1)])):
        assert find_cropped_copies(twice, (near + np.eye(6, 8)[groups]).astype(np.float32)) == expected


@pytest.mark.slow
def test_the_doctor_names_them(tmp_path, monkeypatch, capsys):
    for breed, first in (("beagle", 0), ("pug", 20)):
        (tmp_path / "data" / breed).mkdir(parents=True)
        for number in range(12):
            scene(first + number, (320, 240)).save(tmp_path / "data" / breed / f"{number}.jpg")
    whole = Image.open(tmp_path / "data" / "beagle" / "2.jpg")
    whole.crop((40, 30, 280, 215)).save(tmp_path / "data" / "pug" / "3.jpg")
    arguments = ["doctor", "--data", tmp_path / "data", "--image-size", 64, "--labels-by", "vit_nano"]
    status, out, _ = run_cli(monkeypatch, capsys, *arguments, "--output", tmp_path / "found.json")
    assert status == 1 and "1 photos are cut out of one of another breed: keep the right breed's" in out
    (finding,) = [each for each in read_json(tmp_path / "found.json")["findings"] if each["kind"].startswith("cropped")]
    assert [photo["id"] for photo in finding["photos"]] == ["beagle/2.jpg", "pug/3.jpg"]
    assert finding["detail"] == "Beagle, Pug; the second is a part of the first"
