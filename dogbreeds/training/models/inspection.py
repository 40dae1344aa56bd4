"""What can be asked of any image classifier: its classifier, its features, its cost."""

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


def flops_per_photo(model: PreTrainedModel, image_size: int) -> int:
    """Floating-point operations of one forward pass on one photo, a multiplication and an addition counted as two.

    torch counts those of convolutions, matrix products and attention; the others are few in comparison.
    """
    was_training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=model.device))
    model.train(was_training)
    return int(counter.get_total_flops())
