"""What can be asked of any image classifier: its classifier, its features, its cost."""

import re
from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel


def classifier_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """The last linear layer, which gives the logits, with its name: ``classifier`` in most models."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def features_of(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """The input of the model's classifier: features `(B, D)` of pixels `(B, 3, H, W)`."""
    features: list[torch.Tensor] = []
    with classifier_of(model)[1].register_forward_pre_hook(lambda module, inputs: features.append(inputs[0])):
        model(pixel_values=pixels)
    return features[0]


_BLOCK = re.compile(r"((?!\.parametrizations).)*?\.\d+(\.\d+)*(?=\.)")
"""The beginning of a parameter's name: ``vit.layers.3``, or ``timm_model.blocks.1.0`` where stages hold blocks. The
numbers of PyTorch's parametrisations, such as LoRA, are of no layer."""


def layers_above(names: Iterable[str]) -> list[int]:
    """How many layers lie between each parameter and the classifier, with which those after the last block count.

    The layers are numbered in the names; what comes before them, the stem or the embeddings, is one more.

    Args:
        names: Of all parameters, in the order of the network.
    """
    blocks: dict[str, int] = {}
    found: list[tuple[bool, int]] = []
    for name in names:
        if block := _BLOCK.match(name):
            blocks.setdefault(block[0], len(blocks) + 1)
        found.append((block is None, blocks[block[0]] if block else len(blocks)))
    return [0 if outside and depth == len(blocks) else len(blocks) + 1 - depth for outside, depth in found]


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The numbered layers of `layers_above`, by their names, in the order of the network."""
    found = (_BLOCK.match(name) for name, _ in model.named_parameters())
    return {block[0]: model.get_submodule(block[0]) for block in found if block}


def flops_per_photo(model: PreTrainedModel, image_size: int) -> int:
    """Floating-point operations of one forward pass on one photo, a multiplication and an addition counted as two.

    torch counts those of convolutions, matrix products and attention; the others are few in comparison.
    """
    was_training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=model.device))
    model.train(was_training)
    return int(counter.get_total_flops())
