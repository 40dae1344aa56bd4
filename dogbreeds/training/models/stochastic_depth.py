"""Stochastic depth: in training, residual branches are left out at random (Huang et al. 2016)."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.ops import stochastic_depth

from dogbreeds.errors import UserError

_PLACE = re.compile(r"drop_path\d?")
"""What timm and transformers call the module behind a branch that would leave it out, and is the identity by default.
Their own `drop_path_rate` is not set: it would be stored in config.json, and hold for runs that start from this one."""

_ENDS = {
    "DeiTLayer": "dropout",
    "LevitResidualLayer": "module",
    "MobileNetV2InvertedResidual": "reduce_1x1",
    "ResNetBasicLayer": "layer",
    "ResNetBottleNeckLayer": "layer",
    "ViTLayer": "dropout",
}
"""Of blocks of transformers without such a module, the one that each branch ends with: `ViTLayer` calls its dropout for
the attention's branch and again for the other."""


def add_stochastic_depth(model: nn.Module, rate: float, name: str) -> dict[str, float]:
    """Leave residual branches out in training mode, of each photo of a batch others; what is kept is scaled up.

    The rate grows with the depth, as in Huang et al. 2016 (https://arxiv.org/abs/1603.09382): block l of L has l / L of
    it. It is done by hooks, which are no part of the weights or of the config; evaluation and exports see none of it.

    Args:
        model: Changed in place.
        rate: Share of the photos for which a branch of the last block is left out; above 0 and below 1.
        name: Of the model, for messages.

    Returns:
        The rate of each residual block, by its name, in the order of the network.

    Raises:
        UserError: No residual blocks were found in the network.
    """
    places = list(_branch_ends(model))
    blocks = list(dict.fromkeys(block for block, _ in places))
    if not blocks:
        raise UserError(
            f"--drop-path {rate}: no residual branches were found in {name!r} ({type(model).__name__}), but in "
            "MobileNetV2, ResNet, BiT, ConvNeXt, ViT, DeiT, BEiT, Swin and LeViT of transformers, and in EfficientNet, "
            "ConvNeXt and ViT of timm; leave it out, or take one of these"
        )
    rates = {block: rate * number / len(blocks) for number, block in enumerate(blocks, 1)}
    for block, place in places:
        if hasattr(place, "drop_prob"):  # some configs ask for it themselves, such as Swin's
            place.drop_prob = 0.0
        place.register_forward_hook(partial(_left_out, rates[block]))  # a lambda can't be pickled
    return rates


def _branch_ends(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The module that each residual branch ends with, after the name of its block."""
    for name, block in model.named_modules():
        # MobileNetV2's blocks, and timm's alike, add their input only where it has the shape of the output.
        if getattr(block, "use_residual", True) and getattr(block, "has_skip", True):
            for child, module in block.named_children():
                if _PLACE.fullmatch(child) or _ENDS.get(type(block).__name__) == child:
                    yield name, module


def _left_out(rate: float, module: nn.Module, inputs: tuple[Any, ...], branch: torch.Tensor) -> torch.Tensor:
    return stochastic_depth(branch, rate, "row", module.training)
