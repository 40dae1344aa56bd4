"""The network with what trains it: optimiser, learning rates and averaged weights."""

import copy
import math
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms.v2 import CutMix
from transformers import PreTrainedModel

from dogbreeds.errors import UserError, first_line
from dogbreeds.training.context import Context
from dogbreeds.training.earlier.losses import LOSSES, target_probabilities
from dogbreeds.training.inputs import Inputs
from dogbreeds.training.models.adapt import merge_parts
from dogbreeds.training.models.inspection import classifier_of
from dogbreeds.training.models.registry import is_pretrained
from dogbreeds.training.optim import Schedule, WeightAverage, build_optimizer
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.teacher import Teacher

COMPILE_FROM = 500_000
"""Photos to train on, over all epochs, from which `--compile auto` compiles the network on a GPU: the minute that takes
must be saved again."""


class Learner:
    """What learns; one optimiser step at a time."""

    def __init__(
        self,
        config: TrainConfig,
        context: Context,
        model: PreTrainedModel,
        inputs: Inputs,
        teacher: Teacher | None = None,
    ) -> None:
        """Make the optimiser, and have accelerate prepare it with the network.

        Args:
            config: The run's options.
            context: Its process.
            model: The whole network.
            inputs: What it is given: features, if its classifier alone is trained on them.
            teacher: Whose answers it learns instead of the labels.
        """
        self._config, self._accelerator = config, context.accelerator
        self._head_only, self.teacher = inputs.head_only, teacher
        self.full_model, self._num_labels = model, classifier_of(model)[1].out_features
        self.trained_model: nn.Module = model
        if inputs.head_only:  # on features `(B, D)` that are computed once, the classifier is all there is to train
            self.trained_model = nn.Sequential(OrderedDict(classifier=classifier_of(model)[1]))
        self._start: dict[str, torch.Tensor] = {}
        """The weights and statistics before training, where the trained ones are averaged with them."""
        if config.model.average_with_start:
            self._start = merge_parts(copy.deepcopy(self.trained_model)).state_dict()
        # Not in fp16, where accelerate then can't tell whether a step was skipped.
        fused = context.device.type in ("cpu", "cuda") and self._accelerator.mixed_precision != "fp16"
        optimizer = build_optimizer(self.trained_model, config.optim, fused=fused)
        self.num_trained_parameters = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        # As accelerate has it, for `accelerate launch` can set it too
        num_accumulated = self._accelerator.gradient_accumulation_steps
        num_steps = config.optim.epochs * math.ceil(len(inputs.training_loader) / num_accumulated)
        self.schedule = Schedule(optimizer, config.optim, num_steps)
        self.average: WeightAverage | None = None
        if config.optim.ema_decay:
            # Copied before `prepare`, which for mixed precision gives a model a `forward` that a copy would share.
            self.average = WeightAverage(self.trained_model, config.optim.ema_decay, context.device)
        self.model, self.optimizer = self._accelerator.prepare(self.trained_model, optimizer)
        if self._compiles(context, len(inputs.labels["train"]) * config.optim.epochs):
            context.say("compiling the network; the first step takes a minute")
            self.model.compile()

    def _compiles(self, context: Context, num_photos: int) -> bool:
        """Whether the network is compiled, by the options and the size of the run."""
        if self._config.run.compile != "auto":
            return self._config.run.compile == "on"
        return context.device.type == "cuda" and not self._head_only and num_photos >= COMPILE_FROM

    @property
    def best_model(self) -> nn.Module:
        """What is validated and saved: the averaged weights, where there are any."""
        return self.average.model if self.average else self.trained_model

    @property
    def learning_rate(self) -> float:
        """The largest of the present learning rates."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def train_mode(self) -> None:
        """Switch to training, but for a backbone that is frozen, and for batch statistics that are pre-trained.

        Those of a pre-trained network come from all of its training photos. A batch's own are so far from them that
        EfficientNet-Lite2 with known breeds, right on 84 % of validation photos, is right on 50 % in batches of 32.
        """
        self.model.train()
        if is_pretrained(self._config.model.model, self._config.model.from_scratch):
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        if self._config.model.freeze_backbone and not self._head_only:
            self.full_model.eval()  # or the backbone's batch-norm statistics would move
            classifier_of(self.full_model)[1].train()

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch: inputs as the network takes them, labels `(B,)`.

        Raises:
            UserError: The network can't be trained on a batch of one photo.
        """
        optim = self._config.optim
        targets = target_probabilities(labels, self._num_labels, optim.label_smoothing)
        if optim.cutmix and (not optim.mixup or torch.rand(()) < 0.5):
            inputs, targets = CutMix(alpha=optim.cutmix)(inputs, targets)
        elif optim.mixup:
            inputs, targets = mixed_up(inputs, targets, optim.mixup)
        if self.teacher is not None:
            targets = self.teacher(inputs)
        try:
            logits = logits_of(self.model, inputs)
        except ValueError as error:
            if len(inputs) > 1:
                raise
            raise UserError(  # PyTorch's batch normalisation takes none
                f"--batch-size {optim.batch_size} leaves a batch of one photo: give another one ({first_line(error)})"
            ) from None
        return LOSSES[optim.loss](logits, targets)

    def step(self) -> None:
        """Step the optimiser with the gradients that were accumulated, if this batch completes them."""
        accelerator, max_norm = self._accelerator, self._config.optim.max_grad_norm
        if accelerator.sync_gradients and max_norm:
            accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
        self.optimizer.step()
        if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
            self.schedule.after_step()
            if self.average is not None:
                self.average.update(self.trained_model)
        self.optimizer.zero_grad()

    def _stateful(self) -> dict[str, Any]:
        parts = {"model": self.trained_model, "optimizer": self.optimizer, "schedule": self.schedule}
        return {**parts, "average": self.average, "scaler": self._accelerator.scaler}

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {name: None if part is None else part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            Exception: Of many kinds, where it is the state of something else.
        """
        for name, part in self._stateful().items():
            if part is not None:
                part.load_state_dict(state[name])
        for parameter, found in self.optimizer.state.items():  # which PyTorch takes as they are
            for name, tensor in found.items():
                if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape != parameter.shape:
                    raise ValueError(f"{name} of shape {tuple(tensor.shape)} for weights {tuple(parameter.shape)}")

    def load_best(self, weights: dict[str, torch.Tensor]) -> nn.Module:
        """The network with these weights, without LoRA, VPT and accelerate; averaged with the start if asked."""
        model: nn.Module = self._accelerator.unwrap_model(self.model, keep_fp32_wrapper=False, keep_torch_compile=False)
        model.load_state_dict(weights)
        merge_parts(model)
        for name, tensor in model.state_dict().items() if self._start else ():
            if tensor.is_floating_point():  # not the number of batches that batch normalisation has seen
                tensor.lerp_(self._start[name].to(tensor.device), self._config.model.average_with_start)
        return model


def mixed_up(inputs: torch.Tensor, targets: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Each of a batch mixed with another one, or itself, by one share for all, drawn from Beta(alpha, alpha)."""
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(inputs)).to(inputs.device)  # on the CPU, the same for every device
    return inputs.lerp(inputs[order], share), targets.lerp(targets[order], share)


def logits_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Logits `(B, C)` of a network of transformers, or of a classifier alone."""
    output = model(inputs)
    return output if isinstance(output, torch.Tensor) else output.logits
