"""A trained model -> ONNX for serving, checked against PyTorch."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from transformers import PreTrainedModel

from dogbreeds.training.earlier.convnet import ConvNet
from dogbreeds.training.models.build import features_of

MAX_DIFFERENCE = 1e-4
"""Largest difference allowed between an output of ONNX Runtime and of PyTorch; for outputs that go beyond 1, relative
to their largest value, since float32 carries no more than about seven digits."""


MAX_PLACES = 14
"""On a side of the heat map of a network with dense layers, whose maps can be large; as many as a ViT has patches."""


class ServingModel(nn.Module):
    """A classifier with its heat maps: pixels `(B, 3, H, W)` -> logits `(B, C)` and heat maps `(B, C, h, w)`.

    The heat map of a class says how much each place in the view speaks for that class, in units of its logit. How it is
    found depends on the network, and is tried out on random pixels; a network that none of these ways fits has logits
    alone.
    """

    def __init__(self, model: PreTrainedModel, image_size: int) -> None:
        """Find the way that fits.

        Args:
            model: In evaluation mode from here on.
            image_size: Pixels.
        """
        super().__init__()
        self.model = model.eval()
        self.explain: Explanation | None = None
        pixels = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
        pixels = pixels.to(model.device)
        with torch.no_grad():
            logits = model(pixels).logits
            for explain in (explain_vit, explain_dense, explain_pooled):
                if _fits(explain, model, pixels, logits):
                    self.explain = explain
                    break

    @property
    def output_names(self) -> list[str]:
        """Of what `forward` gives."""
        return ["logits", "heat_map"] if self.explain else ["logits"]

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, and heat maps where there are any; see the class."""
        if self.explain is None:
            return (self.model(pixel_values).logits,)
        return self.explain(self.model, pixel_values)


Explanation = Callable[[PreTrainedModel, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From a model and pixels to logits and heat maps; it raises what it likes where it does not fit."""


def explain_pooled(model: Any, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and heat maps of a network that averages its last maps, or tokens, before a linear classifier.

    The class activation map (Zhou et al. 2016, https://arxiv.org/abs/1512.04150): the classifier applied at each place;
    its mean over the places is the logit, exactly.
    """
    if hasattr(model, "timm_model"):
        maps = model.timm_model.forward_features(pixel_values)
        logits, classifier = model.timm_model.forward_head(maps), model.timm_model.get_classifier()
    else:
        seen: list[Any] = []
        handle = model.base_model.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            logits, classifier = model(pixel_values).logits, model.classifier
        finally:
            handle.remove()
        maps = seen[0].last_hidden_state
    if maps.ndim == 4 and isinstance(classifier, nn.Linear):
        return logits, nn.functional.conv2d(maps, classifier.weight[:, :, None, None], classifier.bias)
    if maps.ndim == 3:  # (B, N, D) tokens of a square
        side = round(maps.shape[1] ** 0.5)
        maps = maps.transpose(1, 2).unflatten(-1, (side, side))
    places = maps.flatten(2).transpose(1, 2)  # (B, N, D)
    heat = classifier(places.flatten(0, 1)).unflatten(0, places.shape[:2])
    return logits, heat.transpose(1, 2).unflatten(-1, maps.shape[2:])


def explain_dense(model: Any, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and heat maps of a network with dense layers between its last maps and the classifier.

    What each place gives the first dense layer is known; from layer to layer it is carried on in proportion, as each
    unit's activation is to its input (the Rescale rule of Shrikumar et al. 2017, https://arxiv.org/abs/1704.02685, with
    nothing as the reference). The mean over the places is the logit.
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
    given = _tiled(torch.einsum("bchw,jchw->bjhw", maps, first))
    num_places = given.shape[2] * given.shape[3]
    given = given + (layers[0].bias / num_places)[:, None, None]
    units = given.sum((2, 3))
    for layer, weight in zip(layers[1:], weights[1:], strict=True):
        of_nothing = activation(units.new_zeros(1))  # not 0 for a sigmoid
        active = activation(units.clone())  # some work in place
        share = torch.where(units.abs() < 1e-6, torch.zeros_like(units), (active - of_nothing) / units)
        given = given * share[..., None, None] + of_nothing / num_places
        given = torch.einsum("bjhw,kj->bkhw", given, weight) + (layer.bias / num_places)[:, None, None]
        units = active @ weight.T + layer.bias
    return units, given * num_places


def _tiled(maps: torch.Tensor) -> torch.Tensor:
    """The sums of maps `(B, C, h, w)` over tiles, so that there are at most `MAX_PLACES` a side."""
    size = -(-maps.shape[-1] // MAX_PLACES)
    rest = -maps.shape[-1] % size
    padded = nn.functional.pad(maps, (0, rest, 0, rest))
    num = padded.shape[-1] // size
    return padded.unflatten(3, (num, size)).unflatten(2, (num, size)).sum((3, 5))


def explain_vit(model: Any, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and heat maps of a ViT.

    What each patch gives the class through the last attention layer: the patch's value, weighted by the class token's
    attention to it in each head and carried through the output projection, the final normalisation and the classifier
    (direct logit attribution, Elhage et al. 2021, https://transformer-circuits.pub/2021/framework). Unlike attention
    rollout it differs from class to class.
    """
    base, classifier = model.base_model, model.classifier
    tokens = base.embeddings(pixel_values)  # (B, 1 + N, D), the class token first
    for layer in base.layers[:-1]:
        hidden, attention = layer.layernorm_before(tokens), layer.attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        attended = _attend(attention, *(projection(hidden) for projection in projections))
        tokens = tokens + attention.o_proj(attended)
        tokens = tokens + layer.mlp(layer.layernorm_after(tokens))

    # Of the last layer, only what the class token gets is used: one query, and one token through the MLP.
    last = base.layers[-1]
    attention, hidden = last.attention, last.layernorm_before(tokens)
    heads = (attention.num_attention_heads, attention.head_dim)
    query = attention.q_proj(hidden[:, :1]).unflatten(-1, heads)  # (B, 1, heads, d)
    key = attention.k_proj(hidden).unflatten(-1, heads)  # (B, 1 + N, heads, d)
    value = attention.v_proj(hidden).unflatten(-1, heads)
    weight = ((query * key).sum(-1) * attention.scaling).softmax(dim=1)  # (B, 1 + N, heads)
    given = (weight[..., None] * value).flatten(2)  # (B, 1 + N, D): what each token gives the class token
    class_token = tokens[:, 0] + attention.o_proj(given.sum(dim=1))
    class_token = class_token + last.mlp(last.layernorm_after(class_token))
    logits = classifier(base.layernorm(class_token))

    # Everything up to the logit is linear but the final normalisation, whose scale is taken as a constant.
    to_class = (classifier.weight * base.layernorm.weight) @ _centred(attention.o_proj.weight)  # (C, D)
    scale = (class_token.var(dim=-1, keepdim=True, unbiased=False) + base.layernorm.eps).rsqrt()
    heat = (given[:, 1:] * scale[:, None]) @ to_class.T  # (B, N, C)
    side = round(heat.shape[1] ** 0.5)
    return logits, heat.transpose(1, 2).unflatten(-1, (side, side))


def _fits(explain: Explanation, model: PreTrainedModel, pixels: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether a way to explain gives the model's own logits, and what it says of the places adds up to them."""
    try:
        found, heat_map = explain(model, pixels)
        torch.testing.assert_close(found, logits, atol=1e-3, rtol=1e-3)
        if explain is not explain_vit:  # which tells what goes through the last attention layer alone
            torch.testing.assert_close(heat_map.mean((2, 3)), logits, atol=1e-3, rtol=1e-3)
    except Exception:  # whatever an architecture that it is not made for does
        return False
    return True


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


def _centred(weight: torch.Tensor) -> torch.Tensor:
    """A projection whose output has mean 0, as layer normalisation would make it."""
    return weight - weight.mean(dim=0, keepdim=True)


class FeatureModel(nn.Module):
    """What a model's classifier is given: pixels `(B, 3, H, W)` -> features `(B, D)`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features; see the class."""
        return features_of(self.model, pixel_values)


def export_onnx(module: nn.Module, path: Path, image_size: int, output_names: Sequence[str]) -> None:
    """Write a module on the CPU, in evaluation mode, as one ONNX file with input `pixel_values` of any batch size.

    Args:
        module: Takes float32 pixels `(B, 3, image_size, image_size)`.
        path: The file to write.
        image_size: Pixels.
        output_names: A name for each of the module's outputs, which all have the batch first.
    """
    pixels = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    path.parent.mkdir(parents=True, exist_ok=True)
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                (pixels,),
                str(path),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["pixel_values"],
                output_names=list(output_names),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    finally:
        exporter_log.setLevel(level)
    # The exporter notes for each node which source file made it: paths of this machine, which are nobody's business.
    exported = onnx.load(path)
    for item in (exported, exported.graph, *exported.graph.node, *exported.graph.value_info, *exported.functions):
        item.ClearField("metadata_props")
    for function in exported.functions:
        for node in function.node:
            node.ClearField("metadata_props")
    onnx.save(exported, path)


def export_serving_model(model: PreTrainedModel, path: Path, image_size: int) -> dict[str, float]:
    """Export logits and heat maps where there are any, and check that ONNX Runtime computes what PyTorch does.

    Returns:
        The largest difference of each output on random pixels, as `MAX_DIFFERENCE` counts it.
    """
    serving_model = ServingModel(model.cpu().float(), image_size)
    names = serving_model.output_names
    export_onnx(serving_model, path, image_size, names)
    pixels = torch.rand(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = [output.numpy() for output in serving_model(pixels)]
        np.testing.assert_allclose(expected[0], model(pixels).logits.numpy(), atol=1e-4, rtol=1e-4)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(names, {"pixel_values": pixels.numpy()})
    differences = {
        name: float(np.abs(mine - theirs).max() / max(1.0, np.abs(theirs).max()))
        for name, mine, theirs in zip(names, found, expected, strict=True)
    }
    worst = max(differences.values())
    if not worst <= MAX_DIFFERENCE:
        raise RuntimeError(f"the ONNX export differs from PyTorch by {worst:.2g}, more than {MAX_DIFFERENCE:.0e}")
    return differences
