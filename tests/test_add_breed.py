"""`dogbreeds add-breed`: one more class of a run from a few photos."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import make_photo, run_cli
from PIL import Image

from dogbreeds.calibration import dog_score
from dogbreeds.files import read_json, write_json
from dogbreeds.photos import photo_digest
from dogbreeds.predictions import Predictions
from dogbreeds.run_folder import ONNX_8BIT, PRETRAINED, RECORD, WEIGHTS, RunFolder, with_label
from dogbreeds.serving.add_breed import add_breed, add_class
from dogbreeds.serving.new_breed import NewLogit, left_out_margins, smaller_group
from dogbreeds.serving.predictor import Predictor
from dogbreeds.split_file import SPLITS, load_trained_on
from tests.benchmarks.new_breed import over_breeds

NUM_BREEDS = 30


def logits_of(resembled: tuple[int, ...], num: int, seed: int) -> np.ndarray:
    """Logits of dogs that resemble these breeds, with a constant for each photo that means nothing."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (num, NUM_BREEDS)) + rng.normal(0, 5, (num, 1))
    logits[:, resembled] += 9 / len(resembled) + 1
    return logits


@pytest.fixture(scope="module")
def others() -> np.ndarray:
    return np.concatenate([logits_of((breed,), 20, breed) for breed in range(NUM_BREEDS)])


def test_a_new_breed_is_recognised_and_the_others_lose_hardly_anything(others):
    new = NewLogit.fit(logits_of((3, 8), 10, 100), others)
    assert (new.margin(logits_of((3, 8), 200, 101)) > 0).mean() >= 0.9
    assert (new.margin(np.concatenate([logits_of((b,), 20, 200 + b) for b in range(NUM_BREEDS)])) > 0).mean() <= 0.01


def test_a_constant_added_to_all_logits_of_a_photo_changes_no_answer(others):
    photos = logits_of((3, 8), 10, 100)
    new = NewLogit.fit(photos, others)
    np.testing.assert_allclose(new.margin(photos + 7), new.margin(photos), atol=1e-4)
    again = NewLogit.fit(photos + 7, others)
    np.testing.assert_allclose(again.weights, new.weights, atol=1e-5)


def test_photos_of_one_breed_fit_each_other(others):
    photos = logits_of((3, 8), 10, 100)
    assert (left_out_margins(photos, others) > 0).mean() >= 0.8
    assert not smaller_group(photos, others).any()


def test_photos_of_two_new_breeds_are_told_apart(others):
    photos = np.concatenate([logits_of((3, 8), 7, 100), logits_of((20, 25), 3, 101)])
    assert smaller_group(photos, others).tolist() == [False] * 7 + [True] * 3


def test_the_share_of_added_breeds_has_the_interval_of_breeds_not_of_photos():
    shares = {str(breed): share for breed, share in enumerate([0.5] * 10 + [1.0] * 10)}
    mean, low, high = map(float, re.fullmatch(r"([\d.]+)% \(([\d.]+)-([\d.]+)\)", over_breeds(shares)).groups())
    # Breeds have a standard deviation of 25.6 points, their mean of 20 one of 5.74, however many photos a breed has.
    # 2.09 is the 97.5 % quantile of Student's t with 19 degrees of freedom.
    assert mean == 75 and (low, high) == pytest.approx((75 - 2.09 * 5.74, 75 + 2.09 * 5.74), abs=0.1)
    assert over_breeds({str(breed): share for breed, share in enumerate([1.0] * 9 + [0.9])}).endswith("-100.0)")
    few = {"Havanese": 0.5, "Shiba Inu": 0.75}
    assert over_breeds(few) == "62.5% (Havanese 50.0%, Shiba Inu 75.0%)"


def mixture(seed: int) -> Image.Image:
    """A picture between those of two breeds: a breed of its own."""
    return Image.blend(make_photo(0, 100 + seed), make_photo(1, 100 + seed), 0.5)


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory) -> Path:
    """Six photos of the new breed; not to be changed."""
    folder = tmp_path_factory.mktemp("mixtures")
    for seed in range(6):
        mixture(seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory) -> Path:
    """A small run that calls no picture "not a dog"; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "before"
    shutil.copytree(tiny_run, folder)
    record = read_json(folder / RECORD)
    record["calibration"]["not_a_dog_threshold"] = -100.0
    write_json(folder / RECORD, record)
    return folder


@pytest.fixture(scope="module")
def added(run, mixtures) -> Path:
    """The run with one breed more; not to be changed."""
    add_breed("Chi Tzu", mixtures, run, run.with_name("mine"), progress=False)
    return run.with_name("mine")


def test_the_run_names_the_new_breed_and_answers_the_others_as_before(added, run, monkeypatch, capsys, tmp_path):
    photos = []
    for name, picture in {"new": mixture(50), "beagle": make_photo(2, 50)}.items():
        photos.append(tmp_path / f"{name}.png")
        picture.save(photos[-1])
    status, out, err = run_cli(monkeypatch, capsys, "predict", *photos, "--json", "--run-dir", added)
    assert status == 0, err
    named = [json.loads(line)["breeds"][0]["breed"] for line in out.splitlines()]
    assert named == ["Chi Tzu", "Beagle"]
    before, after = (Predictor(folder).outputs([make_photo(2, 50)]) for folder in (run, added))
    np.testing.assert_array_equal(after.logits[:, :4], before.logits)
    np.testing.assert_array_equal(after.features, before.features)


def test_the_run_folder_is_whole_and_has_no_weights_that_lack_the_breed(added, run, mixtures):
    before, after = RunFolder.open(run), RunFolder.open(added)
    assert after.labels == (*before.labels, "Chi Tzu") and after.config["label2id"]["Chi Tzu"] == 4
    assert after.calibration == before.calibration
    assert (run / WEIGHTS).exists() and not (added / WEIGHTS).exists()
    card = (added / "README.md").read_text()
    assert "Tells 5 dog breeds" in card and "Chi Tzu, from 6 photos and without training" in card
    assert "weights for PyTorch do not know it" in card and "library_name" not in card
    trained_on = load_trained_on(added / SPLITS)
    assert all(trained_on[photo_digest(path.read_bytes())] == "Chi Tzu" for path in mixtures.iterdir())


def test_the_predictions_hold_the_new_breed(added, run):
    before, after = (Predictions.load(folder / "predictions-validation.parquet") for folder in (run, added))
    assert after.names == RunFolder.open(added).labels and after.digests == before.digests
    others = after.probabilities[:, :4] / after.probabilities[:, :4].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(others, before.probabilities, atol=1e-4)
    photos = Predictions.load(added / "predictions-added.parquet")
    assert len(photos) == 6 and photos.right.all() and set(photos.labels) == {4}


def test_a_second_breed_is_told_from_the_first(added, tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(6):
        Image.blend(make_photo(2, 100 + seed), make_photo(3, 100 + seed), 0.5).save(tmp_path / f"photos/{seed}.png")
    add_breed("Beagle retriever", tmp_path / "photos", added, tmp_path / "both", progress=False)
    both = RunFolder.open(tmp_path / "both")
    assert [breed.name for breed in both.record.added_breeds] == ["Chi Tzu", "Beagle retriever"]
    photos = Predictions.load(both.path / "predictions-added.parquet")
    assert photos.labels.tolist() == [4] * 6 + [5] * 6 and photos.right.all()
    assert Predictor(both).predict(mixture(50), every_dog=False).breeds[0].breed == "Chi Tzu"


def test_an_8_bit_model_gets_the_class_in_both_outputs_and_keeps_the_others():
    model = onnx.load(PRETRAINED / "vit_tiny" / ONNX_8BIT)
    new = NewLogit(np.random.default_rng(0).normal(0, 0.1, 120).astype(np.float32), 0.5)
    pixels = np.random.default_rng(1).normal(0, 1, (2, 3, 224, 224)).astype(np.float32)
    names = ["logits", "heat_map"]

    def outputs() -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(names, {"pixel_values": pixels})

    before = outputs()
    add_class(model.graph, new, logit_scale=0.7)
    onnx.checker.check_model(model)
    after = outputs()
    for old, now, temperature in zip(before, after, (0.7, 1.0), strict=True):
        np.testing.assert_array_equal(now[:, :120], old)
        flat = np.moveaxis(old, 1, -1).reshape(-1, 120)
        np.testing.assert_allclose(temperature * now[:, 120].ravel(), new(temperature * flat), atol=1e-3)


def test_the_names_of_a_timm_network_get_the_class():
    config = with_label(RunFolder.open(PRETRAINED / "efficientnet_lite2").config, "Shiba Inu")
    assert len(config["label_names"]) == config["num_classes"] == 121 and config["label_names"][-1] == "Shiba Inu"


def refusal(monkeypatch, capsys, *arguments: object) -> str:
    status, out, err = run_cli(monkeypatch, capsys, "add-breed", *arguments)
    assert status == 2 and not out
    return err.splitlines()[-1]


def test_too_few_photos_are_refused_and_unreadable_ones_named(run, mixtures, monkeypatch, capsys, tmp_path):
    for name in ("0.png", "1.png"):
        shutil.copy(mixtures / name, tmp_path)
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8 torn")
    status, _, err = run_cli(monkeypatch, capsys, "add-breed", "Chi Tzu", tmp_path, "--run-dir", run, "--output", "out")
    assert status == 2 and "torn.jpg" in err.splitlines()[0]
    assert "holds 2 photos of the new breed: add 3 or more" in err.splitlines()[-1]


def test_photos_of_another_breed_are_named(run, mixtures, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("dogbreeds.serving.add_breed.MAX_MARGIN_ODD", -0.1)  # logits of so few breeds are small
    shutil.copytree(mixtures, tmp_path / "photos")
    make_photo(2, 60).save(tmp_path / "photos" / "beagle.png")
    line = refusal(monkeypatch, capsys, "Chi Tzu", tmp_path / "photos", "--run-dir", run, "--output", tmp_path / "out")
    assert "not of one breed" in line and "beagle.png (like Beagle); take them out" in line
    assert not (tmp_path / "out").exists()


def test_a_photo_without_a_dog_is_named_and_left_out_if_five_remain(run, mixtures, monkeypatch, capsys, tmp_path):
    paths = sorted(mixtures.iterdir())
    scores = dog_score(Predictor(run).outputs([Image.open(path) for path in paths]).logits)
    odd, second = np.argsort(scores)[:2]
    shutil.copytree(run, tmp_path / "strict")
    record = read_json(run / RECORD)
    record["calibration"]["not_a_dog_threshold"] = float(scores[odd] + scores[second]) / 2
    write_json(tmp_path / "strict" / RECORD, record)
    arguments = ("add-breed", "Chi Tzu", mixtures, "--run-dir", tmp_path / "strict", "--output", tmp_path / "out")
    status, out, err = run_cli(monkeypatch, capsys, *arguments)
    assert status == 0 and "of its 5 photos" in out
    assert err.splitlines() == [f"left out {paths[odd]}: no dog is seen on it: crop it to the dog, if there is one"]
    kept = Predictions.load(tmp_path / "out/predictions-added.parquet").ids
    assert kept == tuple(path.name for path in paths if path != paths[odd])


def test_without_five_photos_of_dogs_those_without_one_are_named(tiny_run, mixtures, monkeypatch, capsys, tmp_path):
    arguments = ("add-breed", "Chi Tzu", mixtures, "--run-dir", tiny_run, "--output", tmp_path / "out")
    status, out, err = run_cli(monkeypatch, capsys, *arguments)
    *named, problem = err.splitlines()
    assert status == 2 and not out and not (tmp_path / "out").exists()
    assert f"left out {mixtures / '0.png'}: no dog is seen on it" in named[0]
    assert f"holds {6 - len(named)} photos of the new breed: add {len(named) - 1} or more" in problem


def test_a_known_breed_a_name_that_is_none_and_an_output_that_exists_are_refused(run, mixtures, monkeypatch, capsys):
    assert "knows 'Beagle' already" in refusal(
        monkeypatch, capsys, "n02088364-beagle", mixtures, "--run-dir", run, "--output", run.with_name("out")
    )
    assert "is no name of a breed" in refusal(
        monkeypatch, capsys, " ", mixtures, "--run-dir", run, "--output", run.with_name("out")
    )
    assert "exists already" in refusal(monkeypatch, capsys, "Chi Tzu", mixtures, "--run-dir", run, "--output", run)
