"""Random views made a batch at a time, held against those of torchvision for one photo at a time."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image, ImageFilter
from torchvision.transforms import InterpolationMode, v2

from dogbreeds.errors import UserError
from dogbreeds.preprocessing import Preprocessing, Zca
from dogbreeds.training.augment import Normalise, RandomAugmentation
from dogbreeds.training.options import AUGMENTATIONS, TrainConfig
from dogbreeds.training.train import fit, set_up, train
from dogbreeds.training_script import one_for_each_seed

SIZE = 32
VIEW = Preprocessing(SIZE, mean=(0.5, 0.4, 0.6), std=(0.5, 0.25, 0.2))


def smooth_photo(width, height):
    """A photo without detail finer than the views, for torchvision smooths what it shrinks and a grid does not."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    photo = np.asarray(noise.filter(ImageFilter.GaussianBlur(max(width, height) / 10)), np.float32)
    return Image.fromarray(((photo - photo.min()) * (255 / np.ptp(photo))).astype(np.uint8))


def ours(photo, num_views, tmp_path, **options):
    """Views of one photo, as training makes them."""
    config = tiny_config("data", tmp_path / "run", image_size=SIZE, **options)
    views = RandomAugmentation(
        config.augment,
        config.run.seed,
        VIEW,
        np.array([photo.size] * num_views),
        torch.device("cpu"),
    )
    views.draw(epoch=0)
    whole = torch.from_numpy(Preprocessing(64, "squash").cut(photo).copy())
    return views(torch.arange(num_views), whole.expand(num_views, -1, -1, -1))


def torchvisions(
    photo,
    num_views,
    crop_scale=0.35,
    flip=0.5,
    vertical_flip=0.0,
    turns=(0,),
    rotation=0.0,
    zoom=0.0,
    shift=0.0,
    shear=0.0,
    rand_augment=0,
    **light,
):
    transforms = [
        v2.RandomResizedCrop(SIZE, scale=(crop_scale, 1.0), antialias=True),
        v2.RandomHorizontalFlip(flip),
        v2.RandomVerticalFlip(vertical_flip),
    ]
    if turns != (0,):  # what changes nothing takes as long as what does
        transforms.append(v2.RandomChoice([v2.RandomRotation((turn, turn)) for turn in turns]))
    if rotation or zoom or shift or shear:
        transforms.append(
            v2.RandomAffine(
                rotation,
                translate=(shift, shift),
                scale=(1 - zoom, 1 + zoom),
                shear=shear or None,
                interpolation=InterpolationMode.BILINEAR,
                fill=[round(255 * mean) for mean in VIEW.mean],
            )
        )
    if light:
        transforms.append(v2.ColorJitter(light.get("brightness", 0), light.get("contrast", 0)))
    if rand_augment:
        fill = [round(255 * mean) for mean in VIEW.mean]
        transforms.append(v2.RandAugment(2, rand_augment, interpolation=InterpolationMode.BILINEAR, fill=fill))
    transform = v2.Compose(transforms)
    torch.manual_seed(0)
    views = torch.from_numpy(np.stack([np.asarray(transform(photo)) for _ in range(num_views)])).permute(0, 3, 1, 2)
    return v2.functional.normalize(views.float() / 255, list(VIEW.mean), list(VIEW.std))


ALL = {"rotation": 30.0, "zoom": 0.15, "shift": 0.1, "shear": 10.0, "brightness": 0.5, "contrast": 0.1}


TURNED = {"turns": (90, 180), "rotation": 15.0, "shift": 0.2}
TOGETHER = [
    ((48, 36), {}), ((80, 30), {}), ((48, 36), ALL), ((36, 48), ALL), ((36, 48), TURNED), ((80, 30), TURNED),
    ((48, 36), {"rand_augment": 9}),
]  # fmt: skip
ALONE = [  # which tells, where one of these fails, which option it is
    {"crop_scale": 0.8, "flip": 0.0},
    {"vertical_flip": 0.3},
    {"turns": (90,)},
    {"turns": (0, 180, 270), "vertical_flip": 0.5},
    {"rotation": 20.0},
    {"zoom": 0.4},
    {"shift": 0.3},
    {"shear": 30.0},
    {"brightness": 0.5},
    {"contrast": 0.9},
]


@pytest.mark.parametrize(
    ("size", "options"),
    [*TOGETHER, *(pytest.param((48, 36), options, marks=pytest.mark.slow) for options in ALONE)],
    ids=str,
)
def test_statistics_are_those_of_torchvision(size, options, tmp_path):
    """Over many views, the mean and the spread at each place are the same."""
    photo, num_views = smooth_photo(*size), 1000
    mine, theirs = ours(photo, num_views, tmp_path, **options), torchvisions(photo, num_views, **options)
    assert mine.shape == theirs.shape and mine.dtype == torch.float32
    # What chance alone moves the mean of this many views by, and five times that; with what rounding to 8 bits between
    # torchvision's steps and smoothing differ by.
    noise = 5 * theirs.std(0) * (2 / num_views) ** 0.5 + 0.04
    assert ((mine.mean(0) - theirs.mean(0)).abs() < noise).all()
    assert ((mine.std(0) - theirs.std(0)).abs() < noise).all()


def test_statistics_tell_other_options_apart(tmp_path):
    photo = smooth_photo(48, 36)
    theirs = torchvisions(photo, 1000, rotation=20.0)
    noise = 5 * theirs.std(0) * (2 / 1000) ** 0.5 + 0.04
    for other in ({}, {"rotation": 40.0}, {"rotation": 20.0, "flip": 0.0}, {"rotation": 20.0, "crop_scale": 0.6}):
        mine = ours(photo, 1000, tmp_path, **other)
        same_mean = ((mine.mean(0) - theirs.mean(0)).abs() < noise).all()
        assert not (same_mean and ((mine.std(0) - theirs.std(0)).abs() < noise).all()), other


def test_statistics_tell_other_turns_apart(tmp_path):
    photo = smooth_photo(48, 36)
    theirs = torchvisions(photo, 1000, turns=(90,), flip=0.0)
    noise = 5 * theirs.std(0) * (2 / 1000) ** 0.5 + 0.04
    for other in ({"turns": (270,)}, {"turns": (0,)}, {"turns": (90,), "vertical_flip": 0.2}):
        assert not ((ours(photo, 1000, tmp_path, flip=0.0, **other).mean(0) - theirs.mean(0)).abs() < noise).all()


def test_statistics_tell_other_magnitudes_apart(tmp_path):
    photo = smooth_photo(48, 36)
    theirs = torchvisions(photo, 1000, rand_augment=9)
    noise = 5 * theirs.std(0) * (2 / 1000) ** 0.5 + 0.04
    for other in ({}, {"rand_augment": 20}):
        mine = ours(photo, 1000, tmp_path, **other)
        same_mean = ((mine.mean(0) - theirs.mean(0)).abs() < noise).all()
        assert not (same_mean and ((mine.std(0) - theirs.std(0)).abs() < noise).all()), other


def test_a_quarter_turn_moves_pixels_and_changes_none(tmp_path):
    photo = smooth_photo(48, 48)
    whole = {"crop_scale": 1.0, "flip": 0.0}
    plain = ours(photo, 1, tmp_path, **whole)
    for turn in (90, 180, 270):
        turned = ours(photo, 1, tmp_path, **whole, turns=(turn,))
        torch.testing.assert_close(turned, torch.rot90(plain, turn // 90, (2, 3)), atol=1e-4, rtol=0)
    upside_down = ours(photo, 1, tmp_path, **whole, vertical_flip=1.0)
    torch.testing.assert_close(upside_down, plain.flip(2), atol=1e-4, rtol=0)


def test_fixed_views_come_again_in_turn(tmp_path):
    config = tiny_config("data", tmp_path / "run", augmentation="mild", fixed_views=3)
    photo = smooth_photo(48, 36)
    whole = torch.from_numpy(Preprocessing(64, "squash").cut(photo).copy())[None]
    views = RandomAugmentation(config.augment, config.run.seed, VIEW, np.array([photo.size]), torch.device("cpu"))
    shown = []
    for epoch in range(7):
        views.draw(epoch)
        shown.append(views(torch.tensor([0]), whole))
    for epoch in range(7):
        same = [other for other in range(7) if torch.equal(shown[epoch], shown[other])]
        assert same == list(range(epoch % 3, 7, 3))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_named_augmentation_is_its_options(name, tmp_path):
    config = tiny_config("data", tmp_path / "run", augmentation=name, freeze_backbone=True)
    assert config.random_views  # though a frozen backbone alone has none
    assert (config.augment.crop_scale, config.augment.flip) == (1.0, 0.5)
    assert all(getattr(config.augment, option) == value for option, value in AUGMENTATIONS[name].items())
    spelled = tiny_config("data", tmp_path / "run", crop_scale=1.0, **AUGMENTATIONS[name])
    photo = smooth_photo(48, 36)
    assert torch.equal(
        ours(photo, 20, tmp_path, augmentation=name), ours(photo, 20, tmp_path, crop_scale=1.0, **AUGMENTATIONS[name])
    )
    more = {"augmentation": name, "adapt": "classifier", "freeze_backbone": True}
    assert spelled != config and {**spelled.to_dict(), **more} == config.to_dict()
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()
    assert [each.augment.augmentation for each in one_for_each_seed(config, ("1,2",))] == [name, name]


def test_a_named_augmentation_takes_no_other_values(tmp_path):
    for options, words in (
        ({"rotation": 30.0}, r"--rotation 30.0: --augmentation mild sets it to 20.0; leave one out"),
        ({"crop_scale": 0.5}, r"--crop-scale 0.5: --augmentation mild sets it to 1.0"),
        ({"augmentation": "turns", "turns": (90, 180)}, r"--turns 90 180: --augmentation turns sets it to 0 180 270"),
        ({"augment": "off"}, r"--augment off leaves nothing of --augmentation mild"),
        ({"augmentation": "wild"}, r"--augmentation wild: must be one of mild, strong, turns, ninefold"),
    ):
        with pytest.raises(UserError, match=words):
            tiny_config("data", tmp_path / "run", **{"augmentation": "mild", **options})
    tiny_config("data", tmp_path / "run", augmentation="mild", rotation=20.0, shear=5.0)


def test_random_views_that_would_not_be_made_are_not_asked_for(tmp_path):
    for options, words in (
        ({"freeze_backbone": True, "rotation": 20.0}, "--rotation 20.0: a frozen backbone leaves nothing of it"),
        ({"freeze_backbone": True, "turns": (0, 180)}, "--turns 0 180: a frozen backbone leaves nothing of it"),
        ({"freeze_backbone": True, "rand_augment": 9}, "--rand-augment 9: a frozen backbone leaves nothing of it"),
        (
            {"augment": "off", "crop_scale": 0.5},
            "--crop-scale 0.5: --augment off leaves nothing of it; add --augment on",
        ),
    ):
        with pytest.raises(UserError, match=words):
            train(tiny_config("data", tmp_path / "run", **options))
    assert tiny_config("data", tmp_path / "run", freeze_backbone=True, augment="on", rotation=20.0).random_views


def test_views_are_a_function_of_seed_epoch_and_photo(tmp_path):
    config = tiny_config("data", tmp_path / "run", rotation=20, zoom=0.15, shift=0.1, shear=5, brightness=0.5)
    sizes = np.array([(50 + index, 40) for index in range(12)])
    pixels = torch.randint(0, 256, (12, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def views(config, epoch, photos):
        made = RandomAugmentation(config.augment, config.run.seed, VIEW, sizes, torch.device("cpu"))
        made.draw(epoch)
        return made(torch.tensor(photos), pixels[photos])

    together = views(config, 3, list(range(12)))
    torch.testing.assert_close(views(config, 3, [7, 2]), together[[7, 2]])  # whatever the batch
    assert not torch.allclose(views(config, 4, list(range(12))), together)  # another epoch
    other = tiny_config("data", tmp_path / "run", rotation=20, zoom=0.15, shift=0.1, shear=5, brightness=0.5, seed=1)
    assert not torch.allclose(views(other, 3, list(range(12))), together)


def test_rand_augment_is_a_function_of_seed_epoch_and_photo_and_leaves_other_chance_alone(tmp_path):
    sizes = np.array([(50, 40)] * 12)
    pixels = torch.randint(0, 256, (12, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def views(epoch, photos, **options):
        config = tiny_config("data", tmp_path / "run", rand_augment=9, crop_scale=1.0, flip=0.0, **options)
        made = RandomAugmentation(config.augment, config.run.seed, VIEW, sizes, torch.device("cpu"))
        made.draw(epoch)
        return made(torch.tensor(photos), pixels[photos])

    before = torch.get_rng_state()
    together = views(3, list(range(12)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(views(3, [7, 2]), together[[7, 2]])  # whatever the batch
    for other in (views(4, list(range(12))), views(3, list(range(12)), seed=1)):
        assert sum(torch.equal(*pair) for pair in zip(other, together, strict=True)) < 6
    fixed = [views(epoch, [5], fixed_views=2) for epoch in (0, 2, 1)]
    assert torch.equal(fixed[0], fixed[1]) and not torch.equal(fixed[0], fixed[2])


def test_rand_augment_trains_the_same_with_workers_that_decode(photo_folder, tmp_path):
    runs = []
    for options in ({}, {"cache": "off", "num_workers": 2}, {"seed": 1}, {"rand_augment": 0}):
        config = tiny_config(photo_folder, tmp_path / "run", **{"rand_augment": 9, "epochs": 1, **options})
        run = set_up(config, saves=False)
        fit(run)
        runs.append(run.learner.full_model.classifier.weight.detach())
    assert torch.equal(runs[0], runs[1])
    assert not any(torch.equal(runs[0], other) for other in runs[2:])


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_without_random_changes_the_training_view_is_the_view(fit, tmp_path):
    view = Preprocessing(SIZE, fit)
    photo = smooth_photo(64, 48)
    config = tiny_config("data", tmp_path / "run", crop_scale=1.0, flip=0.0, augment="on", fit=fit)
    views = RandomAugmentation(config.augment, config.run.seed, view, np.array([photo.size]), torch.device("cpu"))
    views.draw(0)
    whole = torch.from_numpy(Preprocessing(64, "squash").cut(photo).copy())[None]
    np.testing.assert_allclose(views(torch.tensor([0]), whole)[0].numpy(), view(photo), atol=0.08)


def test_normalised_pixels_are_those_of_the_view():
    photo = smooth_photo(64, 48)
    batch = Normalise(VIEW, torch.device("cpu"))(torch.from_numpy(VIEW.cut(photo).copy())[None])
    np.testing.assert_allclose(batch[0].numpy(), VIEW(photo), atol=1e-6)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def a_zca():
    rng = np.random.default_rng(0)
    return Zca(rng.normal(size=(3, 3, 5, 5)).astype(np.float32), rng.normal(size=3).astype(np.float32))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_whitened_pixels_are_those_of_the_view(precision):
    """In evaluation the model is called in the run's precision, the whitening is not."""
    view = Preprocessing(SIZE, mean=(0.5, 0.4, 0.6), std=(0.5, 0.25, 0.2), grayscale=True, blur=True, zca=a_zca())
    photo = smooth_photo(64, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        batch = Normalise(view, torch.device("cpu"))(torch.from_numpy(view.cut(photo).copy())[None])
    assert batch.dtype == torch.float32 and batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(batch[0].numpy(), view(photo), atol=1e-4)


def test_random_views_are_whitened_after_they_are_made(tmp_path):
    photo, device = smooth_photo(48, 36), torch.device("cpu")
    whole = torch.from_numpy(Preprocessing(64, "squash").cut(photo).copy())[None]
    config = tiny_config("data", tmp_path / "run", rotation=20.0)
    plain, whitened = (
        RandomAugmentation(config.augment, config.run.seed, view, np.array([photo.size]), device)
        for view in (Preprocessing(SIZE), Preprocessing(SIZE, zca=a_zca()))
    )
    for views in (plain, whitened):
        views.draw(0)
    expected = a_zca()(plain(torch.tensor([0]), whole)[0].numpy())
    np.testing.assert_allclose(whitened(torch.tensor([0]), whole)[0].numpy(), expected, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_on_a_gpu_are_those_on_the_cpu(tmp_path):
    config = tiny_config("data", tmp_path / "run", rotation=20, zoom=0.15, shift=0.1, shear=5, contrast=0.5)
    pixels = torch.randint(0, 256, (8, 40, 40, 3), dtype=torch.uint8)
    made = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        views = RandomAugmentation(config.augment, config.run.seed, VIEW, np.array([(50, 40)] * 8), device)
        views.draw(0)
        made.append(views(torch.arange(8, device=device), pixels.to(device)).cpu())
    torch.testing.assert_close(made[0], made[1], atol=1e-3, rtol=1e-3)
