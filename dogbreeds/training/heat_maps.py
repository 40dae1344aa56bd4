"""Heat maps: how much each position of a photo speaks for each breed, in ways that an ONNX file can hold."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from dogbreeds.errors import first_line
from dogbreeds.training.earlier.convnet import ConvNet
from dogbreeds.training.models.inspection import classifier_of
from dogbreeds.training.models.visual_prompts import num_registers

MAX_SIDE = 14
"""Positions on a side of the heat map of a network with dense layers, whose feature maps can be large; at most as many
as a ViT has patches."""

Explanation = Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From a model and pixels `(B, 3, H, W)` to logits `(B, C)` and heat maps `(B, C, h, w)`; raises any error for a model
that it is not made for."""


class ServingModel(nn.Module):
    """What serving needs of a classifier.

    Pixels `(B, 3, H, W)` become logits `(B, C)`, features `(B, D)`, which are the input of the last linear layer, and
    heat maps `(B, C, h, w)`.

    The heat map of a class says how much each position of the input speaks for that class, in units of its logit. How
    it is computed depends on the network: each of `EXPLANATIONS` is tried on random pixels. A network that none of them
    fits has no heat maps.
    """

    def __init__(self, model: PreTrainedModel, image_size: int) -> None:
        """Find the explanation that fits.

        Args:
            model: Is put into evaluation mode.
            image_size: Pixels.
        """
        super().__init__()
        self.model = model.eval()
        self.explain: Explanation | None = None
        self.why_no_heat_map: str | None = None
        """None if there are heat maps."""
        pixels = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
        pixels = pixels.to(model.device)
        reasons = []
        for name, explain in EXPLANATIONS.items():
            try:
                _check_fits(explain, model, pixels)
            except Exception as error:  # anything, from an architecture that it is not made for
                reasons.append(f"{name}: {first_line(error)}")
            else:
                self.explain = explain
                return
        self.why_no_heat_map = f"none of the ways to compute one fits {type(model).__name__} ({'; '.join(reasons)})"
        if num_registers(model.config):
            self.why_no_heat_map = "a ViT with prompts or registers has no exact heat map"

    def omit_heat_map(self, why: str) -> None:
        """Give logits alone from here on."""
        self.explain, self.why_no_heat_map = None, why

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs of `forward`."""
        return ["logits", "features", "heat_map"] if self.explain else ["logits", "features"]

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, features, and heat maps if there are any; see the class."""
        features: list[torch.Tensor] = []
        classifier = classifier_of(self.model)[1]
        with classifier.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0])):
            if self.explain is None:
                return self.model(pixel_values).logits, features[0]
            logits, heat_map = self.explain(self.model, pixel_values)
        return logits, features[0], heat_map


@torch.no_grad()
def _check_fits(explain: Explanation, model: PreTrainedModel, pixels: torch.Tensor) -> None:
    """Check that an explanation gives the model's own logits, and that its heat maps add up to them."""
    expected = model(pixels).logits
    logits, heat_map = explain(model, pixels)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
    if explain is not explain_vit:  # which is of the last attention layer alone
        torch.testing.assert_close(heat_map.mean((2, 3)), expected, atol=1e-3, rtol=1e-3)


def explain_pooled(model: Any, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and heat maps of a network that averages its last feature maps, or tokens, before a linear classifier.

    The class activation map (Zhou et al. 2016, https://arxiv.org/abs/1512.04150): the classifier applied at each
    position; its mean over the positions is the logit, exactly.
    """
    if hasattr(model, "timm_model"):
        maps = model.timm_model.forward_features(pixel_values)
        logits, classifier = model.timm_model.forward_head(maps), model.timm_model.get_classifier()
    else:
        outputs: list[Any] = []
        with model.base_model.register_forward_hook(lambda module, inputs, output: outputs.append(output)):
            logits, classifier = model(pixel_values).logits, model.classifier
        maps = outputs[0].last_hidden_state
    if maps.ndim == 4 and isinstance(classifier, nn.Linear):
        return logits, nn.functional.conv2d(maps, classifier.weight[:, :, None, None], classifier.bias)
    if maps.ndim == 3:  # (B, N, D) tokens of a square
        side = round(maps.shape[1] ** 0.5)
        maps = maps.transpose(1, 2).unflatten(-1, (side, side))
    positions = maps.flatten(2).transpose(1, 2)  # (B, N, D)
    heat = classifier(positions.flatten(0, 1)).unflatten(0, positions.shape[:2])
    return logits, heat.transpose(1, 2).unflatten(-1, maps.shape[2:])


def explain_dense(model: Any, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and heat maps of a network with dense layers between its last feature maps and the classifier.

    The contribution of each position to the first dense layer is known. From layer to layer it is scaled by the ratio
    of each unit's activation to its input (the Rescale rule of Shrikumar et al. 2017, https://arxiv.org/abs/1704.02685,
    with zeros as the reference). The mean over the positions is the logit.
    """
    if isinstance(model, ConvNet):
        maps, layers, activation = model.maps(pixel_values), [*model.hidden, model.classifier], model.activation
        weights = [layer.weight for layer in layers]
        if model.config.pooling == "average":
            weights[0] = weights[0][:, :, None].expand(-1, -1, maps[0, 0].numel()) / maps[0, 0].numel()
    else:  # timm's VGG, whose dense layers are convolutions
        network = model.timm_model
        maps, activation = network.features(pixel_values), network.pre_logits.act1
        layers = [network.pre_logits.fc1, network.pre_logits.fc2, network.head.fc]
        maps = nn.functional.interpolate(maps, layers[0].kernel_size, mode="nearest") if maps.shape[-1] == 1 else maps
        weights = [layer.weight.flatten(1) for layer in layers]
    first = weights[0].unflatten(1, maps.shape[1:]) if weights[0].ndim == 2 else weights[0].unflatten(2, maps.shape[2:])
    given = _tiled(torch.einsum("bchw,jchw->bjhw", maps, first))  # the contributions: (B, units, h, w)
    num_positions = given.shape[2] * given.shape[3]
    given = given + (layers[0].bias / num_positions)[:, None, None]
    units = given.sum((2, 3))
    if len(layers) == 1:  # it is called, as below
        units = layers[0](maps.mean((2, 3)) if layers[0].in_features == maps.shape[1] else maps.flatten(1))
    for layer, weight in zip(layers[1:], weights[1:], strict=True):
        of_zero = activation(units.new_zeros(1))  # not 0 for a sigmoid
        active = activation(units.clone())  # some activations work in place
        ratio = torch.where(units.abs() < 1e-6, torch.zeros_like(units), (active - of_zero) / units)
        given = given * ratio[..., None, None] + of_zero / num_positions
        given = torch.einsum("bjhw,kj->bkhw", given, weight) + (layer.bias / num_positions)[:, None, None]
        # VGG's dense layers are convolutions, but for the classifier, which is called for who listens to its input.
        units = layer(active) if isinstance(layer, nn.Linear) else active @ weight.T + layer.bias
    return units, given * num_positions


def _tiled(maps: torch.Tensor) -> torch.Tensor:
    """The sums of maps `(B, C, h, w)` over tiles, so that a side has at most `MAX_SIDE` positions."""
    size = -(-maps.shape[-1] // MAX_SIDE)
    rest = -maps.shape[-1] % size
    padded = nn.functional.pad(maps, (0, rest, 0, rest))
    num_tiles = padded.shape[-1] // size
    return padded.unflatten(3, (num_tiles, size)).unflatten(2, (num_tiles, size)).sum((3, 5))


def explain_vit(model: Any, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and heat maps of a ViT.

    The contribution of each patch to the logit by way of the last attention layer: the patch's value, weighted by the
    class token's attention to it in each head and passed through the output projection, the final normalisation and the
    classifier (direct logit attribution, Elhage et al. 2021, https://transformer-circuits.pub/2021/framework). Unlike
    attention rollout it differs from class to class.
    """
    base, classifier = model.base_model, model.classifier
    tokens = base.embeddings(pixel_values)  # (B, 1 + N, D), the class token first
    for layer in base.layers[:-1]:
        hidden, attention = layer.layernorm_before(tokens), layer.attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        attended = _attend(attention, *(projection(hidden) for projection in projections))
        tokens = tokens + attention.o_proj(attended)
        tokens = tokens + layer.mlp(layer.layernorm_after(tokens))

    # Of the last layer, only the class token's output is used: one query, and one token through the MLP.
    last = base.layers[-1]
    attention, hidden = last.attention, last.layernorm_before(tokens)
    heads = (attention.num_attention_heads, attention.head_dim)
    query = attention.q_proj(hidden[:, :1]).unflatten(-1, heads)  # (B, 1, heads, d)
    key = attention.k_proj(hidden).unflatten(-1, heads)  # (B, 1 + N, heads, d)
    value = attention.v_proj(hidden).unflatten(-1, heads)
    weight = ((query * key).sum(-1) * attention.scaling).softmax(dim=1)  # (B, 1 + N, heads)
    given = (weight[..., None] * value).flatten(2)  # (B, 1 + N, D): each token's contribution to the class token
    class_token = tokens[:, 0] + attention.o_proj(given.sum(dim=1))
    class_token = class_token + last.mlp(last.layernorm_after(class_token))
    logits = classifier(base.layernorm(class_token))

    # Everything up to the logit is linear but the final normalisation, whose scale is taken as a constant.
    projection = attention.o_proj.weight
    projection = projection - projection.mean(dim=0, keepdim=True)  # its output has mean 0, as normalisation makes it
    to_class = (classifier.weight * base.layernorm.weight) @ projection  # (C, D)
    scale = (class_token.var(dim=-1, keepdim=True, unbiased=False) + base.layernorm.eps).rsqrt()
    heat = (given[:, 1:] * scale[:, None]) @ to_class.T  # (B, N, C)
    side = round(heat.shape[1] ** 0.5)
    return logits, heat.transpose(1, 2).unflatten(-1, (side, side))


def _attend(attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Multi-head attention among `(B, N, D)`; in an export one operator of ONNX Runtime, which is faster than many."""
    num_heads, head_dim = attention.num_attention_heads, attention.head_dim
    if torch.onnx.is_in_onnx_export():
        attended: torch.Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (query, key, value),
            {"num_heads": num_heads, "scale": float(attention.scaling)},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )
        return attended
    split = [tensor.unflatten(-1, (num_heads, head_dim)).transpose(1, 2) for tensor in (query, key, value)]
    attended = nn.functional.scaled_dot_product_attention(split[0], split[1], split[2], scale=attention.scaling)
    return attended.transpose(1, 2).flatten(2)


EXPLANATIONS: dict[str, Explanation] = {"ViT": explain_vit, "dense layers": explain_dense, "pooling": explain_pooled}
"""Each with the architecture that it is for; the first that fits is taken."""
