"""Photos of several dogs: the page's own drawings beside each other."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import drawings_beside, run_cli
from PIL import Image

from dogbreeds.errors import UserError
from dogbreeds.machine import num_cores
from dogbreeds.run_folder import PRETRAINED
from dogbreeds.serving import dog_detector
from dogbreeds.serving.every_dog import predict_every_dog
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import several_dogs
from dogbreeds.serving.page.texts import ENGLISH, FRENCH
from dogbreeds.serving.predictor import Predictor

RUN = PRETRAINED / "mobilenet_v2"


@pytest.fixture(scope="module")
def predictor():
    return Predictor(RUN)


@pytest.fixture
def two_dogs() -> Image.Image:
    return drawings_beside("white_dog", "shaggy_dog")


def holds(box, left, right) -> bool:
    """Whether a box covers most of a part of the photo, and nothing beside it."""
    return left <= box[0] < box[2] <= right and box[2] - box[0] > (right - left) / 2 and box[3] - box[1] > 0.7


def test_each_dog_has_a_box_and_the_answer_that_it_has_alone(predictor, two_dogs, tmp_path, monkeypatch, capsys):
    two_dogs.save(tmp_path / "two.png")
    drawings_beside("white_dog").save(tmp_path / "one.png")
    arguments = ("predict", tmp_path / "two.png", tmp_path / "one.png", "--run-dir", RUN)
    status, printed, _ = run_cli(monkeypatch, capsys, *arguments, "--json")
    two, one = map(json.loads, printed.splitlines())
    assert status == 0 and "dogs" not in one
    whole = predictor.predict_images([two_dogs, drawings_beside("white_dog")])
    assert [two["verdict"], one["verdict"]] == [answer.verdict for answer in whole], "the photo as a whole, as before"
    first, second = two["dogs"]
    assert holds(first["box"], 0, 0.5) and holds(second["box"], 0.5, 1)
    assert first.keys() == {"box", "verdict", "breeds", "candidates", "group"}
    for dog, name in ((first, "white_dog"), (second, "shaggy_dog")):
        assert dog["breeds"][0]["breed"] == predictor.predict_images([drawings_beside(name)])[0].breeds[0].breed
    _, printed, _ = run_cli(monkeypatch, capsys, *arguments)
    lines = printed.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"{tmp_path / 'two.png'}, dog 1 of 2 from the left",
        f"{tmp_path / 'two.png'}, dog 2 of 2 from the left",
        str(tmp_path / "one.png"),
    ]
    assert first["breeds"][0]["breed"] in lines[0] and second["breeds"][0]["breed"] in lines[1]


@pytest.mark.parametrize("names", [("white_dog",), ("cat", "white_dog"), ("cat", "cat")])
def test_with_fewer_than_two_dogs_nothing_changes(predictor, names):
    photo = drawings_beside(*names)
    (whole,) = predictor.predict_images([photo])
    answer = predictor.predict(photo)
    assert answer.dogs == () and answer.to_dict() == whole.to_dict() and answer.region == whole.region


def test_what_the_classifier_calls_no_dog_is_kept_if_the_detector_is_sure(predictor, two_dogs, monkeypatch):
    def no_dogs(photos):
        return [replace(answer, verdict="not_a_dog") for answer in predictor.predict_images(photos)]

    monkeypatch.setattr(dog_detector, "SURE_SCORE", 0.0)
    assert [dog.prediction.verdict for dog in predict_every_dog(two_dogs.copy(), no_dogs).dogs] == ["not_a_dog"] * 2
    monkeypatch.setattr(dog_detector, "SURE_SCORE", 1.0)
    assert predict_every_dog(two_dogs.copy(), no_dogs).dogs == ()


def test_the_heat_map_of_a_dog_lies_in_its_box(predictor, two_dogs):
    for dog in predictor.predict(two_dogs).dogs:
        (left, top), (right, bottom) = np.array(dog.box).reshape(2, 2)
        region = dog.prediction.region
        assert left - 1e-9 <= region[0] < region[2] <= right + 1e-9
        assert top - 1e-9 <= region[1] < region[3] <= bottom + 1e-9


def test_people_who_ask_at_the_same_time_share_batches_for_their_dogs_too(predictor, two_dogs):
    models = ModelSet([predictor])
    together = models.predict(models.names[0], two_dogs)
    alone = predictor.predict(two_dogs)
    assert len(together.dogs) == 2
    for one, other in zip(together.dogs, alone.dogs, strict=True):
        assert one.box == other.box and one.prediction.verdict == other.prediction.verdict
    assert models.compare(two_dogs)[models.names[0]].dogs == (), "side by side, the photo as a whole"


@pytest.mark.parametrize("size", [(1, 1), (3000, 12), (12, 3000), (500_000, 1), (40, 40)])
def test_a_photo_of_any_shape_is_looked_at_in_the_same_memory(size):
    photo = Image.new("RGB", size, "gray")
    assert dog_detector.dog_detector().find(photo) == []
    assert dog_detector._pixels(photo)[0, 0].size <= 1.1 * dog_detector.NUM_PIXELS


def test_all_who_use_as_many_cores_share_a_detector():
    shared = dog_detector.dog_detector()
    assert dog_detector.dog_detector(None) is dog_detector.dog_detector(num_cores()) is shared
    assert dog_detector.dog_detector(num_cores() + 1) is not shared


def test_a_photo_is_searched_once_while_it_is_open(two_dogs, monkeypatch):
    detector = dog_detector.DogDetector(num_threads=1)
    searched = []
    search = detector._search
    monkeypatch.setattr(detector, "_search", lambda photo: searched.append(id(photo)) or search(photo))
    copy = two_dogs.copy()
    assert detector.find(copy) == detector.find(copy) and searched == [id(copy)]
    assert detector.find(two_dogs) == detector.find(copy) and len(searched) == 2
    del copy
    assert set(detector._known) == {id(two_dogs)}


def test_of_boxes_of_the_same_dog_the_best_is_kept():
    dog, shifted, head, beside = [0, 0, 100, 100], [30, 20, 130, 120], [20, 10, 60, 50], [90, 0, 190, 100]
    boxes, scores = np.array([beside, shifted, head, dog], float), np.array([0.5, 0.7, 0.6, 0.8])
    assert boxes[dog_detector._distinct(boxes, scores)].tolist() == [dog, beside]
    touching = np.array([0.2, 0.3, 0.3, 0.8])
    assert boxes[dog_detector._distinct(boxes, touching)].tolist() == [dog], "what is beside a dog has to be seen well"
    assert dog_detector._distinct(np.zeros((0, 4)), np.zeros(0)) == []


def test_no_more_than_a_dozen_dogs_are_answered(monkeypatch, two_dogs):
    monkeypatch.setattr(dog_detector, "MAX_DOGS", 1)
    assert len(dog_detector.dog_detector().find(two_dogs)) == 1


def test_a_damaged_detector_is_named_in_one_line(monkeypatch, tmp_path):
    damaged = tmp_path / "nanodet_g.onnx"
    damaged.write_bytes(dog_detector.MODEL.read_bytes()[:-1])
    for path in (damaged, tmp_path / "missing.onnx"):
        monkeypatch.setattr(dog_detector, "MODEL", path)
        with pytest.raises(UserError, match="is missing or damaged: install the project again"):
            dog_detector.DogDetector(num_threads=1)


def test_the_conversion_takes_the_published_files_alone(tmp_path):
    from dogbreeds.training.convert_detector import convert

    (tmp_path / "nanodet.json").write_text("{}")
    with pytest.raises(UserError, match=r"nanodet\.json' is missing, or its SHA-256 is not 4495eb0e"):
        convert(tmp_path, tmp_path / "nanodet_g.onnx")


def test_the_page_shows_the_first_dog_and_holds_the_others(predictor, two_dogs):
    answer = predictor.predict(two_dogs)
    for html in (
        several_dogs.headline(answer, 120, FRENCH),
        several_dogs.picture(answer, {None: two_dogs}, ENGLISH),
        several_dogs.details(answer, "vit", ENGLISH),
    ):
        assert set(re.findall(r'data-dog="(\d)"( hidden)?>', html)) == {("1", ""), ("2", " hidden")}
    assert "Chien 2 sur 2 depuis la gauche" in several_dogs.headline(answer, 120, FRENCH)
    picture = several_dogs.picture(answer, {None: two_dogs}, ENGLISH)
    assert "2 dogs: choose one" in picture and picture.count('type="radio"') == 2 and picture.count(" checked>") == 2
    assert re.findall(r'data-box="(\d)"', picture) == ["2", "1"], "the smaller lies above the larger"
    without = replace(
        answer, dogs=tuple(replace(d, prediction=replace(d.prediction, heat_map=None)) for d in answer.dogs)
    )
    assert "checkbox" not in several_dogs.picture(without, {None: two_dogs}, ENGLISH)
