"""The checkpoint that comes with the project, on real photos; skipped where there are none."""

from dataclasses import replace

import pytest
from transformers import pipeline

from dogbreeds.research.evaluate import evaluate, photos_of
from dogbreeds.run_folder import PRETRAINED, RunFolder
from dogbreeds.serving.predictor import Predictor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predictor():
    return Predictor()


def test_everyday_photos(predictor, shared):
    figures = evaluate(predictor, photos_of(predictor, str(shared / "data/natural-dogs")), progress=False).figures
    assert figures["n"] == 400
    assert figures["top1"] >= 0.82
    assert figures["share_not_a_dog"] <= 0.05


def test_photos_without_a_dog(predictor, shared):
    photos = sorted((shared / "data/not-dogs").rglob("*.jpg"))
    verdicts = [predictor.predict(photo).verdict for photo in photos]
    assert len(photos) == 180 and verdicts.count("not_a_dog") >= 0.99 * len(photos)


def test_cats_are_no_dogs(predictor, shared):
    photos = sorted((shared / "data/pets/cats").rglob("*.jpg"))[::8]
    verdicts = [predictor.predict(photo).verdict for photo in photos]
    assert len(photos) == 98 and verdicts.count("not_a_dog") >= 0.97 * len(photos)


def test_the_validation_photos_of_its_training(predictor, shared):
    photos = photos_of(predictor, str(shared / "data/stanford-dogs-224"), "validation")
    figures = evaluate(predictor, photos, progress=False).figures
    assert figures["n"] == 1200
    assert figures["top1"] >= 0.825 and figures["top3"] >= 0.96
    # Its temperature is fitted on everyday photos, on which it is less often right than on these.
    assert figures["ece"] < figures["ece_uncalibrated"] / 4
    assert figures["share_not_a_dog"] <= 0.05


def test_transformers_gives_the_same_answers(shared, tmp_path):
    """On 200 photos, from the checkpoint that MobileNetV2's weights and the shipped classifier make."""
    import shutil

    import numpy as np
    import onnx
    from onnx import numpy_helper
    from transformers import AutoModelForImageClassification

    run = RunFolder.open(PRETRAINED / "mobilenet_v2")
    one_look = replace(run.record.calibration, sure_margin=None)  # transformers looks once
    predictor = Predictor(replace(run, record=replace(run.record, calibration=one_look)))
    model = AutoModelForImageClassification.from_pretrained(
        shared / "models/mobilenet_v2_1.0_224", num_labels=120, ignore_mismatched_sizes=True
    )
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(predictor.run.onnx).graph.initializer}
    shape = tuple(model.classifier.weight.shape)
    kernel = next(w for w in weights.values() if w.squeeze().shape in (shape, shape[::-1])).squeeze()
    bias = next(w for w in weights.values() if w.shape == (120,))
    state = model.state_dict()
    import torch

    state["classifier.weight"] = torch.from_numpy(np.array(kernel if kernel.shape == shape else kernel.T))
    state["classifier.bias"] = torch.from_numpy(np.array(bias))
    model.load_state_dict(state)
    model.config.id2label = dict(enumerate(predictor.run.labels))
    model.config.label2id = {name: index for index, name in enumerate(predictor.run.labels)}
    model.save_pretrained(tmp_path)
    shutil.copy(predictor.run.path / "preprocessor_config.json", tmp_path)

    theirs = pipeline("image-classification", model=str(tmp_path), top_k=1)
    photos = sorted((shared / "data/natural-dogs").rglob("*.jpg"))[::2]
    same = [theirs(str(photo))[0]["label"] == predictor.predict(photo).breeds[0].breed for photo in photos]
    assert len(same) == 200 and sum(same) >= 198
