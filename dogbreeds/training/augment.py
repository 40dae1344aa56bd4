"""Random views of a photo, for training alone."""

from collections.abc import Callable

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from dogbreeds.training.config import TrainConfig
from dogbreeds.view import View


def random_view(config: TrainConfig, view: View) -> Callable[[Image.Image], torch.Tensor]:
    """The transform that gives another view of a photo each time it is called.

    A random resized crop and a horizontal flip unless the options say otherwise (Szegedy et al. 2015,
    https://arxiv.org/abs/1409.4842), then the other changes of shape and light that are asked for, then the view's own
    normalisation. It draws from torch's global generator.

    Returns:
        A function from an RGB image to a float32 tensor `(3, view.size, view.size)`.
    """
    size = [view.size, view.size]
    steps: list[torch.nn.Module] = []
    if config.crop_scale < 1:
        steps.append(v2.RandomResizedCrop(size, scale=(config.crop_scale, 1.0), antialias=True))
    elif view.fit == "squash":
        steps.append(v2.Resize(size, antialias=True))
    else:
        steps += [v2.Resize(view.shortest_edge or view.size, antialias=True), v2.CenterCrop(size)]
    if config.flip:
        steps.append(v2.RandomHorizontalFlip(config.flip))
    if config.rotation or config.zoom or config.shift or config.shear:
        steps.append(
            v2.RandomAffine(
                degrees=config.rotation,
                translate=(config.shift, config.shift),
                scale=(1 - config.zoom, 1 + config.zoom),
                shear=config.shear or None,
                interpolation=InterpolationMode.BILINEAR,
                fill=[round(255 * mean) for mean in view.mean],
            )
        )
    if config.brightness or config.contrast:
        steps.append(v2.ColorJitter(brightness=config.brightness, contrast=config.contrast))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(view.mean), list(view.std))]
    return v2.Compose(steps)
