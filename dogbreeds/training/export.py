"""A trained model -> ONNX for serving, checked against PyTorch."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from transformers import PreTrainedModel

from dogbreeds.errors import UserError
from dogbreeds.training.models import features_of

MAX_DIFFERENCE = 1e-4
"""Largest difference allowed between an output of ONNX Runtime and of PyTorch; for outputs that go beyond 1, relative
to their largest value, since float32 carries no more than about seven digits."""


class ServingModel(nn.Module):
    """A classifier with its heat maps: pixels `(B, 3, H, W)` -> logits `(B, C)` and heat maps `(B, C, h, w)`.

    The heat map of a class says how much each place in the view speaks for that class, in units of its logit.

    For a CNN with global average pooling it is the class activation map (Zhou et al. 2016,
    https://arxiv.org/abs/1512.04150): the classifier applied at each place; its mean over the places is the logit,
    exactly.

    For a ViT it is what each patch gives the class through the last attention layer: the patch's value, weighted by the
    class token's attention to it in each head and carried through the output projection, the final normalisation and
    the classifier (direct logit attribution, Elhage et al. 2021,
    https://transformer-circuits.pub/2021/framework). Unlike attention rollout it differs from class to class.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and heat maps; see the class."""
        if _is_vit(self.model):
            return self._vit(pixel_values)
        return self._cnn(pixel_values)

    def _cnn(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        base: Any = self.model.base_model
        outputs = base(pixel_values)
        maps, features = outputs.last_hidden_state, outputs.pooler_output.flatten(1)
        assert maps.ndim == 4, f"{type(self.model).__name__} has no spatial feature maps"
        classifier: Any = self.model.classifier
        heat_map = nn.functional.conv2d(maps, classifier.weight[:, :, None, None], classifier.bias)
        return classifier(features), heat_map

    def _vit(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        base: Any = self.model.base_model
        classifier: Any = self.model.classifier
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


def check_servable(model: PreTrainedModel, image_size: int) -> None:
    """Find out before training whether the trained model can be exported with heat maps.

    Raises:
        UserError: It is neither a ViT nor a CNN with global average pooling before its classifier.
    """
    was_training = model.training
    pixels = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            logits, heat_map = ServingModel(model.eval())(pixels)
            torch.testing.assert_close(logits, model(pixels).logits, atol=1e-3, rtol=1e-3)
            if not _is_vit(model):
                torch.testing.assert_close(heat_map.mean((2, 3)), logits, atol=1e-3, rtol=1e-3)
    except Exception as error:  # whatever an unknown architecture does
        raise UserError(
            f"{type(model).__name__} can't be served with heat maps yet ({str(error).strip().splitlines()[0]}): use a "
            "ViT, or a CNN with global average pooling before its classifier"
        ) from None
    model.train(was_training)


def _is_vit(model: PreTrainedModel) -> bool:
    return hasattr(model.base_model, "layers") and hasattr(model.base_model, "layernorm")


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
    """Export logits and heat maps, and check that ONNX Runtime computes what PyTorch does.

    Returns:
        The largest difference of each output on random pixels, as `MAX_DIFFERENCE` counts it.
    """
    serving_model = ServingModel(model.cpu().float().eval())
    names = ["logits", "heat_map"]
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
