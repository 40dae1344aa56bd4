"""8-bit quantisation of an exported model, for CPUs: less than a third of the size, and up to twice as fast."""

import logging
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from dogbreeds.errors import UserError

NUM_PHOTOS = 128
"""Training photos that the ranges of the activations are read from."""
NUM_ERROR_PHOTOS = 12
"""The first of these photos; on them the error of each matrix product is measured."""
MAX_ERROR = 0.1
"""A matrix product with a larger relative error in 8 bits stays float32. Of the 72 of a ViT-Ti one has 0.45, the next
0.07: a few of its inputs are hundreds of times as large as the others (Sun et al. 2024,
https://arxiv.org/abs/2402.17762), which leaves one or two of the 256 steps to all others."""

MAX_WEIGHT = 64
"""Of the 8-bit weights."""


class _Pixels(CalibrationDataReader):
    """Photos one at a time, for ONNX Runtime's quantiser."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._inputs = iter([{"pixel_values": photo[None]} for photo in pixels])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


def quantize_onnx(source: Path, target: Path, pixels: np.ndarray) -> list[str]:
    """Write a copy of a model from `dogbreeds.training.export.export_serving_model` that computes with 8-bit numbers.

    Activations get 256 steps over the range that they have on some photos, weights 128 steps for each output channel
    (ONNX Runtime's static quantisation, https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
    With 255 steps, two products could be more than fits into the 16 bits in which x86 CPUs without VNNI add them: so
    any ONNX Runtime answers the same on any CPU. With fixed ranges, unlike dynamic ones, a photo's answer does not
    depend on the others in its batch.

    In a ViT the products with constant matrices are 8-bit, except those with an error above `MAX_ERROR`; in a CNN
    everything up to the features. From the features to logits and heat maps all is float32.

    Args:
        source: The float32 model.
        target: The file to write.
        pixels: `(N, 3, H, W)` float32, pre-processed training photos; `NUM_PHOTOS` are enough.

    Returns:
        The names of a ViT's products that stay float32 because of their error.

    Raises:
        UserError: The model has no layer that can be 8-bit.
    """
    graph = onnx.load(source).graph
    products = _products(graph)
    if products:
        errors = _errors(source, pixels[:NUM_ERROR_PHOTOS])
        sensitive = [node.name for node in products if errors[node.name] > MAX_ERROR]
        chosen = {node.name for node in products} - set(sensitive)
        exclude_outputs = {"OpTypesToExcludeOutputQuantization": ["MatMul"]}
        options = {"op_types_to_quantize": ["MatMul"], "extra_options": exclude_outputs}
        float32 = [node.name for node in graph.node if node.op_type == "MatMul" and node.name not in chosen]
    elif any(node.op_type == "Conv" for node in graph.node):
        sensitive, options = [], {}
        head, outputs = ("Gemm", "MatMul", "ReduceMean", "GlobalAveragePool"), {"logits", "heat_map"}
        float32 = [node.name for node in graph.node if node.op_type in head or outputs & {*node.output}]
    else:
        raise UserError(
            f"{str(source)!r} has neither convolutions nor products with constant matrices: nothing to quantise"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)  # it logs advice on preparing the model, which is not needed here
    try:
        quantize_static(
            source,
            target,
            _Pixels(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            nodes_to_exclude=float32,
            **options,
        )
    finally:
        logging.disable(logging.NOTSET)
    return sensitive


def _products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The matrix products with a constant."""
    matrices = {weights.name for weights in graph.initializer if len(weights.dims) == 2}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def _errors(source: Path, pixels: np.ndarray) -> dict[str, float]:
    """The relative error of each product x W in 8 bits: the root mean square over tokens of |Q(x) Q(W) - x W| / |x W|.

    Each token has its own error, because in a total a few huge tokens would hide the errors of all others.
    """
    model = onnx.load(source)
    products = _products(model.graph)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    inputs = sorted({node.input[0] for node in products})
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    activations: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    for photo in pixels:
        for name, values in zip(inputs, session.run(inputs, {"pixel_values": photo[None]}), strict=True):
            activations[name].append(values.reshape(-1, values.shape[-1]))
    errors = {}
    for node in products:
        x, w = np.concatenate(activations[node.input[0]]), weights[node.input[1]]
        exact = x @ w
        error = np.linalg.norm(_rounded_activations(x) @ _rounded_weights(w) - exact, axis=1)
        relative = error / np.maximum(np.linalg.norm(exact, axis=1), 1e-12)
        errors[node.name] = float(np.sqrt(np.mean(relative**2)))
    return errors


def _rounded_activations(values: np.ndarray) -> np.ndarray:
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    step = max(high - low, 1e-12) / 255
    return np.rint(values / step) * step


def _rounded_weights(weights: np.ndarray) -> np.ndarray:
    step = np.maximum(np.abs(weights).max(axis=0), 1e-12) / MAX_WEIGHT
    return np.rint(weights / step) * step
