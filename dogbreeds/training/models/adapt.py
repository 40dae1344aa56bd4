"""Which weights of a model are trained: all, the classifier's, or few others beside these (BitFit, LoRA, VPT)."""

import math
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from dogbreeds.errors import UserError
from dogbreeds.training.models.inspection import classifier_of
from dogbreeds.training.models.visual_prompts import prompts_of
from dogbreeds.training.options import ModelOptions

ModelT = TypeVar("ModelT", bound=nn.Module)

LORA_RANK = 8
"""Of RoBERTa in Hu et al. 2022 (https://arxiv.org/abs/2106.09685, appendix D), whose alpha is 8 too: the product of the
two matrices is added as it is."""

_PROJECTIONS = {"query", "value", "q_proj", "v_proj", "qkv"}
"""What architectures call the projections to queries and values, which Hu et al. find to be the best to adapt; some of
timm have one layer for these and the keys."""

_NEEDED = {
    "bitfit": "biases",
    "lora": "projections to queries and values, and no pointwise convolutions",
}
"""What of a backbone each way needs."""


def choose_trained(model: PreTrainedModel, options: ModelOptions) -> None:
    """Leave gradients to the weights that are trained; for LoRA these are new ones, see `merge_parts`.

    Args:
        model: The whole network, changed in place; for VPT from `with_prompts`.
        options: `freeze_backbone` and `adapt` are used.

    Raises:
        UserError: The backbone has no weights of the kind that is to be trained.
    """
    classifier_name, classifier = classifier_of(model)
    if options.freeze_backbone:
        model.requires_grad_(False)
    elif options.adapt == "vpt":
        model.requires_grad_(False)
        prompts_of(model).requires_grad_(True)
        parametrize.register_parametrization(classifier, "weight", OfClassToken())
    elif options.adapt in ("bitfit", "lora"):
        if options.adapt == "lora":
            _add_lora(model)
        else:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.endswith("bias"))  # also q_bias and v_bias of timm
        if all(name.startswith(classifier_name) for name, each in model.named_parameters() if each.requires_grad):
            raise UserError(
                f"--adapt {options.adapt}: {options.model!r} has no {_NEEDED[options.adapt]}; leave --adapt "
                f"{options.adapt} out, or give another --model"
            )
    classifier.requires_grad_(True)


def merge_parts(model: ModelT) -> ModelT:
    """Make weights whole again of which parts are trained, for LoRA and VPT: the network, as if it never had any.

    Args:
        model: Changed in place; one without such parts stays as it is.
    """
    module: Any
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], PARTS):
            # PyTorch's `remove_parametrizations` takes the weight from the class too, which deep copies share.
            weight = nn.Parameter(module.weight.detach())
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            module.weight = weight
    return model


class LowRank(nn.Module):
    """Adds the product of two small matrices to a weight.

    PyTorch's parametrisation leaves layers what they are; peft puts others in their place, without the attributes that
    architectures read, such as MobileNetV2 the stride. It also adapts weights that are standardised first, as in BiT.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        """Make matrices whose product is 0 at first, for a weight `(out, in)` or `(out, in, 1, 1)`."""
        super().__init__()
        num_outputs, num_inputs = weight.shape[:2]
        self.down = nn.Parameter(torch.empty(LORA_RANK, num_inputs))
        self.up = nn.Parameter(torch.zeros(num_outputs, LORA_RANK))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as PyTorch's linear layers, and the authors' code

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight that the layer uses."""
        return weight + (self.up @ self.down).view_as(weight)


class OfClassToken(nn.Module):
    """Leaves a classifier the class token alone, as VPT has it, where it could see the mean of the patches too."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight `(C, 2 D)` that the layer uses, of that for the class token `(C, D)`."""
        return torch.cat([weight, torch.zeros_like(weight)], dim=1)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """What `forward` makes the weight of."""
        return weight[:, : weight.shape[1] // 2].clone()


PARTS = (LowRank, OfClassToken)
"""The parametrisations that only training needs."""


def _add_lora(model: PreTrainedModel) -> None:
    model.requires_grad_(False)
    named = list(model.named_modules())
    projections: list[Any] = [
        module for name, module in named if isinstance(module, nn.Linear) and name.rpartition(".")[2] in _PROJECTIONS
    ]
    for module in projections or [module for _, module in named if _is_pointwise(module)]:
        parametrize.register_parametrization(module, "weight", LowRank(module.weight))


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
