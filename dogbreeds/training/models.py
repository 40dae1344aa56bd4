"""Image classifiers of transformers, with the data's breeds as their labels."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    MobileNetV2Config,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
)
from transformers.utils import logging as transformers_logging

from dogbreeds.breeds import label_name
from dogbreeds.errors import UserError
from dogbreeds.hub import announce
from dogbreeds.training.config import TrainConfig
from dogbreeds.view import View

ARCHITECTURES: dict[str, Callable[[int], PreTrainedConfig]] = {
    "vit_tiny": lambda image_size: ViTConfig(
        image_size=image_size, hidden_size=192, intermediate_size=768, num_hidden_layers=12, num_attention_heads=3
    ),
    "vit_nano": lambda image_size: ViTConfig(
        image_size=image_size,
        patch_size=8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    ),
    "mobilenet_v2_nano": lambda image_size: MobileNetV2Config(image_size=image_size, depth_multiplier=0.1, min_depth=4),
}
"""Names that --model takes besides Hub ids and folders: architectures, for an image size, built without weights. The
nano ones train in seconds and are what the tests use."""

BATCH_NORM_MOMENTUM = 0.1
"""PyTorch's default. transformers' MobileNetV2 carries over TensorFlow's 0.997, which in PyTorch's convention makes the
running statistics those of the last batch."""


def build_model(config: TrainConfig, names: tuple[str, ...]) -> PreTrainedModel:
    """Load or build the model of a run, with a classifier for these breeds.

    The classifier is new, unless the checkpoint's own has these very labels, or shall keep the breeds that it knows.

    Args:
        config: Of its options, `model`, `from_scratch`, `freeze_backbone`, `keep_known_breeds`, `dropout` and
            `image_size` are used.
        names: The name of each class, in the order of the logits.

    Returns:
        A transformers image classifier on the CPU in float32: pixels `(B, 3, image_size, image_size)` to logits
        `(B, len(names))`, whose `classifier` is a linear layer.

    Raises:
        UserError: The model can't be found, is no image classifier, lacks weights besides those of the classifier, or
            knows none of the breeds that it shall keep.
    """
    transformers_logging.set_verbosity_error()  # what matters of its report on missing weights is checked below
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    source = config.model
    if source in ARCHITECTURES:
        if config.keep_known_breeds:
            raise UserError(f"--model {source} is built without weights: leave --keep-known-breeds out")
        architecture = ARCHITECTURES[source](config.image_size)
        architecture.update(labels)
        model = AutoModelForImageClassification.from_config(architecture)
    else:
        if not Path(source).is_dir():
            announce(source)
        try:
            given = AutoConfig.from_pretrained(source)
            architecture = AutoConfig.from_pretrained(source, **labels)
            architecture.image_size = config.image_size
            if config.from_scratch:
                model = AutoModelForImageClassification.from_config(architecture)
            else:
                model = _load(source, architecture)
                if given.id2label != architecture.id2label and given.num_labels == architecture.num_labels:
                    classifier: Any = model.classifier
                    classifier.reset_parameters()  # as many classes, but others
                if config.keep_known_breeds:
                    _keep_known_breeds(model, source, given, names)
        except UserError:
            raise
        except Exception as error:  # transformers, safetensors and the Hub's client each raise their own
            raise UserError(_why_not(source, error)) from None
    _adapt(model, config)
    return model


def model_view(config: TrainConfig) -> View:
    """The view of a run: size, fit and pre-processing are the run's, mean and standard deviation the checkpoint's.

    A checkpoint that brings none, or a model built from nothing, gets 0.5 for both. What `--whitening zca` fits on the
    training photos is not in it yet.
    """
    if config.model in ARCHITECTURES:
        return config.view
    from transformers.utils import cached_file

    try:
        file: Any = cached_file(config.model, "preprocessor_config.json")
        facts = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    mean, std = facts.get("image_mean", [0.5] * 3), facts.get("image_std", [0.5] * 3)
    return replace(config.view, mean=tuple(mean), std=tuple(std))


def features_of(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """What the model's classifier is given: features `(B, D)` of pixels `(B, 3, H, W)`."""
    seen: list[torch.Tensor] = []
    classifier: Any = model.classifier
    handle = classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        model(pixel_values=pixels)
    finally:
        handle.remove()
    return seen[0]


def flops_per_photo(model: PreTrainedModel, image_size: int) -> int:
    """Floating-point operations of one forward pass on one photo, a multiplication and an addition counted as two.

    Counted by torch's own counter: convolutions, matrix products and attention; the rest is little beside them.
    """
    was_training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=model.device))
    model.train(was_training)
    return int(counter.get_total_flops())


def _load(source: str, architecture: PreTrainedConfig) -> PreTrainedModel:
    """Load pre-trained weights; only the classifier may be new."""
    model, report = AutoModelForImageClassification.from_pretrained(
        source,
        config=architecture,
        ignore_mismatched_sizes=True,  # a classifier of other classes is replaced
        use_safetensors=True,
        output_loading_info=True,
    )
    new = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    lacking = sorted(name for name in new if not name.startswith("classifier."))
    if lacking:
        raise UserError(
            f"the weights of {source!r} do not fit its config.json: {len(lacking)} are missing or of another shape, "
            f"such as {lacking[0]} (is --image-size that of the checkpoint?)"
        )
    return model


def _keep_known_breeds(model: Any, source: str, given: PreTrainedConfig, names: tuple[str, ...]) -> None:
    """Give the classifier the checkpoint's own rows for the classes that it knows."""
    rows = known_breeds(given.id2label or {}, names)
    original, report = AutoModelForImageClassification.from_pretrained(
        source, use_safetensors=True, output_loading_info=True
    )
    if not rows or any(name.startswith("classifier.") for name in report["missing_keys"]):
        raise UserError(f"{source!r} has no classifier that knows any of these breeds: leave --keep-known-breeds out")
    with torch.no_grad():
        for label, row in rows.items():
            model.classifier.weight[label] = original.classifier.weight[row]
            model.classifier.bias[label] = original.classifier.bias[row]
    new = [name for label, name in enumerate(names) if label not in rows]
    print(
        f"{len(rows)} breeds start from what {source} knows of them; anew: {', '.join(new) or 'none'}", file=sys.stderr
    )


def known_breeds(id2label: Mapping[Any, str], names: tuple[str, ...]) -> dict[int, int]:
    """Which of our classes stand in a checkpoint's own list, by their names.

    Args:
        id2label: Its labels, each with one name or, as for ImageNet, several separated by commas.
        names: Ours.

    Returns:
        Of each class that is found, its number among ours and among the checkpoint's: the one with most names of the
        breed, where several have one (ImageNet's "cardigan" is also a jacket).
    """
    label_of = {name: label for label, name in enumerate(names)}
    best: dict[int, tuple[int, int]] = {}
    for row, text in id2label.items():
        found = Counter(label_of.get(label_name(part)) for part in text.split(","))
        for label, num_names in found.items():
            if label is not None and num_names > best.get(label, (0, 0))[0]:
                best[label] = (num_names, int(row))
    return {label: row for label, (_, row) in sorted(best.items())}


def _adapt(model: Any, config: TrainConfig) -> None:
    if not isinstance(getattr(model, "classifier", None), nn.Linear):
        raise UserError(f"{config.model!r} ({type(model).__name__}) has no linear layer `classifier` to train")
    model.to(memory_format=torch.channels_last)  # convolutions are half as fast again, on two CPU cores
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    # One dropout for every model: transformers gives MobileNetV2 one of 0.8 and ViT none.
    if hasattr(model.config, "classifier_dropout_prob"):
        model.config.classifier_dropout_prob = 0.0
        model.dropout.p = 0.0
    if config.dropout:
        model.classifier.register_forward_pre_hook(_FeatureDropout(config.dropout))
    if config.freeze_backbone:
        model.base_model.requires_grad_(False)


class _FeatureDropout:
    """A hook that drops features before the classifier, in training mode only."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (nn.functional.dropout(inputs[0], self.probability, module.training), *inputs[1:])


def _why_not(source: str, error: Any) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(source).is_dir():
        return f"the folder {source!r} holds no image classifier that transformers can load: {first_line}"
    return (
        f"the model {source!r} is no folder here, and the Hugging Face Hub did not give it: connect to the network and "
        "run again, or give a folder with its config.json and model.safetensors with --model"
    )
