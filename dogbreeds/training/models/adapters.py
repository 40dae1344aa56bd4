"""What single architectures or checkpoints do differently from the rest, one function for each, with the reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from dogbreeds.breeds import label_name
from dogbreeds.errors import UserError
from dogbreeds.training.models.inspection import classifier_of

BATCH_NORM_MOMENTUM = 0.1
"""PyTorch's default. transformers' MobileNetV2 has TensorFlow's 0.997, which in PyTorch's convention makes the running
statistics those of the last batch."""


def without_teacher(config: PreTrainedConfig) -> PreTrainedConfig:
    """Choose one classifier for distilled networks (LeViT, DeiT), whose logits are the mean of two classifiers'."""
    config.architectures = [name.removesuffix("WithTeacher") for name in config.architectures or []] or None
    return config


def set_labels(config: PreTrainedConfig, names: Sequence[str]) -> None:
    """Give a config these classes; those of timm keep them in `label_names` too."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: label for label, name in enumerate(names)}
    if hasattr(config, "label_names"):
        config.label_names = list(names)


def bgr_to_rgb(model: PreTrainedModel) -> None:
    """Make a network that was trained on blue, green and red (MobileViT) take red, green and blue."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 3), None)
    if first is None:
        raise UserError(f"{type(model).__name__} wants blue, green and red, and no convolution takes them")
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1))


def use_torch_batch_norm_momentum(model: nn.Module) -> None:
    """Give all batch normalisations `BATCH_NORM_MOMENTUM`."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM


def remove_classifier_dropout(model: PreTrainedModel) -> None:
    """Remove the dropout before the classifier: MobileNetV2 has one of 0.8, ViT none; `drop_features` is for both."""
    backbone = set(model.base_model.modules())
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module not in backbone:
            module.p = 0.0
    if hasattr(model.config, "classifier_dropout_prob"):
        model.config.classifier_dropout_prob = 0.0


def drop_features(model: nn.Module, probability: float) -> None:
    """Drop features before the classifier in training mode, by a hook, because architectures have no place for it."""
    classifier_of(model)[1].register_forward_pre_hook(partial(_dropped, probability))  # a lambda can't be pickled


def _dropped(probability: float, classifier: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (nn.functional.dropout(inputs[0], probability, classifier.training), *inputs[1:])


def known_breeds(id2label: Mapping[Any, str], names: Sequence[str]) -> dict[int, int]:
    """Find classes in a checkpoint's own labels, by their names.

    Args:
        id2label: The checkpoint's labels, each with one name or, as for ImageNet, several separated by commas.
        names: The names of the classes.

    Returns:
        For each class that is found, its index and its label in the checkpoint: the one with most names of the breed,
        where several have one (ImageNet's "cardigan" is also a jacket).
    """
    label_of = {name: label for label, name in enumerate(names)}
    best: dict[int, tuple[int, int]] = {}
    for row, text in id2label.items():
        found = Counter(label_of.get(label_name(part)) for part in text.split(","))
        for label, num_names in found.items():
            if label is not None and num_names > best.get(label, (0, 0))[0]:
                best[label] = (num_names, int(row))
    return {label: row for label, (_, row) in sorted(best.items())}


def copy_known_breeds(classifier: nn.Linear, original: nn.Linear, rows: Mapping[int, int]) -> None:
    """Copy rows of a checkpoint's own classifier, by the result of `known_breeds`."""
    with torch.no_grad():
        for label, row in rows.items():
            classifier.weight[label], classifier.bias[label] = original.weight[row], original.bias[row]
