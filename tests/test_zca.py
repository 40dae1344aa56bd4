"""Whitening that is fitted on training photos, and a run with every step of pre-processing."""

import numpy as np
import pytest
from conftest import make_photo_folder, tiny_config
from PIL import ImageFilter

from dogbreeds import Predictor
from dogbreeds.errors import UserError
from dogbreeds.images import open_image
from dogbreeds.predictions import Predictions
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.datasets.splits import load_data
from dogbreeds.training.earlier import zca as zca_module
from dogbreeds.training.earlier.zca import fit_zca, zca_of
from dogbreeds.training.loaders import PixelDataset
from dogbreeds.training.train import set_up, train


def smooth_patches(num_patches=20_000, side=5):
    """Patches whose pixels tell of each other, as those of photos do, with a mean and a colour cast."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 400, 3))
    for axis in (0, 1):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-2, 3)) / 2
    image = noise + noise.mean(axis=2, keepdims=True) + [0.5, -0.3, 0.1]
    top, left = rng.integers(0, 400 - side, (2, num_patches))
    offsets = np.arange(side)
    return image[top[:, None, None] + offsets[:, None], left[:, None, None] + offsets], image


def test_what_is_whitened_has_lost_what_neighbours_tell():
    patches, image = smooth_patches()
    pixels = image.transpose(2, 0, 1).astype(np.float32)
    whitened = zca_of(patches)(pixels)[:, 5:-5, 5:-5]

    def correlations(image):
        flat = np.stack([*image[:, :-1, :-1].reshape(3, -1), *image[:, :-1, 1:].reshape(3, -1)])
        return np.abs(np.corrcoef(flat) - np.eye(6)).max()

    assert correlations(pixels) > 0.7 and correlations(whitened) < 0.35
    assert abs((whitened**2).mean() - 1) < 0.1 and np.abs(whitened.mean((1, 2))).max() < 0.1


def test_what_is_white_already_stays_as_it_is():
    rng = np.random.default_rng(0)
    zca = zca_of(rng.normal(2.0, 3.0, (20_000, 3, 3, 3)))
    expected = np.zeros((3, 3, 3, 3))
    expected[[0, 1, 2], [0, 1, 2], 1, 1] = 1 / 3
    np.testing.assert_allclose(zca.kernel, expected, atol=0.02)
    np.testing.assert_allclose(zca.bias, -2 / 3, atol=0.05)


def test_photos_of_one_colour_leave_nothing_to_whiten():
    with pytest.raises(UserError, match="--whitening zca: the training photos are all of one colour"):
        zca_of(np.full((100, 5, 5, 3), 0.1))


def test_it_is_fitted_on_training_photos_alone_and_a_function_of_the_seed(tmp_path, monkeypatch):
    photos = make_photo_folder(tmp_path / "photos")
    config = tiny_config(photos, tmp_path / "run", whitening="zca", augment="off")
    splits = load_data(config, progress=False)
    opened = []
    monkeypatch.setattr("dogbreeds.training.loaders.open_image", lambda s, **_: opened.append(s) or open_image(s))
    view = Preprocessing(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    trainer_view = set_up(config).inputs.preprocessing
    fitted = fit_zca(PixelDataset(splits.train, view), view, seed=0)
    assert set(opened) == set(splits.train.sources)
    assert fit_zca(PixelDataset(splits.train, view), view, seed=0) == fitted != trainer_view.zca  # another mean and std
    assert fit_zca(PixelDataset(splits.train, view), view, seed=1) != fitted
    assert (
        set_up(tiny_config(photos, tmp_path / "other", whitening="zca", augment="off")).inputs.preprocessing
        == trainer_view
    )
    monkeypatch.setattr(zca_module, "NUM_PHOTOS", 5)
    opened.clear()
    fit_zca(PixelDataset(splits.train, view), view, seed=0)
    assert len(opened) == 5


@pytest.mark.parametrize(
    "steps",
    [
        {"grayscale": True, "equalize": True, "whitening": "blur"},
        pytest.param(
            {"whitening": "zca", "equalize": True, "augment": "off", "model": "vit_nano", "freeze_backbone": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
@pytest.mark.slow
def test_training_and_answers_see_the_same(photo_folder, checkpoints, tmp_path, steps, features_by_torch):
    """The predictions that training wrote are those of the run folder, whatever the steps; and other steps matter."""
    if "freeze_backbone" in steps:
        steps = {**steps, "model": str(checkpoints / steps["model"])}
    config = tiny_config(photo_folder, tmp_path / "run", epochs=1, **steps)
    predictor = Predictor(train(config))
    view = predictor.run.preprocessing
    assert (view.grayscale, view.equalize) == (config.preprocessing.grayscale, config.preprocessing.equalize)
    assert view.blur == (config.preprocessing.whitening == "blur") and (view.zca is not None) == (
        config.preprocessing.whitening == "zca"
    )
    saved = Predictions.load(tmp_path / "run" / "predictions-validation.parquet")
    answered = np.stack([predictor.predict(photo_folder / name).probabilities for name in saved.ids])
    np.testing.assert_allclose(answered, saved.probabilities, atol=1e-4)
    card = (tmp_path / "run" / "README.md").read_text()
    assert (
        f"equalize, whitening {config.preprocessing.whitening}" in card and "`transformers.pipeline` does not" in card
    )
    photo = open_image(photo_folder / saved.ids[0]).filter(ImageFilter.SHARPEN)
    plain = Preprocessing(view.size, view.fit, view.shortest_edge, view.mean, view.std)
    assert np.abs(view(photo) - plain(photo)).max() > 0.1
