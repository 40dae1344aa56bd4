import numpy as np
import pytest

from dogbreeds.answers import answer_rates, answers
from dogbreeds.calibration import Calibration, Outputs

LABELS = ("Norfolk terrier", "Norwich terrier", "Cairn terrier", "Pug", "Whippet", "my mongrel")
CALIBRATION = Calibration(temperature=1.0, not_a_dog_threshold=1.0, confident_threshold=0.8)


def outputs(*probabilities: float) -> Outputs:
    """Logits of these probabilities; what is left is shared by the others."""
    rest = (1 - sum(probabilities)) / (len(LABELS) - len(probabilities))
    return Outputs(np.log([*probabilities, *[rest] * (len(LABELS) - len(probabilities))])[None])


def answer(*probabilities: float, **options: int):
    return answers(outputs(*probabilities), CALIBRATION, LABELS, **options)[0]


def test_a_sure_breed_is_the_answer():
    sure = answer(0.9, 0.05)
    assert sure.verdict == "confident" and sure.candidates == () and sure.group is None
    assert [breed.breed for breed in sure.breeds][:2] == ["Norfolk terrier", "Norwich terrier"]
    assert sure.breeds[0].probability == pytest.approx(0.9)


def test_look_alikes_are_as_few_as_hold_nine_tenths():
    unsure = answer(0.5, 0.3, 0.15, top_k=1)
    assert unsure.verdict == "unsure" and len(unsure.breeds) == 1
    assert [candidate.breed for candidate in unsure.candidates] == list(LABELS[:3])
    assert len(answer(0.6, 0.32).candidates) == 2


def test_no_more_than_five_look_alikes_are_named():
    many = (*LABELS, "Beagle", "Boxer", "Briard", "Kelpie")
    row = Outputs(np.log([[0.28, *[0.08] * 9]]))
    calibration = Calibration(temperature=1.0, not_a_dog_threshold=0.5, confident_threshold=0.8)
    assert len(answers(row, calibration, many)[0].candidates) == 5


def test_the_group_is_named_where_it_is_as_sure_as_a_confident_breed():
    assert answer(0.5, 0.3, 0.15).group == "terrier"
    assert answer(0.5, 0.2, 0.05, 0.24).group is None  # 0.75 of it terriers, 0.8 is asked for


def test_labels_that_are_no_breed_are_of_no_group():
    row = Outputs(np.log([[0.04, 0.02, 0.02, 0.01, 0.01, 0.9]]))
    strict = Calibration(temperature=1.0, not_a_dog_threshold=1.0, confident_threshold=0.95)
    assert answers(row, strict, LABELS)[0].group is None
    assert answers(row, strict, [f"mongrel {number}" for number in range(6)])[0].group is None


def test_a_photo_of_something_else_has_no_candidates():
    other = answer(0.2)
    assert other.verdict == "not_a_dog" and other.candidates == () and other.group is None
    assert len(other.breeds) == 5


def test_rates_are_counted_by_verdict():
    rows = Outputs.concatenate(
        [
            outputs(0.9),
            outputs(0.9),
            outputs(0.5, 0.3, 0.15),
            outputs(0.5, 0.2, 0.05, 0.24),
            outputs(0.5, 0.3, 0.15),
            outputs(0.2),
        ]
    )
    rates = answer_rates(rows, np.array([0, 3, 1, 5, 4, 0]), CALIBRATION, LABELS)
    assert rates == pytest.approx(
        {
            "share_confident": 2 / 6,
            "share_unsure": 3 / 6,
            "share_unknown_breed": 0.0,
            "share_not_a_dog": 1 / 6,
            "top1_confident": 1 / 2,
            "candidates_right": 1 / 3,
            "share_group": 2 / 3,
            "group_right": 1 / 2,
        }
    )
    assert answer_rates(outputs(0.9), np.array([0]), CALIBRATION, LABELS) == {
        "share_confident": 1.0,
        "share_unsure": 0.0,
        "share_unknown_breed": 0.0,
        "share_not_a_dog": 0.0,
        "top1_confident": 1.0,
    }
