"""The names that `--model` knows: pre-trained checkpoints, and architectures that are built with random weights.

PyTorch is imported by what builds one, so that a mistake need not wait for it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreeds.errors import UserError
from dogbreeds.training.options import ModelOptions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from dogbreeds.training.earlier.convnet import ConvNetConfig

CHECKPOINTS = {
    "mobilenet_v1": "google/mobilenet_v1_1.0_224",
    "mobilenet_v2": "google/mobilenet_v2_1.0_224",
    "resnet50": "microsoft/resnet-50",
    "resnet50v2": "google/bit-50",
    "vgg16": "timm/vgg16.tv_in1k",
    "vgg19": "timm/vgg19.tv_in1k",
    "xception": "timm/xception41.tf_in1k",
    "inception_resnet_v2": "timm/inception_resnet_v2.tf_in1k",
    "efficientnet_lite2": "timm/tf_efficientnet_lite2.in1k",
    "mobilevit": "apple/mobilevit-small",
    "levit": "facebook/levit-256",
}
"""Short names of checkpoints on the Hugging Face Hub.

The last two are hybrids of ViT and CNN. xception and inception_resnet_v2 were trained on photos of 299 pixels,
efficientnet_lite2 on 260; here the size of the input is always --image-size. resnet50v2 is the ResNet-50 of Big
Transfer, which has its layers in the order of ResNet v2; xception is DeepLab's, with 41 layers."""


def _plain_cnn(**options: Any) -> "ConvNetConfig":
    from dogbreeds.training.earlier.convnet import ConvNetConfig

    return ConvNetConfig(**options)


def _of_transformers(config: str, **options: Any) -> "PreTrainedConfig":
    """An architecture of transformers, by the name of its config."""
    import transformers

    return getattr(transformers, config)(**options)


_CNN3V2 = partial(
    _plain_cnn,
    padding="same",
    pool_sizes=(4, 2, 1),
    conv_dropout=0.2,
    batch_norm=True,
    pooling="average",
    hidden_sizes=(128,),
)
_VIT = partial(_of_transformers, "ViTConfig")

ARCHITECTURES: dict[str, "Callable[..., PreTrainedConfig]"] = {
    "lenet5": partial(
        _plain_cnn,
        num_channels=1,
        filters=(6, 16),
        kernel_size=5,
        pool_type="average",
        activation="tanh",
        hidden_sizes=(120, 100),
    ),
    "cnn1": partial(_plain_cnn, filters=(32,), pool_sizes=(2,), conv_dropout=0.2, hidden_sizes=(128,)),
    "cnn3": partial(_plain_cnn, filters=(32, 64, 128), pool_sizes=(2, 2, 1), conv_dropout=0.2, hidden_sizes=(128,)),
    "cnn3v2": partial(_CNN3V2, filters=(16, 32, 64)),
    "cnn3v2_tuned": partial(_CNN3V2, filters=(64, 64, 64)),
    "cnn_32_64_64_64": partial(
        _plain_cnn, filters=(32, 64, 64, 64), padding="same", pool_sizes=(2, 2, 2, 2), batch_norm=True
    ),
    "my_vgg16": partial(_of_transformers, "TimmWrapperConfig", architecture="vgg16"),
    "my_xception": partial(_of_transformers, "TimmWrapperConfig", architecture="legacy_xception"),
    "vit": _VIT,
    "vit_tiny": partial(_VIT, hidden_size=192, intermediate_size=768, num_hidden_layers=12, num_attention_heads=3),
    "vit_nano": partial(
        _VIT, patch_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    ),
    "mobilenet_v2_nano": partial(_of_transformers, "MobileNetV2Config", depth_multiplier=0.1, min_depth=4),
}
"""Functions from `image_size`, pixels, to an architecture, which is built with random weights.

The nano ones train in seconds; the tests use them. The others are those of earlier projects on these photos:

- lenet5 on four breeds and grey photos of 32 pixels has the published 63,196 parameters if its second dense layer has
  100 units, not the 84 of LeCun et al. 1998 (http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf).
- cnn1, cnn3, cnn3v2 and cnn3v2_tuned on 120 breeds and 299 pixels have the published 89,735,288, 82,700,600, 47,720 and
  100,024 parameters, counting batch normalisation without a scale and with its statistics. The rate of their dropouts
  is not published: 0.2 here, after each pooling.
- cnn_32_64_64_64 is published without its kernel size and its last pooling: here 3 x 3, with padding and flattened.
- my_vgg16 and my_xception are published with 62,279,608 and 25,368,415 parameters. VGG-16 with one or two dense layers
  of usual sizes does not give the first, whatever its input, and Xception on 120 breeds has four million less; here
  they are the networks of the papers, with 134,752,184 (dense layers of 4,096 on 7 x 7 positions) and 21,107,360.
"""


def resolve_model(model: str) -> str:
    """The Hub id behind a short name of `CHECKPOINTS` or a name of timm; any other model as it is."""
    if model in CHECKPOINTS:
        return CHECKPOINTS[model]
    if model in ARCHITECTURES or "/" in model or Path(model).is_dir():
        return model
    from timm.models import get_pretrained_cfg  # takes a second to import

    try:
        pretrained = get_pretrained_cfg(model)
    except RuntimeError:  # timm has the architecture, and no weights of this tag
        return model
    return pretrained.hf_hub_id or model if pretrained else model


def is_pretrained(model: str, from_scratch: bool) -> bool:
    """Whether the weights come from a checkpoint, or a run, by `--model` and `--from-scratch`."""
    return not from_scratch and model not in ARCHITECTURES


def is_plain_cnn(model: str) -> bool:
    """Whether a model is the name of a `ConvNet` in `ARCHITECTURES`."""
    return model in ARCHITECTURES and ARCHITECTURES[model](image_size=224).model_type == "convnet"


def check_has_weights(options: ModelOptions) -> None:
    """Refuse options that need pre-trained weights, where the model is built without.

    Raises:
        UserError: One of them is given.
    """
    if options.model not in ARCHITECTURES:
        return
    if options.keep_known_breeds:
        raise UserError(f"--model {options.model} is built without weights: leave --keep-known-breeds out")
    if options.average_with_start:
        raise UserError(f"--model {options.model} is built without weights: leave --average-with-start out")
    if options.freeze_backbone:
        raise UserError(f"--model {options.model} is built without weights: add --no-freeze-backbone")
    if options.adapt != "full":
        raise UserError(f"--model {options.model} is built without weights: leave --adapt {options.adapt} out")


def plain_cnn_options(options: ModelOptions) -> dict[str, Any]:
    """The options that change the architecture of a plain CNN, as attributes of `ConvNetConfig`.

    Raises:
        UserError: One of them is given, and the model is no plain CNN.
    """
    names = ("activation", "batch_norm", "pooling", "conv_dropout")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if given and not is_plain_cnn(options.model):
        option = next(iter(given)).replace("_", "-")
        plain = ", ".join(filter(is_plain_cnn, ARCHITECTURES))
        raise UserError(f"--{option} is for networks built from nothing: --model {plain}")
    if "batch_norm" in given:
        given["batch_norm"] = given["batch_norm"] == "on"
    return given
