"""A run of a timm network sees the same through transformers, which reads its view from config.json."""

import json

import numpy as np
import pytest
import timm
from conftest import make_photo, tiny_config
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, TimmWrapperImageProcessor, pipeline

from dogbreeds.images import open_image
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.train import train

VIEWS = [
    Preprocessing(32),
    Preprocessing(32, "squash", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
    *(Preprocessing(260, shortest_edge=edge) for edge in (261, 292, 297)),
]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [(56, 48), (375, 500), (640, 480), (1000, 750)])
def test_timm_cuts_and_scales_as_this_project(view, size):
    photo = make_photo(0, 0, (size[0] // 4, size[1] // 4)).resize(size, Image.Resampling.BICUBIC)
    theirs = TimmWrapperImageProcessor(view.to_timm_config())(photo)["pixel_values"][0].numpy()
    assert theirs.shape == (3, view.size, view.size)
    assert (np.abs(theirs - view(photo)).mean((1, 2)) * view.std).max() < 1 / 255


def nano_checkpoint(folder):
    """A small network with random weights, in the files and with the view of timm's own: bicubic, and cut more."""
    network = timm.create_model("test_efficientnet", num_classes=7)
    facts = {"crop_pct": 0.8, "interpolation": "bicubic", "input_size": [3, 160, 160], "classifier": "classifier"}
    facts |= {"mean": [0.4] * 3, "std": [0.3] * 3}
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_efficientnet", "num_classes": 7, "pretrained_cfg": facts})
    )
    save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("weights", ["random", "real"])
@pytest.mark.slow
def test_a_run_answers_as_transformers_does(weights, photo_folder, request, tmp_path):
    if weights == "real":
        shared = request.getfixturevalue("shared")
        model, image_size = shared / "models/efficientnet_lite2", 260
        photos = sorted((shared / "data/pets/dogs").rglob("*.jpg"))[::100]
        assert len(photos) >= 20
    else:
        (tmp_path / "checkpoint").mkdir()
        model, image_size = nano_checkpoint(tmp_path / "checkpoint"), 64
        sizes = [(56, 48), (90, 40), (133, 171), (224, 225), (300, 200), (511, 600)]
        photos = [tmp_path / f"{number}.png" for number in range(len(sizes))]
        for number, size in enumerate(sizes):
            make_photo(number, 1, size).save(photos[number])
    options = {"image_size": image_size, "freeze_backbone": weights == "real", "epochs": 4}
    run = train(tiny_config(photo_folder, tmp_path / "run", model=str(model), **options))
    predictor, theirs = Predictor(run), pipeline("image-classification", model=str(run), top_k=4)
    processor = AutoImageProcessor.from_pretrained(run)
    for path in photos:
        photo = open_image(path)
        pixels = processor(photo)["pixel_values"][0].numpy()
        assert np.abs(pixels - predictor.run.preprocessing(photo)).mean() < 0.03, path
        entries = theirs(str(path))
        ours = predictor.predict(path, top_k=4)
        assert ours.breeds[0].breed == entries[0]["label"]
        found = {candidate.breed: candidate.probability for candidate in ours.breeds}
        expected = [entry["score"] for entry in entries]
        assert [found[entry["label"]] for entry in entries] == pytest.approx(expected, abs=0.01), path
