"""Plain convolutional networks of the earlier projects: a sequence of convolutions, then dense layers."""

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from dogbreeds.training.options import ActivationName

ACTIVATIONS: dict[ActivationName, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}


class ConvNetConfig(PreTrainedConfig):
    """The architecture of a `ConvNet`, in the format of transformers.

    Each convolution is followed by batch normalisation, activation, pooling and dropout; `filters` and `pool_sizes`
    have one entry for each convolution.
    """

    model_type = "convnet"

    image_size: int = 224
    num_channels: int = 3
    """1 for networks on grey photos, whose input is the mean of red, green and blue."""
    filters: list[int] | tuple[int, ...] = (32, 64)
    kernel_size: int = 3
    padding: str = "valid"
    """``valid`` or ``same``."""
    pool_sizes: list[int] | tuple[int, ...] = (2, 2)
    """Sides and strides of the pooling windows; 1 for none."""
    pool_type: str = "max"
    """``max`` or ``average``."""
    conv_dropout: float = 0.0
    """Rate of the dropout after each pooling."""
    batch_norm: bool = False
    activation: ActivationName = "relu"
    pooling: str = "flatten"
    """The input of the dense layers: all positions (``flatten``), or their mean (``average``)."""
    hidden_sizes: list[int] | tuple[int, ...] = ()
    """Units of the dense layers before the classifier."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with a shift and without a scale.

    The parameter counts of the earlier projects show it: three numbers for each filter, statistics included.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, affine=False)
        self.shift = nn.Parameter(torch.zeros(num_features))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` to the same shape."""
        return super().forward(input) + self.shift[:, None, None]


class ConvNet(PreTrainedModel):
    """Pixels `(B, 3, image_size, image_size)` to logits `(B, num_labels)`."""

    config_class = ConvNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvNetConfig) -> None:
        """Build the layers with random weights."""
        super().__init__(config)
        activation = ACTIVATIONS[config.activation]
        pool = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}[config.pool_type]
        layers: list[nn.Module] = []
        widths = [config.num_channels, *config.filters]
        for (before, after), size in zip(pairwise(widths), config.pool_sizes, strict=True):
            layers.append(nn.Conv2d(before, after, config.kernel_size, padding=config.padding))
            if config.batch_norm:
                layers.append(BatchNorm(after))
            layers.append(activation())
            if size > 1:
                layers.append(pool(size))
                if config.conv_dropout:
                    layers.append(nn.Dropout(config.conv_dropout))
        self.convolutions = nn.Sequential(*layers)
        with torch.no_grad():  # the size of the feature maps
            maps = self.convolutions.eval()(torch.zeros(1, config.num_channels, config.image_size, config.image_size))
        num_features = maps.shape[1] if config.pooling == "average" else maps[0].numel()
        sizes = [num_features, *config.hidden_sizes]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.activation = activation()
        assert config.num_labels
        self.classifier = nn.Linear(sizes[-1], config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Glorot & Bengio 2010 (https://proceedings.mlr.press/v9/glorot10a.html), the default of Keras."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def maps(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The last feature maps, `(B, C, h, w)`."""
        if self.config.num_channels == 1:
            pixel_values = pixel_values.mean(dim=1, keepdim=True)
        maps: torch.Tensor = self.convolutions(pixel_values)
        return maps

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> ImageClassifierOutput:
        """Logits; see the class."""
        maps = self.maps(pixel_values)
        features = maps.mean((2, 3)) if self.config.pooling == "average" else maps.flatten(1)
        for layer in self.hidden:
            features = self.activation(layer(features))
        return ImageClassifierOutput(logits=self.classifier(features))


AutoConfig.register("convnet", ConvNetConfig)
AutoModelForImageClassification.register(ConvNetConfig, ConvNet)
