import json

import numpy as np
import pytest
from conftest import make_photo
from PIL import Image

from dogbreeds.errors import UserError
from dogbreeds.view import View

VIEWS = [
    View(32, "crop"),
    View(32, "squash"),
    View(32, "crop", shortest_edge=40, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
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


@pytest.mark.parametrize("view", VIEWS)
def test_the_checkpoint_brings_its_view(view):
    assert View.from_preprocessor_config(view.to_preprocessor_config("ViTImageProcessor")) == view


def test_the_region_is_what_is_seen():
    image = Image.new("RGB", (100, 40), "black")
    view = View(32)
    left, top, right, bottom = view.region(100, 40)
    assert (left, top, right, bottom) == (30, 0, 70, 40)
    image.paste("white", (int(left), int(top), int(right), int(bottom)))
    assert view(image)[:, :, 1:-1].min() == 1.0 and view(image)[:, :, [0, -1]].max() < 1.0
    assert view.region(40, 100) == (0, 30, 40, 70)
    assert View(32, "squash").region(100, 40) == (0, 0, 100, 40)


def test_views_that_can_not_be_made_are_refused():
    good = View(32).to_preprocessor_config("ViTImageProcessor")
    for change, words in (
        ({"resample": 3}, "bilinear"),
        ({"crop_size": {"height": 32, "width": 16}}, "not square"),
        ({"size": {"shortest_edge": 16}}, "can't be cut"),
        ({"size": None}, "incomplete"),
    ):
        with pytest.raises(UserError, match=words):
            View.from_preprocessor_config({**good, **change})
