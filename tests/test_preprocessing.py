import json

import numpy as np
import pytest
from conftest import make_photo
from PIL import Image

from dogbreeds.errors import UserError
from dogbreeds.preprocessing import STEPS, Preprocessing, Zca


def make_zca(seed=0, side=5):
    rng = np.random.default_rng(seed)
    return Zca(rng.normal(size=(3, 3, side, side)).astype(np.float32), rng.normal(size=3).astype(np.float32))


VIEWS = [
    Preprocessing(32, "crop"),
    Preprocessing(32, "squash"),
    Preprocessing(32, "crop", shortest_edge=40, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [(56, 48), (48, 90), (200, 201), (32, 32), (20, 31)])
def test_it_is_what_transformers_sees(view, size, tmp_path):
    from transformers import AutoImageProcessor

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(view.to_preprocessor_config("ViTImageProcessor")))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    photo = make_photo(0, 0, size)
    theirs = processor(photo, return_tensors="np")["pixel_values"][0]
    ours = view(photo)
    assert ours.shape == theirs.shape == (3, 32, 32) and ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 0.05, np.abs(ours - theirs).max()


STEPPED = [
    Preprocessing(32, grayscale=True),
    Preprocessing(32, "squash", equalize=True, blur=True),
    Preprocessing(32, mean=(0.4, 0.5, 0.6), zca=make_zca()),
    Preprocessing(
        32, "crop", 40, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), grayscale=True, equalize=True, blur=True, zca=make_zca(1)
    ),
]


@pytest.mark.parametrize("view", VIEWS + STEPPED)
def test_the_checkpoint_brings_its_view(view):
    stored = json.loads(json.dumps(view.to_preprocessor_config("ViTImageProcessor")))
    assert Preprocessing.from_preprocessor_config(stored) == view
    assert (STEPS in stored) == (view in STEPPED)
    others = [other for other in STEPPED + VIEWS if other is not view]
    assert view not in others


def test_a_view_with_steps_is_still_read_by_transformers(tmp_path):
    from transformers import AutoImageProcessor

    stored = STEPPED[-1].to_preprocessor_config("ViTImageProcessor")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    photo = make_photo(0, 0)
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(photo, return_tensors="np")["pixel_values"][0]
    assert np.abs(theirs - VIEWS[2](photo)).max() < 0.05  # without the steps, as the docstring says


def test_grey_is_the_luma_in_three_channels():
    photo = make_photo(0, 0, (32, 32))
    expected = np.asarray(photo, np.float64) @ [0.299, 0.587, 0.114]
    grey = Preprocessing(32, grayscale=True).cut(photo)
    assert np.abs(grey - expected[..., None]).max() <= 1 and (grey == grey[..., :1]).all()


def test_equalising_spreads_the_brightness_and_leaves_the_colours():
    photo = Image.fromarray((np.asarray(make_photo(3, 0, (64, 64))) // 4 + 60).astype(np.uint8))  # of little contrast
    before, after = (
        np.asarray(Image.fromarray(view.cut(photo)).convert("YCbCr"), np.float64)
        for view in (Preprocessing(64), Preprocessing(64, equalize=True))
    )
    assert np.ptp(before[..., 0]) < 100
    deciles = np.quantile(after[..., 0], np.linspace(0.1, 0.9, 9))
    # In the middle, where RGB holds every brightness of this colour
    assert np.abs(deciles[3:6] - 255 * np.linspace(0.4, 0.6, 3)).max() < 10
    dark = (after[..., 0] > 100) & (after[..., 0] < 180)
    assert np.abs(after[dark, 1:] - before[dark, 1:]).max() <= 2
    grey = Preprocessing(64, grayscale=True, equalize=True).cut(photo)
    assert (grey == grey[..., :1]).all() and np.ptp(grey) == 255


def test_blur_is_a_gaussian_of_two_pixels_of_224():
    point = np.zeros((224, 224, 3), np.uint8)
    point[112, 112] = 255
    blurred = (
        Preprocessing(224, blur=True).cut(Image.fromarray(np.kron(point, np.ones((1, 1, 1), np.uint8)))).astype(float)
    )
    edge = np.zeros((224, 224, 3), np.uint8)
    edge[:, 112:] = 255
    profile = Preprocessing(224, blur=True).cut(Image.fromarray(edge))[112, :, 0].astype(float)
    step = np.diff(profile) / 255
    places = np.arange(223) - 111
    assert abs((step * places).sum()) < 0.05 and abs((step * places**2).sum() ** 0.5 - 2) < 0.2
    assert 0 < blurred.max() < 30


def test_steps_are_part_of_what_names_a_pixel_cache():
    assert Preprocessing(24).geometry == {
        "size": 24,
        "fit": "crop",
        "shortest_edge": None,
    }  # caches of earlier versions
    views = [
        Preprocessing(24),
        Preprocessing(24, grayscale=True),
        Preprocessing(24, equalize=True),
        Preprocessing(24, blur=True),
    ]
    assert all(one.geometry != other.geometry for one in views for other in views if one is not other)
    assert Preprocessing(24, zca=make_zca()).geometry == Preprocessing(24).geometry  # which comes after what is kept


@pytest.mark.parametrize("side", [1, 3, 5])
def test_whitening_is_a_convolution_with_the_edges_going_on(side):
    zca, photo = make_zca(side=side), make_photo(1, 0, (20, 20))
    pixels, whitened = Preprocessing(20)(photo), Preprocessing(20, zca=zca)(photo)
    assert whitened.shape == (3, 20, 20) and whitened.dtype == np.float32
    for row, column in ((0, 0), (0, 19), (7, 12), (19, 10)):
        rows, columns = (np.clip(np.arange(side) - side // 2 + at, 0, 19) for at in (row, column))
        expected = (zca.kernel * pixels[:, rows[:, None], columns]).sum((1, 2, 3)) + zca.bias
        np.testing.assert_allclose(whitened[:, row, column], expected, atol=1e-4)


def test_the_region_is_what_is_seen():
    image = Image.new("RGB", (100, 40), "black")
    view = Preprocessing(32)
    left, top, right, bottom = view.region(100, 40)
    assert (left, top, right, bottom) == (30, 0, 70, 40)
    image.paste("white", (int(left), int(top), int(right), int(bottom)))
    assert view(image)[:, :, 1:-1].min() == 1.0 and view(image)[:, :, [0, -1]].max() < 1.0
    assert view.region(40, 100) == (0, 30, 40, 70)
    assert Preprocessing(32, "squash").region(100, 40) == (0, 0, 100, 40)


def test_views_that_can_not_be_made_are_refused():
    good = Preprocessing(32).to_preprocessor_config("ViTImageProcessor")
    for change, words in (
        ({"resample": 3}, "bilinear"),
        ({"crop_size": {"height": 32, "width": 16}}, "not square"),
        ({"size": {"shortest_edge": 16}}, "can't be cut"),
        ({"size": None}, "incomplete"),
        ({STEPS: ["grayscale"]}, "not an object of steps"),
        ({STEPS: {"greyscale": True}}, "greyscale True is no step that this version knows"),
        ({STEPS: {"blur": 2}}, "blur 2 is no step"),
        ({STEPS: {"zca": None}}, "zca is incomplete or not understood"),
        ({STEPS: {"zca": {"kernel": make_zca().kernel.tolist()}}}, "incomplete or not understood: 'bias'"),
        ({STEPS: {"zca": {"kernel": [[1, 2], [3]], "bias": [0, 0, 0]}}}, STEPS),
        ({STEPS: {"zca": {"kernel": np.ones((3, 3, 4, 4)).tolist(), "bias": [0, 0, 0]}}}, "a zca kernel of the shape"),
        ({STEPS: {"zca": {"kernel": np.ones((3, 3, 1, 1)).tolist(), "bias": [0, 0]}}}, "a zca kernel of the shape"),
        ({STEPS: {"zca": {"kernel": np.full((3, 3, 1, 1), np.nan).tolist(), "bias": [0, 0, 0]}}}, "not finite"),
    ):
        with pytest.raises(UserError, match=words):
            Preprocessing.from_preprocessor_config({**good, **change})
