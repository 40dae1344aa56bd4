"""An ONNX file whose large weights have 20 bits instead of 32; computing stays in float32.

With 16 bits, one photo of 80 got another answer than with 32; with 20 bits, one of 250 (of 1,500 of Oxford's pets). The
heat map says where the second look goes, and where nothing is sure, a hundredth of a pixel decides.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_NUMBERS = 10_000
"""Of a weight. Smaller ones stay as they are: they hardly take room."""
MIN_OPSET = 13
"""Of ONNX's operators: the first version whose Split takes the sizes as an input. Older files stay as they are."""
LARGEST = 2**19 - 1
"""Each row of a weight becomes whole numbers up to this one, times a step of its own."""


def pack_weights(content: bytes) -> bytes:
    """Store the weights as whole numbers, from which a few nodes make float32 again.

    ONNX Runtime computes these nodes once, when it loads the file. That takes a time for each node, so that the numbers
    of all weights are unpacked together.

    Args:
        content: Of an ONNX file.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    large = [weight for weight in graph.initializer if _is_large(weight)]
    (opset,) = (each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if not large or opset < MIN_OPSET:
        return content
    names, rows = [weight.name for weight in large], [_in_steps(numpy_helper.to_array(weight)) for weight in large]
    tensors = _packed(np.concatenate([numbers.ravel() for numbers, _ in rows]))
    tensors["packed_sizes"] = np.array([numbers.size for numbers, _ in rows])
    nodes = [
        *_unpacked(),
        helper.make_node("Split", ["packed_numbers", "packed_sizes"], [f"{name}_flat" for name in names], axis=0),
    ]
    for name, (numbers, step) in zip(names, rows, strict=True):
        tensors |= {f"{name}_shape": np.array(numbers.shape), f"{name}_step": step}
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [f"{name}_numbers"]))
        nodes.append(helper.make_node("Mul", [f"{name}_numbers", f"{name}_step"], [name]))
    kept = [weight for weight in graph.initializer if not _is_large(weight)]
    kept += [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    model.graph.CopyFrom(helper.make_graph([*nodes, *graph.node], graph.name, graph.input, graph.output, kept))
    return model.SerializeToString()


def _is_large(weight: TensorProto) -> bool:
    return weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1 and math.prod(weight.dims) >= MIN_NUMBERS


def _in_steps(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers, int32, of the shape of the weight; and the step of each row, float32."""
    largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    step = np.where(largest > 0, largest, np.float32(1)) / np.float32(LARGEST)
    return np.rint(values / step.astype(float)).astype(np.int32).clip(-LARGEST, LARGEST), step


def _packed(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Of each number the 16 high bits, and the 4 low bits, those of two numbers in a byte."""
    low = np.append(numbers & 15, np.zeros(len(numbers) % 2, int)).astype(np.uint8)
    first, second = np.split(low, 2)
    return {
        "packed_high": (numbers >> 4).astype(np.int16),
        "packed_low": first | second << 4,
        "packed_four": np.array(4, np.uint8),
        "packed_sixteen": np.array(16, np.uint8),
        "packed_sixteen_float32": np.array(16, np.float32),
        "packed_zero": np.array([0]),
        "packed_num": np.array([len(numbers)]),
    }


def _unpacked() -> list[onnx.NodeProto]:
    """From what `_packed` gives to the numbers, float32."""
    return [
        helper.make_node("Mod", ["packed_low", "packed_sixteen"], ["packed_low_first"]),
        helper.make_node("BitShift", ["packed_low", "packed_four"], ["packed_low_second"], direction="RIGHT"),
        helper.make_node("Concat", ["packed_low_first", "packed_low_second"], ["packed_low_padded"], axis=0),
        helper.make_node("Slice", ["packed_low_padded", "packed_zero", "packed_num"], ["packed_low_bits"]),
        helper.make_node("Cast", ["packed_low_bits"], ["packed_low_numbers"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["packed_high"], ["packed_high_bits"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["packed_high_bits", "packed_sixteen_float32"], ["packed_high_numbers"]),
        helper.make_node("Add", ["packed_high_numbers", "packed_low_numbers"], ["packed_numbers"]),
    ]
