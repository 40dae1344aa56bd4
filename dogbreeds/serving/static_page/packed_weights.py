"""The large weights of an ONNX file, 20 bits each instead of 32, in a file of their own; weights.js reads it.

With 16 bits, one photo of 80 got another answer than with 32; with 20 bits, one of 250 (of 1,500 of Oxford's pets). The
heat map says where the second look goes, and where nothing is sure, a hundredth of a pixel decides.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

LOCATION = "weights"
"""Where the network's file says that its large weights are: float32, one after another."""
MIN_NUMBERS = 10_000
"""Of a weight. Smaller ones stay in the network's file: they hardly take room."""
LARGEST = 2**19 - 1
"""Each row of a weight becomes whole numbers up to this one, times a step of its own."""


@dataclass(frozen=True)
class PackedWeights:
    """A network without its large weights, and these."""

    network: bytes
    """An ONNX file; it takes the weights from `LOCATION`."""
    weights: bytes
    """The steps of all rows, float32; of each number the 16 high bits, int16; and the 4 low bits, two numbers in a
    byte, the first in its lower half."""
    rows: list[tuple[int, int]]
    """Of each weight in turn, how many rows it has, and how many numbers each of these."""


def pack_weights(content: bytes) -> PackedWeights:
    """Take the large weights out of an ONNX file.

    A few nodes of ONNX could make float32 of them too, but in a browser they cost half a second of the first answer.
    """
    model = onnx.load_from_string(content)
    large = [weight for weight in model.graph.initializer if _is_large(weight)]
    steps, numbers, rows, start = [], [np.empty(0, np.int32)], [], 0
    for weight in large:
        values = numpy_helper.to_array(weight)
        values = values.reshape(len(values), -1)
        step = _step(values)
        steps.append(step)
        numbers.append(np.rint(values / step.astype(float)).astype(np.int32).clip(-LARGEST, LARGEST).ravel())
        rows.append(values.shape)
        weight.ClearField("float_data")
        weight.raw_data = b""  # which set_external_data asks for
        set_external_data(weight, LOCATION, offset=start, length=values.nbytes)
        weight.ClearField("raw_data")
        start += values.nbytes
    weights = b"".join([*(step.tobytes() for step in steps), _packed(np.concatenate(numbers))])
    return PackedWeights(model.SerializeToString(), weights, rows)


def _is_large(weight: TensorProto) -> bool:
    return weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1 and math.prod(weight.dims) >= MIN_NUMBERS


def _step(values: np.ndarray) -> np.ndarray:
    """Of each row, float32, `(num_rows, 1)`."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    return np.where(largest > 0, largest, np.float32(1)) / np.float32(LARGEST)


def _packed(numbers: np.ndarray) -> bytes:
    low = np.append(numbers & 15, np.zeros(len(numbers) % 2, int)).astype(np.uint8)
    return (numbers >> 4).astype("<i2").tobytes() + (low[::2] | low[1::2] << 4).tobytes()
