"""From 8-bit pixels to what a model sees, at random or not: a batch at a time, on the device that trains."""

import math

import numpy as np
import torch
from torch import nn
from torchvision.transforms import InterpolationMode, v2

from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.loaders import seed_of
from dogbreeds.training.options import AugmentOptions

NUM_TRIES = 10
"""How often the proportions of a random crop are drawn until it lies within the photo, as torchvision does."""
MAX_PROPORTION = 4 / 3
"""Of a random crop, width to height or height to width (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842)."""
GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the grey that contrast is relative to (ITU-R BT.601, as in torchvision)."""
NUM_RAND_AUGMENT = 2
"""Changes that RandAugment draws for each view, as its authors do for ImageNet (Cubuk et al. 2020,
https://arxiv.org/abs/1909.13719)."""


class Normalise:
    """Normalised pixels, as `dogbreeds.preprocessing.Preprocessing` makes them for one photo."""

    def __init__(self, view: Preprocessing, device: torch.device) -> None:
        self._scale, self._shift = (torch.from_numpy(values).to(device) for values in view.scale_and_shift())
        zca = [] if view.zca is None else [view.zca.kernel, view.zca.bias]
        self._zca = [torch.from_numpy(values).to(device) for values in zca]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """`(B, H, W, 3)`, uint8 or float from 0 to 255, to float32 `(B, 3, H, W)` in channels-last memory."""
        normalised = (pixels.float() * self._scale - self._shift).permute(0, 3, 1, 2)
        if not self._zca:
            return normalised
        kernel, bias = self._zca
        margin = kernel.shape[-1] // 2
        # In float32 also where evaluation is called in another precision, as training and serving whiten
        with torch.autocast(normalised.device.type, enabled=False):
            padded = nn.functional.pad(normalised, (margin,) * 4, mode="replicate")
            return nn.functional.conv2d(padded, kernel, bias).contiguous(memory_format=torch.channels_last)


class RandomAugmentation:
    """Random views of a split's photos: another one in each epoch, the same for the same seed, epoch and photo.

    With fixed views, as many epochs in turn are different, and then the first of them comes again.

    They are those of torchvision's `RandomResizedCrop`, `RandomHorizontalFlip`, `RandomVerticalFlip`, `RandomRotation`
    by one of the turns, `RandomAffine` and `ColorJitter` one after the other, with the same options
    (tests/test_augment.py holds them against these), but the shape is changed in one step, by one grid for each photo,
    and a whole batch at a time: 16 processes of torchvision could not feed one GPU. What an epoch does to each photo is
    drawn beforehand, on the CPU, so it does not depend on batches, processes or the device. If asked for, torchvision's
    `RandAugment` then changes each view by itself, with a seed of its own.
    """

    def __init__(
        self, options: AugmentOptions, seed: int, preprocessing: Preprocessing, sizes: np.ndarray, device: torch.device
    ) -> None:
        """Prepare for one split.

        Args:
            options: What is drawn.
            seed: Of the run.
            preprocessing: What the model sees without random changes.
            sizes: `(N, 2)`, width and height of each photo, whose whole is in the pixels.
            device: Where the views are made.
        """
        self._options, self._seed = options, seed
        self._preprocessing, self._device = preprocessing, device
        self._sizes = sizes.astype(np.float64)
        self._moves = bool(options.rotation or options.zoom or options.shift or options.shear or any(options.turns))
        self._normalise = Normalise(preprocessing, device)
        self._grey = torch.tensor(GREY, device=device)[:, None, None]
        fill = [round(255 * mean) for mean in preprocessing.mean]
        self._fill = torch.tensor(fill, device=device).float()
        self._rand_augment = v2.RandAugment(
            NUM_RAND_AUGMENT, options.rand_augment, interpolation=InterpolationMode.BILINEAR, fill=fill
        )
        self._number = 0  # of what is drawn: the epoch, or the fixed view
        # The centres of the view's pixels, where its left, right, top and bottom edges are at -1 and 1
        centres = (torch.arange(preprocessing.size, device=device).float() + 0.5) * (2 / preprocessing.size) - 1
        self._centres = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).flatten(0, 1)

    def draw(self, epoch: int) -> None:
        """Draw what happens to each photo in this epoch."""
        options = self._options
        num_photos = len(self._sizes)
        self._number = number = epoch % options.fixed_views if options.fixed_views else epoch
        rng = np.random.default_rng(seed_of(self._seed, number, 1))

        def either_way(largest: float) -> np.ndarray:
            return rng.uniform(-largest, largest, num_photos)

        left, top, width, height = self._draw_crops(rng).T
        photo_width, photo_height = self._sizes.T
        centre = np.stack([(2 * left + width) / photo_width - 1, (2 * top + height) / photo_height - 1], axis=1)
        half = np.stack([width / photo_width, height / photo_height], axis=1)
        half[rng.random(num_photos) < options.flip, 0] *= -1
        angle, shear = np.radians(either_way(options.rotation)), np.radians(either_way(options.shear))
        scale = 1 + either_way(options.zoom)
        shift = np.stack([either_way(2 * options.shift), either_way(2 * options.shift)], axis=1)  # the view is 2 wide
        brightness = 1 + either_way(options.brightness)
        first = rng.random(num_photos) < 0.5  # brightness before contrast, or after it
        light = np.stack(
            [np.where(first, brightness, 1), 1 + either_way(options.contrast), np.where(first, 1, brightness)]
        )
        half[rng.random(num_photos) < options.vertical_flip, 1] *= -1
        turn = np.radians(rng.choice(options.turns, num_photos))
        # From the view to the crop: the inverse of torchvision's rotation, shear in x and scale about the centre, and
        # then of the turn, which comes before them, and is counter-clockwise as `RandomRotation`
        tan, cos, sin = np.tan(shear), np.cos(angle), np.sin(angle)
        inverse = np.array([[cos - sin * tan, cos * tan + sin], [-sin, cos]]) / scale
        cos, sin = np.cos(turn).round(), np.sin(turn).round()
        inverse = np.einsum("ijn,jkn->nik", [[cos, -sin], [sin, cos]], inverse)
        self._crop_centre, self._crop_half, self._shift, self._inverse, self._light = (
            torch.from_numpy(values).float().to(self._device) for values in (centre, half, shift, inverse, light)
        )

    def __call__(self, indices: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The views of this epoch.

        Args:
            indices: `(B,)`, which photos of the split.
            pixels: `(B, S, S, 3)` uint8, each photo's whole, squashed to a square.

        Returns:
            float32 `(B, 3, size, size)`, normalised.
        """
        size = self._preprocessing.size
        places = self._centres.expand(len(indices), -1, -1)  # (B, size * size, 2), in the view
        if self._moves:
            places = (places - self._shift[indices, None]) @ self._inverse[indices].mT
        grid = places * self._crop_half[indices, None] + self._crop_centre[indices, None]  # in the photo
        photos = pixels.permute(0, 3, 1, 2).float()
        views = nn.functional.grid_sample(
            photos, grid.unflatten(1, (size, size)), padding_mode="border", align_corners=False
        )
        if self._moves:
            outside = (places.abs() > 1).any(-1).unflatten(1, (size, size))[:, None]
            views = torch.where(outside, self._fill[:, None, None], views)
        if self._options.brightness or self._options.contrast:
            views = self._lit(views, self._light[:, indices, None, None, None])
        if self._options.rand_augment:
            views = self._rand_augmented(indices, views)
        return self._normalise(views.permute(0, 2, 3, 1))

    def _rand_augmented(self, indices: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Views `(B, 3, H, W)` in 8 bits, changed one by one: torchvision draws once for all that it is given."""
        eight_bits, changed = views.round().clamp(0, 255).to(torch.uint8), []
        with torch.random.fork_rng(devices=[]):  # it draws from the CPU's generator, which the training step seeds
            for index, view in zip(indices.tolist(), eight_bits, strict=True):
                torch.default_generator.manual_seed(seed_of(self._seed, self._number, 2, index))
                changed.append(self._rand_augment(view))
        return torch.stack(changed)

    def _lit(self, views: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
        brightness, contrast, brightness_after = light
        views = (views * brightness).clamp(0, 255)
        grey = (views * self._grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        views = (grey + contrast * (views - grey)).clamp(0, 255)
        return (views * brightness_after).clamp(0, 255)

    def _draw_crops(self, rng: np.random.Generator) -> np.ndarray:
        """Of each photo the part that is seen: left, top, width, height `(N, 4)`, in the photo's pixels."""
        if self._options.crop_scale == 1:
            regions = np.array([self._preprocessing.region(int(width), int(height)) for width, height in self._sizes])
            return np.concatenate([regions[:, :2], regions[:, 2:] - regions[:, :2]], axis=1)
        num_photos = len(self._sizes)
        width, height = self._sizes.T
        area = (width * height)[:, None] * rng.uniform(self._options.crop_scale, 1, (num_photos, NUM_TRIES))
        limit = math.log(MAX_PROPORTION)
        proportion = np.exp(rng.uniform(-limit, limit, (num_photos, NUM_TRIES)))
        widths, heights = np.sqrt(area * proportion), np.sqrt(area / proportion)
        fits = (widths <= width[:, None]) & (heights <= height[:, None])
        first = (np.arange(num_photos), fits.argmax(axis=1))
        found = fits.any(axis=1)
        # Of a photo that is too long for any of them: the largest part of an allowed proportion, from the middle
        crop_width = np.where(found, widths[first], np.minimum(width, height * MAX_PROPORTION))
        crop_height = np.where(found, heights[first], np.minimum(height, width * MAX_PROPORTION))
        across, down = np.where(found, rng.random((2, num_photos)), 0.5)
        left, top = across * (width - crop_width), down * (height - crop_height)
        return np.stack([left, top, crop_width, crop_height], axis=1)
