"""The verdicts on a photo, and that a dog of an unknown breed has no probabilities, whoever asks."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photo

from dogbreeds.answers import answers
from dogbreeds.calibration import Calibration, Outputs, dog_score, softmax
from dogbreeds.dog_probe import DogProbe
from dogbreeds.images import BadImage
from dogbreeds.run_folder import RunFolder
from dogbreeds.serving.api import PredictionJson, prediction_json
from dogbreeds.serving.library import index_library
from dogbreeds.serving.page.review import Row, begin, in_words, lines
from dogbreeds.serving.page.texts import ENGLISH, FRENCH
from dogbreeds.serving.predictor import Predictor

PROBE = DogProbe(np.array([1.0, 0.0], np.float32), 0.0)
CALIBRATION = Calibration(
    temperature=1.0,
    not_a_dog_threshold=1.0,
    unknown_breed_threshold=3.0,
    confident_score=5.0,
    confident_threshold=0.9,
    dog_probe=PROBE.to_text(),
    dog_probe_threshold=-1.0,
)


def outputs(score: float, second: float = 0.0, probe: float = 1.0) -> Outputs:
    """One photo of four breeds: its dog score, the logit of the second breed, and the score of the dog probe."""
    logits = np.array([[0.0, second, 0.0, 0.0]])
    logits[0, 0] = (4 * score + second) / 3
    assert dog_score(logits) == pytest.approx(score)
    return Outputs(logits, np.array([[probe, 7.0]]))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (outputs(0.9), "not_a_dog"),
        (outputs(6.0, probe=-1.1), "not_a_dog"),  # whatever the score
        (outputs(2.9), "unknown_breed"),
        (outputs(4.9), "unsure"),  # probable, but its score is too low
        (outputs(5.1, second=9.0), "unsure"),  # its score will do, but a second breed is as probable
        (outputs(5.1), "confident"),
        (Outputs(outputs(5.1, probe=-9.0).logits), "confident"),  # a network without features has no probe
    ],
)
def test_each_verdict_has_its_own_question_and_they_are_asked_in_order(found, verdict):
    probabilities, verdicts = CALIBRATION.apply(found)
    assert verdicts == [verdict]
    np.testing.assert_allclose(probabilities, softmax(found.logits))
    if verdict != "confident":
        assert softmax(outputs(4.9).logits).max() > CALIBRATION.confident_threshold  # the score alone held it back


def test_a_run_of_before_never_calls_a_breed_unknown():
    old = Calibration(temperature=1.0, not_a_dog_threshold=1.0, confident_threshold=0.9)
    found = Outputs.concatenate([outputs(0.9), outputs(2.9), outputs(4.9), outputs(6.0, probe=-9.0)])
    assert old.apply(found)[1] == ["not_a_dog", "confident", "confident", "confident"]


@pytest.fixture(scope="module")
def kinds():
    """Outputs for dogs of known breeds with their labels, dogs of others and photos without a dog; 5 breeds."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 600)

    def made(num: int, strength: float, is_dog: float) -> Outputs:
        logits = rng.normal(0, 1, (num, 5))
        logits[np.arange(num), labels[:num]] += strength
        return Outputs(logits, rng.normal(0, 1, (num, 6)) + is_dog * np.array([4, 0, -3, 0, 0, 1]))

    return made(600, 6.0, 1.0), labels, made(200, 2.5, 1.0), made(200, 4.0, 0.0)


def test_fitting_tells_the_three_kinds_apart(kinds):
    dogs, labels, other_dogs, other_photos = kinds
    calibration = Calibration.fit(
        dogs, labels, other_photos=other_photos, other_dogs=other_dogs, fitted_on={"dogs": 600}
    )
    assert calibration.fitted_on == {"dogs": 600}
    known, unknown, none = (np.array(calibration.apply(each)[1]) for each in (dogs, other_dogs, other_photos))
    assert (known == "not_a_dog").mean() <= 0.05 and (unknown == "not_a_dog").mean() <= 0.05
    assert (none == "not_a_dog").mean() >= 0.95
    assert (known == "unknown_breed").mean() <= 0.06 and (unknown == "unknown_breed").mean() >= 0.5
    assert (unknown == "confident").mean() <= 0.15
    right = dogs.logits.argmax(axis=1) == labels
    assert right[known == "confident"].mean() >= 0.95 and (known == "confident").mean() >= 0.6


def test_without_other_photos_there_is_no_probe_and_without_other_dogs_no_unknown_breed(kinds):
    dogs, labels, other_dogs, other_photos = kinds
    calibration = Calibration.fit(dogs, labels)
    assert calibration.dog_probe is None and calibration.unknown_breed_threshold is None
    assert "unknown_breed" not in calibration.apply(other_dogs)[1]
    without_features = Calibration.fit(Outputs(dogs.logits), labels, other_photos=Outputs(other_photos.logits))
    assert without_features.dog_probe is None


def test_the_probe_tells_dogs_from_other_photos_it_has_not_seen(kinds):
    dogs, _, other_dogs, other_photos = kinds
    features = np.concatenate([dogs.features, other_photos.features[:100]])
    probe = DogProbe.fit(features, np.arange(700) < 600)
    assert (probe(other_dogs.features) > 0).mean() >= 0.9 and (probe(other_photos.features[100:]) < 0).mean() >= 0.9
    weight = np.abs(probe.weights)
    assert weight[[0, 2]].min() > 2 * weight[[1, 3, 4]].max()


def test_the_probe_travels_as_text(kinds):
    dogs, _, _, other_photos = kinds
    probe = DogProbe.fit(np.concatenate([dogs.features, other_photos.features]), np.arange(800) < 600)
    again = DogProbe.from_text(json.loads(json.dumps(probe.to_text())))
    np.testing.assert_array_equal(again.weights, probe.weights)
    assert again.bias == pytest.approx(probe.bias, rel=1e-6)
    np.testing.assert_allclose(again(dogs.features), probe(dogs.features), atol=1e-5)


@pytest.mark.parametrize("damage", [lambda text: text[:-3], lambda text: "?" + text, lambda text: ""])
def test_a_damaged_probe_is_an_error(damage):
    with pytest.raises(ValueError):
        DogProbe.from_text(damage(PROBE.to_text()))


# A dog of an unknown breed


LABELS = ("Pug", "Beagle", "Boxer", "Whippet")


def test_its_answer_names_what_it_resembles_and_no_probability():
    (answer,) = answers(outputs(2.9, second=1.0), CALIBRATION, LABELS)
    assert answer.verdict == "unknown_breed" and answer.group is None
    assert [each.breed for each in answer.candidates] == ["Pug", "Beagle", "Boxer"]
    said = {"verdict": "unknown_breed", "breeds": [], "candidates": ["Pug", "Beagle", "Boxer"], "group": None}
    assert answer.to_dict() == said


def test_its_row_on_the_page_and_in_the_download_has_no_probability():
    (answer,) = answers(outputs(2.9, second=1.0), CALIBRATION, LABELS, top_k=3)
    row = Row("dog.jpg", "", answer)
    assert in_words(row, ENGLISH) == ("", "It resembles: Pug, Beagle, Boxer.")
    assert in_words(row, FRENCH) == ("", "Il ressemble à : Carlin, Beagle, Boxer.")
    rows = [row, Row("empty.jpg", "", BadImage("This file is empty.", "empty"))]
    begun, *shown = map(json.loads, (begin("tiny") + lines(rows, FRENCH)).splitlines())
    assert shown[0]["label"] == "/other-dogs" and "label" not in shown[1]
    first, second = csv.DictReader([begun["header"], *(line["record"] for line in shown)])
    assert first["verdict"] == "unknown_breed" and first["error"] == "" and second["error"] == "This file is empty."
    assert [first["breed"], first["breed_2"], first["breed_3"]] == ["Pug", "Beagle", "Boxer"]
    assert [first[f"probability{rank}"] for rank in ("", "_2", "_3")] == ["", "", ""]


@pytest.fixture(scope="module")
def unknown_run(tiny_run, tmp_path_factory) -> Path:
    """A run to which all dogs are of an unknown breed."""
    import shutil

    copy = shutil.copytree(tiny_run, tmp_path_factory.mktemp("unknown") / "run")
    record = json.loads((copy / "run.json").read_text())
    record["calibration"] |= {"unknown_breed_threshold": 1e9, "not_a_dog_threshold": 0.0}
    (copy / "run.json").write_text(json.dumps(record))
    return copy


def test_programs_the_command_line_and_the_table_say_the_same(unknown_run, tmp_path, monkeypatch, capsys):
    from dogbreeds.cli import main

    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "dog.png"
    make_photo(2, 50).save(photo)
    prediction = Predictor(unknown_run).predict(photo)
    reply = prediction_json("run", prediction)
    assert reply.keys() == PredictionJson.__required_keys__
    assert reply["verdict"] == "unknown_breed" and reply["breeds"] == [] and reply["candidates"][0] == "Beagle"

    def said(*arguments) -> str:
        monkeypatch.setattr("sys.argv", ["dogbreeds", "predict", str(photo), "--run-dir", str(unknown_run), *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        return capsys.readouterr().out

    resembles = ", ".join(reply["candidates"])
    assert said() == f"{photo}: a dog, but none of the 4 breeds I know, or a mix; it resembles: {resembles}\n"
    printed = json.loads(said("--json"))
    assert printed["breeds"] == [] and printed["candidates"] == reply["candidates"] and "group" in printed
    index_library(unknown_run, tmp_path / "photos", tmp_path / "breeds.csv", top_k=2, progress=False)
    with (tmp_path / "breeds.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["verdict"] == "unknown_breed" and [row["breed"], row["breed_2"]] == reply["candidates"][:2]
    assert row["probability"] == row["probability_2"] == ""
    assert RunFolder.open(unknown_run).calibration.unknown_breed_threshold == 1e9
