"""The optimiser with its parameter groups, and how the learning rate moves."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dogbreeds.training.models.inspection import classifier_of, layers_above
from dogbreeds.training.options import OptimizerName, OptimOptions

PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 2
"""Epochs without a better validation loss that are let pass; at the end of the next one the rate falls."""


def ftrl(parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Follow the regularised leader (McMahan et al. 2013, https://dl.acm.org/doi/10.1145/2487575.2488200)."""
    from pytorch_optimizer import FTRL  # PyTorch has none

    return FTRL([{**group, "lambda_2": group["weight_decay"]} for group in parameters])


OPTIMIZERS: dict[OptimizerName, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {}),
    "adam": (torch.optim.Adam, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-7}),
    "nadam": (torch.optim.NAdam, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adamax": (torch.optim.Adamax, {}),
    "ftrl": (ftrl, {}),
}
"""Of each name what makes it, and options. RMSprop's are Keras's, for which the earlier projects' rates were found; the
classic SGD of networks has momentum."""

FUSED = ("adamw", "adam", "sgd")
"""Those whose whole step PyTorch does in a few kernels, on CPUs and Nvidia's GPUs."""


def build_optimizer(model: nn.Module, options: OptimOptions, *, fused: bool) -> torch.optim.Optimizer:
    """The optimiser of a run, with the parameters to train.

    Args:
        model: Of its parameters those are trained that want gradients.
        options: `optimizer`, the rates and `decay` are used.
        fused: Take the fused implementation, if there is one.
    """
    make, constants = OPTIMIZERS[options.optimizer]
    if fused and options.optimizer in FUSED:
        constants = {**constants, "fused": True}
    return make(parameter_groups(model, options), **constants)


_NEVER_DECAY = ("cls_token", "dist_token", "reg_token", "mask_token", "position_embeddings", "pos_embed")
"""What transformers and timm call the embeddings of tokens and of positions."""


def parameter_groups(model: nn.Module, options: OptimOptions) -> list[dict[str, Any]]:
    """The parameters to train, by learning rate and weight decay.

    Matrices and convolution kernels decay; whatever has one dimension (biases, the scales of normalisation layers)
    and the embeddings of class token and positions do not (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101;
    the exceptions are those of Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, and of timm). With
    `layer_decay`, each layer of the backbone has groups of its own.
    """
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    head_name, named = classifier_of(model)[0], dict(model.named_parameters())
    for (name, parameter), num_above in zip(named.items(), layers_above(named), strict=True):
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(_NEVER_DECAY)
            is_head = name.startswith(f"{head_name}.")
            scale = 1.0 if is_head else options.layer_decay**num_above
            groups.setdefault((is_head, scale, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": scale * (options.head_learning_rate if is_head else options.learning_rate),
            "weight_decay": options.decay if decays else 0.0,
        }
        for (is_head, scale, decays), parameters in groups.items()
    ]


class Schedule:
    """The learning rate over a run: a linear warm-up, then cosine to 0, constant, or falling on a plateau."""

    def __init__(self, optimizer: torch.optim.Optimizer, options: OptimOptions, num_steps: int) -> None:
        """Set the rate of the first step.

        Args:
            optimizer: Its groups' learning rates are the largest ones.
            options: `schedule` and `warmup_fraction` are used.
            num_steps: Steps of the optimiser in the whole run.
        """
        self._kind, self._num_warmup = options.schedule, round(options.warmup_fraction * num_steps)
        self._num_cosine = max(1, num_steps - self._num_warmup)
        self._by_step = LambdaLR(optimizer, self._factor)
        self._by_epoch = ReduceLROnPlateau(optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)

    def _factor(self, step: int) -> float:
        if step < self._num_warmup:
            return (step + 1) / (self._num_warmup + 1)
        if self._kind != "cosine":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self._num_warmup) / self._num_cosine)))

    @property
    def _is_warm(self) -> bool:
        return bool(self._by_step.last_epoch >= self._num_warmup)

    def after_step(self) -> None:
        """Set the rate of the next step of the optimiser."""
        if self._kind != "plateau" or not self._is_warm:
            self._by_step.step()

    def after_epoch(self, validation_loss: float) -> None:
        """Note the epoch's validation loss, which a plateau schedule goes by."""
        if self._kind == "plateau" and self._is_warm:
            self._by_epoch.step(validation_loss)

    def state_dict(self) -> dict[str, Any]:
        """For resuming."""
        return {"by_step": self._by_step.state_dict(), "by_epoch": self._by_epoch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; the rates themselves are in the optimiser's state."""
        # Earlier versions saved no `lr_lambdas`, which have no state.
        self._by_step.load_state_dict({"lr_lambdas": [None] * len(self._by_step.lr_lambdas), **state["by_step"]})
        self._by_epoch.load_state_dict(state["by_epoch"])


class WeightAverage:
    """An exponential moving average of a model's weights and statistics, which never waits for the accelerator.

    Its decay rises to its full value, so that the average forgets the start.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device) -> None:
        """Start with a copy.

        Args:
            model: The model that will be trained; not yet changed by accelerate.
            decay: For each step.
            device: Where the model will be trained.
        """
        self.model = copy.deepcopy(model).requires_grad_(False).to(device)
        self._decay, self._num_updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        num = self._num_updates
        decay = min(self._decay, (1 + num) / (10 + num)) if num else 0.0
        averaged: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for mine, theirs in zip(_tensors(self.model), _tensors(model), strict=True):
            if mine.is_floating_point():
                averaged[0].append(mine)
                averaged[1].append(theirs)
            else:
                mine.copy_(theirs)
        get_ema_multi_avg_fn(decay)(*averaged, num)
        self._num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """For resuming."""
        return {"model": self.model.state_dict(), "num_updates": self._num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self._num_updates = state["num_updates"]


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
