"""Image classifiers of transformers, with the data's breeds as their labels."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    MobileNetV2Config,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
    ViTConfig,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from dogbreeds.breeds import label_name
from dogbreeds.errors import UserError
from dogbreeds.hub import announce
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.run_folder import PREPROCESSOR
from dogbreeds.training.earlier.convnet import ConvNetConfig
from dogbreeds.training.options import TrainConfig

CHECKPOINTS = {
    "mobilenet_v1": "google/mobilenet_v1_1.0_224",
    "mobilenet_v2": "google/mobilenet_v2_1.0_224",
    "resnet50": "microsoft/resnet-50",
    "resnet50v2": "google/bit-50",
    "vgg16": "timm/vgg16.tv_in1k",
    "vgg19": "timm/vgg19.tv_in1k",
    "xception": "timm/xception41.tf_in1k",
    "inception_resnet_v2": "timm/inception_resnet_v2.tf_in1k",
    "mobilevit": "apple/mobilevit-small",
    "levit": "facebook/levit-256",
}
"""Names that --model takes for pre-trained checkpoints on the Hugging Face Hub.

The last two are hybrids of ViT and CNN. xception and inception_resnet_v2 were trained on 299 pixels; all are shown the
size of --image-size. resnet50v2 is the ResNet-50 of Big Transfer, which has its second version's order of layers;
xception the 41 layers of DeepLab's."""

ARCHITECTURES: dict[str, Callable[[int], PreTrainedConfig]] = {
    "lenet5": lambda image_size: ConvNetConfig(
        image_size=image_size,
        num_channels=1,
        filters=(6, 16),
        kernel_size=5,
        pool_type="average",
        activation="tanh",
        hidden_sizes=(120, 100),
    ),
    "cnn1": lambda image_size: ConvNetConfig(
        image_size=image_size, filters=(32,), pool_sizes=(2,), conv_dropout=0.2, hidden_sizes=(128,)
    ),
    "cnn3": lambda image_size: ConvNetConfig(
        image_size=image_size, filters=(32, 64, 128), pool_sizes=(2, 2, 1), conv_dropout=0.2, hidden_sizes=(128,)
    ),
    "cnn3v2": lambda image_size: _cnn3v2(image_size, (16, 32, 64)),
    "cnn3v2_tuned": lambda image_size: _cnn3v2(image_size, (64, 64, 64)),
    "cnn_32_64_64_64": lambda image_size: ConvNetConfig(
        image_size=image_size, filters=(32, 64, 64, 64), padding="same", pool_sizes=(2, 2, 2, 2), batch_norm=True
    ),
    "my_vgg16": lambda image_size: _timm("vgg16", image_size),
    "my_xception": lambda image_size: _timm("legacy_xception", image_size),
    "vit": lambda image_size: ViTConfig(image_size=image_size),
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
"""Names that --model takes for architectures, for an image size, built without weights.

The nano ones train in seconds and are what the tests use. The others are those of earlier projects on these photos:

- lenet5 on four breeds and grey photos of 32 pixels has the published 63,196 parameters if its second dense layer has
  100 units, not the 84 of LeCun et al. 1998 (http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf).
- cnn1, cnn3, cnn3v2 and cnn3v2_tuned on 120 breeds and 299 pixels have the published 89,735,288, 82,700,600, 47,720 and
  100,024, those of batch normalisation without a scale and with its statistics. The share of their dropouts
  is nowhere told: 0.2 here, after each pooling.
- cnn_32_64_64_64 is published without its kernels and its last pooling: 3 x 3, padded and flattened here.
- my_vgg16 and my_xception are published with 62,279,608 and 25,368,415. VGG-16 with one or two dense layers of usual
  sizes does not give the first, whatever its input, and Xception on 120 breeds has four million less; here they are the
  networks of the papers, with 134,752,184 (dense layers of 4,096 at 7 x 7 places) and 21,107,360.
"""


def _timm(name: str, image_size: int) -> TimmWrapperConfig:
    """An architecture of timm's, on its name; the size is only told."""
    config = TimmWrapperConfig(architecture=name)
    config.image_size = image_size
    return config


def _cnn3v2(image_size: int, filters: tuple[int, int, int]) -> ConvNetConfig:
    return ConvNetConfig(
        image_size=image_size,
        filters=filters,
        padding="same",
        pool_sizes=(4, 2, 1),
        conv_dropout=0.2,
        batch_norm=True,
        pooling="average",
        hidden_sizes=(128,),
    )


CONVNET_OPTIONS = ("activation", "batch_norm", "pooling", "conv_dropout")
"""Options of a run that change the architecture of a `ConvNet`."""

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
        `(B, len(names))`, whose last layer is linear; see `classifier_of`.

    Raises:
        UserError: The model can't be found, is no image classifier, lacks weights besides those of the classifier, or
            knows none of the breeds that it shall keep; or it can't be run on photos of this size.
    """
    transformers_logging.set_verbosity_error()  # what matters of its report on missing weights is checked below
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    source = checkpoint(config.model.model)
    if source in ARCHITECTURES:
        if config.model.keep_known_breeds:
            raise UserError(f"--model {source} is built without weights: leave --keep-known-breeds out")
        if config.model.freeze_backbone:
            raise UserError(f"--model {source} is built without weights: add --no-freeze-backbone")
        architecture = ARCHITECTURES[source](config.preprocessing.image_size)
        architecture.update({**labels, **_convnet_options(config)})
        model = AutoModelForImageClassification.from_config(architecture)
    else:
        if not Path(source).is_dir():
            announce(source)
        try:
            given = AutoConfig.from_pretrained(source)
            # Distilled networks (LeViT, DeiT) answer with the mean of two classifiers; one is trained here.
            given.architectures = [kind.removesuffix("WithTeacher") for kind in given.architectures or []] or None
            architecture = AutoConfig.from_pretrained(source, num_labels=len(names), **labels)
            architecture.architectures = given.architectures
            architecture.image_size = config.preprocessing.image_size
            if hasattr(architecture, "label_names"):  # in which timm's configurations keep them
                architecture.label_names = list(names)
            _convnet_options(config)
            if config.model.from_scratch:
                model = AutoModelForImageClassification.from_config(architecture)
            else:
                model = _load(source, architecture)
                if _what_it_sees(config).is_bgr:
                    _turn_channels(model)
                if given.id2label != architecture.id2label and given.num_labels == architecture.num_labels:
                    classifier_of(model)[1].reset_parameters()  # as many classes, but others
                if config.model.keep_known_breeds:
                    _keep_known_breeds(model, source, given, names)
        except UserError:
            raise
        except Exception as error:  # transformers, safetensors and the Hub's client each raise their own
            raise UserError(_why_not(source, error)) from None
    _adapt(model, config)
    return model


def checkpoint(model: str) -> str:
    """The Hub id, folder or architecture that `--model` names."""
    return CHECKPOINTS.get(model, model)


def model_view(config: TrainConfig) -> Preprocessing:
    """The view of a run: size, fit and pre-processing are the run's, mean and standard deviation the checkpoint's.

    A checkpoint that brings none, or a model built from nothing, gets 0.5 for both. What `--whitening zca` fits on the
    training photos is not in it yet.

    Raises:
        UserError: The checkpoint's preprocessor_config.json is not understood.
    """
    if config.model.model in ARCHITECTURES:
        return config.preprocessing.build()
    seen = _what_it_sees(config)
    return replace(config.preprocessing.build(), mean=seen.mean, std=seen.std)


@dataclass(frozen=True)
class _Seen:
    """What a checkpoint was shown of red, green and blue from 0 to 1."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    is_bgr: bool = False


def _what_it_sees(config: TrainConfig) -> _Seen:
    """Found by showing the checkpoint's own image processor black, white and red.

    What its file says is not enough: some processors normalise twice (EfficientNet's), or not at all and turn the
    channels round (MobileViT's).
    """
    source = checkpoint(config.model.model)
    if _has_file(source, PREPROCESSOR):
        size = config.preprocessing.image_size
        photos = [np.full((size, size, 3), colour, np.uint8) for colour in ((0, 0, 0), (255, 255, 255), (255, 0, 0))]
        try:
            # By its name, because transformers would take the config.json of a run on timm's network for it.
            show = AutoImageProcessor.from_pretrained(source, image_processor_filename=PREPROCESSOR)
            seen = np.asarray(show(photos, return_tensors="np")["pixel_values"], np.float64)
            black, white, red = seen[:, :, seen.shape[2] // 2, seen.shape[3] // 2]
        except Exception as error:  # each processor raises its own
            raise UserError(f"the {PREPROCESSOR} of {source!r} is not understood: {_first_line(error)}") from None
        std = 1 / (white - black)
        mean = -black * std
        return _Seen(_rounded(mean), _rounded(std), is_bgr=bool(red[2] == white[2] and red[0] == black[0]))
    # timm's checkpoints have it in their config.json.
    facts = getattr(AutoConfig.from_pretrained(source), "pretrained_cfg", None) or {}
    return _Seen(tuple(facts.get("mean", _Seen.mean)), tuple(facts.get("std", _Seen.std)))


def _rounded(values: np.ndarray) -> tuple[float, float, float]:
    """As they were written, before float32."""
    red, green, blue = (round(float(value), 6) + 0.0 for value in values)  # no -0.0
    return red, green, blue


def _has_file(source: str, name: str) -> bool:
    try:
        return cached_file(source, name) is not None
    except OSError:
        return False


def _turn_channels(model: PreTrainedModel) -> None:
    """Make a network that was trained on blue, green and red one of red, green and blue."""
    first = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.in_channels == 3][:1]
    if not first:
        raise UserError(f"{type(model).__name__} wants blue, green and red, and no convolution takes them")
    with torch.no_grad():
        first[0].weight.copy_(first[0].weight.flip(1))


def classifier_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """The last linear layer, which gives the logits, with its name: ``classifier`` in most models."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def features_of(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """What the model's classifier is given: features `(B, D)` of pixels `(B, 3, H, W)`."""
    seen: list[torch.Tensor] = []
    handle = classifier_of(model)[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
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
    lacking = sorted(name for name in new if not name.startswith(classifier_of(model)[0]))
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
        source, config=given, use_safetensors=True, output_loading_info=True
    )
    (prefix, mine), (_, theirs) = classifier_of(model), classifier_of(original)
    if not rows or any(name.startswith(prefix) for name in report["missing_keys"]):
        raise UserError(f"{source!r} has no classifier that knows any of these breeds: leave --keep-known-breeds out")
    with torch.no_grad():
        for label, row in rows.items():
            mine.weight[label], mine.bias[label] = theirs.weight[row], theirs.bias[row]
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


def is_plain_cnn(model: str) -> bool:
    """Whether `--model` names a `ConvNet` built from nothing."""
    return model in ARCHITECTURES and isinstance(ARCHITECTURES[model](224), ConvNetConfig)


def _convnet_options(config: TrainConfig) -> dict[str, Any]:
    """What the run's options change of a `ConvNet`'s architecture."""
    given = {name: value for name in CONVNET_OPTIONS if (value := getattr(config.model, name)) is not None}
    if given and not is_plain_cnn(config.model.model):
        option = next(iter(given)).replace("_", "-")
        plain = ", ".join(filter(is_plain_cnn, ARCHITECTURES))
        raise UserError(f"--{option} is for networks built from nothing: --model {plain}")
    if "batch_norm" in given:
        given["batch_norm"] = given["batch_norm"] == "on"
    return given


def _adapt(model: Any, config: TrainConfig) -> None:
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != model.config.num_labels:
        raise UserError(f"{config.model.model!r} ({type(model).__name__}) has no linear layer at its end to train")
    model.to(memory_format=torch.channels_last)  # convolutions are half as fast again, on two CPU cores
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    # One dropout before the classifier for every model: transformers gives MobileNetV2 one of 0.8 and ViT none.
    backbone = set(model.base_model.modules())
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module not in backbone:
            module.p = 0.0
    if hasattr(model.config, "classifier_dropout_prob"):
        model.config.classifier_dropout_prob = 0.0
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, config.preprocessing.image_size, config.preprocessing.image_size))
    except Exception as error:  # each architecture raises its own
        where = f"{config.model.model!r} can't be run at --image-size {config.preprocessing.image_size}"
        raise UserError(f"{where}: {_first_line(error)}") from None
    model.train(was_training)
    classifier = classifier_of(model)[1]
    if config.model.dropout:
        classifier.register_forward_pre_hook(_FeatureDropout(config.model.dropout))
    if config.model.freeze_backbone:
        model.requires_grad_(False)
        classifier.requires_grad_(True)


class _FeatureDropout:
    """A hook that drops features before the classifier, in training mode only."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (nn.functional.dropout(inputs[0], self.probability, module.training), *inputs[1:])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _why_not(source: str, error: Exception) -> str:
    if Path(source).is_dir():
        return f"the folder {source!r} holds no image classifier that transformers can load: {_first_line(error)}"
    return (
        f"the model {source!r} is no folder here, and the Hugging Face Hub did not give it: connect to the network and "
        "run again, or give a folder with its config.json and model.safetensors with --model"
    )
