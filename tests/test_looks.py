"""Where each look at a photo goes, what several looks say together, and how many a run takes."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import copy_without_outputs, make_photo
from PIL import Image

from dogbreeds.calibration import Calibration, dog_score
from dogbreeds.looks import MAX_PROPORTION, MIN_SIDE, SPREADS, WEIGHT, Look, closer_box, combined, first_box, next_box
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.run_folder import RunFolder
from dogbreeds.serving.predictor import Predictor

PHOTO = (300, 200)
CENTRE = (50.0, 0.0, 250.0, 200.0)
NUM_PLACES = 8
"""On a side of the heat maps here, each 25 pixels of the centre square."""


def look_at(*places: tuple[int, int], box=CENTRE, num_classes: int = 3) -> Look:
    """A look in which one class is seen at these places (row, column)."""
    heat_map = np.zeros((num_classes, NUM_PLACES, NUM_PLACES), np.float32)
    for place in places:
        heat_map[(1, *place)] = 5
    return Look(box, heat_map.mean((1, 2)), heat_map=heat_map)


@pytest.mark.parametrize(
    ("place", "centre"),
    [
        ((4, 0), (62.5, 112.5)),
        ((4, 7), (237.5, 112.5)),
        ((3, 3), (137.5, 87.5)),
        ((0, 0), (62.5, 30)),  # as near as a square within the photo can be, whose half is 30 pixels
        ((7, 7), (237.5, 170)),
    ],
)
def test_a_closer_look_is_around_the_hottest_place(place, centre):
    left, top, right, bottom = closer_box(look_at(place), PHOTO, SPREADS[0])
    side = MIN_SIDE * 200
    assert (right - left, bottom - top) == pytest.approx((side, side))
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx(centre)


def test_what_speaks_for_any_class_counts():
    one, other = look_at((2, 2)), look_at((2, 6))
    both = replace(one, heat_map=one.heat_map + other.heat_map[[1, 2, 0]])  # the other is of another class
    left, top, right, bottom = closer_box(both, PHOTO, SPREADS[0])
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((50 + 25 * 4.5, 100))  # between both
    assert right - left == 200


def test_the_side_of_a_look_follows_the_spread():
    spread = np.std(np.arange(4))  # of four columns, in columns
    places = [(row, column) for row in range(2, 6) for column in range(2, 6)]
    small = look_at(*places, box=(500, 0, 2500, 2000))  # each column is 250 pixels
    for spreads in SPREADS:
        left, _, right, _ = closer_box(small, (3000, 2000), spreads)
        assert right - left == pytest.approx(250 * spread * spreads)
        left, _, right, _ = closer_box(replace(small, box=(0, 0, 200, 200)), (3000, 2000), spreads)
        assert right - left == MIN_SIDE * 2000, "not less than the smallest side"
        left, _, right, _ = closer_box(look_at((0, 0), (7, 7)), PHOTO, spreads)
        assert right - left == 200, "not more than the photo's shorter side"
    assert SPREADS[1] < SPREADS[0], "the third look is closer than the second"


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_flat_heat_map_gives_the_largest_square(noise):
    heat_map = 20 + noise * np.random.default_rng(0).standard_normal((3, 7, 7)).astype(np.float32)
    for size, box in (
        ((300, 200), CENTRE),
        ((200, 300), (0.0, 50.0, 200.0, 250.0)),
        ((64, 64), (0.0, 0.0, 64.0, 64.0)),
    ):
        assert closer_box(Look(box, np.zeros(3), heat_map=heat_map), size, SPREADS[1]) == pytest.approx(box)


def test_every_closer_look_is_a_square_within_the_photo():
    rng = np.random.default_rng(0)
    for _ in range(500):
        width, height = rng.integers(1, 3000, 2).tolist()
        short = min(width, height)
        box = first_box(
            (width, height), ((width - short) / 2, (height - short) / 2, (width + short) / 2, (height + short) / 2)
        )
        sides = rng.integers(1, 15, 2)
        heat_map = rng.normal(0, rng.choice([0, 1e-9, 1, 1e4]), (4, *sides)).astype(np.float32)
        for spreads in SPREADS:
            box = closer_box(Look(box, np.zeros(4), heat_map=heat_map), (width, height), spreads)
            assert np.isfinite(box).all()
            left, top, right, bottom = box
            assert right - left == pytest.approx(bottom - top)
            assert MIN_SIDE * short - 1e-6 <= right - left <= short + 1e-6
            assert left >= 0 and top >= 0 and right <= width + 1e-6 and bottom <= height + 1e-6


def test_the_first_look_at_a_wide_photo_is_at_all_of_it():
    assert first_box((300, 200), CENTRE) == CENTRE  # 3 : 2, as cameras have it
    assert first_box((301, 200), CENTRE) == (0, 0, 301, 200)
    assert first_box((90, 160), (0, 35, 90, 125)) == (0, 0, 90, 160)
    assert first_box((200, 200), (0, 0, 200, 200)) == (0, 0, 200, 200) and MAX_PROPORTION == 1.5


def test_looks_are_averaged_by_their_dog_scores():
    dog = Look(CENTRE, np.array([12.0, 0, 0, 0], np.float32), np.array([1.0, 3], np.float32))
    lawn = Look(CENTRE, np.array([0.0, 0, 1, 0], np.float32), np.array([1.0, -3], np.float32))
    alone = combined([dog])
    assert np.array_equal(alone.logits, dog.logits[None]) and np.array_equal(alone.features, dog.features[None])
    both = combined([dog, lawn])
    assert both.logits.shape == (1, 4) and both.features.shape == (1, 2)
    assert both.features[0, 0] == pytest.approx(1), "the weights sum to 1"
    least = np.exp(WEIGHT * (0.75 - 9))  # the dog scores are 9 and 0.75
    assert both.logits[0] == pytest.approx([12 / (1 + least), 0, least / (1 + least), 0], rel=1e-5)
    assert least < 0.02, "it hardly counts"
    assert combined([dog, dog, dog]).logits[0] == pytest.approx(dog.logits)
    assert combined([dog, replace(dog, logits=1000 * dog.logits)]).logits[0, 0] == pytest.approx(12000)
    assert combined([replace(dog, features=None)]).features is None


def calibration_with(sure_margin: float | None, seen_score: float | None = None) -> Calibration:
    return Calibration(1.0, 0.0, 0.8, sure_margin=sure_margin, seen_score=seen_score)


def test_one_more_look_is_for_answers_that_are_not_sure():
    look = replace(look_at((2, 2)), logits=np.array([1.0, 7.5, 5.0]))  # it leads by 2.5, its dog score is 3
    sure, unsure = calibration_with(2.5), calibration_with(2.6)
    assert next_box([look], PHOTO, sure) is None
    assert next_box([look], PHOTO, unsure) == closer_box(look, PHOTO, SPREADS[0])
    assert next_box([replace(look, heat_map=None)], PHOTO, unsure) is None
    assert next_box([look], PHOTO, calibration_with(None, 99.0)) is None


def test_a_third_look_is_for_dogs_that_are_hardly_seen():
    look = replace(look_at((2, 2)), logits=np.array([1.0, 7.5, 5.0]))
    assert dog_score(look.logits[None]) == [3]
    last = replace(look, heat_map=look_at((6, 6)).heat_map)
    assert next_box([look, last], PHOTO, calibration_with(2.6, 3.0)) is None, "the dog is seen"
    assert next_box([look, last], PHOTO, calibration_with(2.6)) is None, "a run of before takes two"
    assert next_box([look, last], PHOTO, calibration_with(2.5, 3.1)) is None, "the answer is sure"
    assert next_box([look, last], PHOTO, calibration_with(2.6, 3.1)) == closer_box(last, PHOTO, SPREADS[1])
    assert next_box([look, look, look], PHOTO, calibration_with(2.6, 3.1)) is None


def test_a_second_look_is_at_a_small_dog():
    look = replace(look_at((2, 2)), logits=np.array([1.0, 7.5, 5.0]))
    sure, unsure = calibration_with(2.5), calibration_with(2.6, 3.1)
    pointed_at = closer_box(look, PHOTO, SPREADS[0])
    small, large = (200.0, 0.0, 260.0, 60.0), (50.0, 0.0, 130.0, 60.0)  # 9 and 12 % of the first look
    assert next_box([look], PHOTO, unsure, lambda: small) == small
    assert next_box([look], PHOTO, unsure, lambda: large) == next_box([look], PHOTO, unsure, lambda: None) == pointed_at

    def detector_runs():
        raise AssertionError("nobody needs to know where the dog is")

    assert next_box([look], PHOTO, sure, detector_runs) is None
    assert next_box([look, look], PHOTO, unsure, detector_runs) == closer_box(look, PHOTO, SPREADS[1])


class Counted:
    """A network that counts how many photos each of its calls has."""

    def __init__(self, network) -> None:
        self.network, self.batches = network, []

    def run(self, names, pixels):
        self.batches.append(len(pixels))
        return self.network.run(names, pixels)


def predictor_with(run_dir, sure_margin: float | None, seen_score: float | None = None) -> Predictor:
    run = RunFolder.open(run_dir)
    calibration = replace(run.calibration, sure_margin=sure_margin, seen_score=seen_score)
    predictor = Predictor(replace(run, record=replace(run.record, calibration=calibration)))
    predictor._network = Counted(predictor._network)
    return predictor


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Each with its breed in one part, before another."""
    sizes = [(96, 80), (80, 96), (400, 90), (90, 300), (90, 90), (320, 240), (93, 200), (90, 61)]
    found = []
    for label, size in enumerate(sizes):
        photo = make_photo(label + 1, 700, size)
        photo.paste(make_photo(label, 700, (40, 40)), ((size[0] - 40) * (label % 3) // 2, (size[1] - 40) * (label % 2)))
        found.append(photo)
    return found


@pytest.mark.parametrize(
    ("sure_margin", "seen_score", "num_looks"),
    [(1e6, 1e6, 3), (1e6, 0.0, 2), (1e6, None, 2), (0.0, 1e6, 1), (None, 1e6, 1)],
)
def test_a_photo_gets_as_many_looks_as_its_answer_needs(sure_margin, seen_score, num_looks, tiny_run, photos):
    predictor = predictor_with(tiny_run, sure_margin, seen_score)
    for ask in (predictor.predict_images, predictor.outputs, predictor.answer_images):
        predictor._network.batches.clear()
        ask(photos)
        assert predictor._network.batches == [len(photos)] * num_looks


def test_a_photo_is_looked_at_where_the_detector_finds_a_small_dog(tiny_run, photos, monkeypatch):
    seen = []

    def find(photo, num_threads):
        seen.append(photo)
        return 10.0, 5.0, 20.0, 15.0

    boxes = []
    preprocess = Preprocessing.__call__
    monkeypatch.setattr("dogbreeds.serving.predictor.likeliest_dog", find)
    monkeypatch.setattr(
        Preprocessing, "__call__", lambda self, photo, box=None: boxes.append(box) or preprocess(self, photo, box)
    )
    predictor_with(tiny_run, 1e6).outputs(photos[:1])
    assert len(seen) == 1 and boxes[1] == (10, 5, 20, 15)
    predictor_with(tiny_run, 0.0).outputs(photos[:1])
    assert len(seen) == 1, "an answer that is sure does not ask where the dog is"


def test_photos_are_answered_together_as_they_are_alone(tiny_run, photos):
    logits = np.sort(predictor_with(tiny_run, None).outputs(photos).logits)
    leads, seen_score = logits[:, -1] - logits[:, -2], float(np.median(dog_score(logits)))
    predictor = predictor_with(tiny_run, float(np.median(leads)), seen_score)
    together = predictor.predict_images(photos)
    batches = list(predictor._network.batches)
    assert batches[0] == len(photos) > batches[1] >= 1, "some photos are looked at again, some are not"
    outputs = predictor.outputs(photos)
    for number, photo in enumerate(photos):
        (alone,) = predictor.predict_images([photo])
        answer = together[number]
        assert (alone.verdict, alone.region) == (answer.verdict, pytest.approx(answer.region))
        assert alone.probabilities == pytest.approx(answer.probabilities, abs=1e-5)
        assert alone.heat_map == pytest.approx(answer.heat_map, abs=1e-4)
        assert predictor.outputs([photo]).features[0] == pytest.approx(outputs.features[number], abs=1e-4)
        assert all(0 <= share <= 1 + 1e-9 for share in answer.region)
    wide = predictor_with(tiny_run, 0.0).predict_images(photos)[2]
    assert wide.region == (0, 0, 1, 1)


def test_a_run_without_heat_maps_takes_one_look(tiny_run, photos, tmp_path):
    run = copy_without_outputs(tiny_run, tmp_path / "run", "heat_map")
    predictor = predictor_with(run, 1e6, 1e6)
    answers = predictor.predict_images(photos)
    assert predictor._network.batches == [len(photos)]
    assert all(answer.heat_map is None for answer in answers)
    expected = predictor_with(tiny_run, None).predict_images(photos)
    for answer, same in zip(answers, expected, strict=True):
        assert answer.region == same.region and answer.probabilities == pytest.approx(same.probabilities, abs=1e-5)
