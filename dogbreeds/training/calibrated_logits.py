"""The temperature of a run in its model, so that the softmax of its logits is calibrated for other libraries too."""

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper


def divide_logits(path: Path, divisor: float) -> None:
    """Divide the logits of a serving model by a number; it changes no other output.

    Args:
        path: The ONNX file, which is replaced.
        divisor: Above 0; with 1 the file stays as it is.
    """
    if divisor == 1:
        return
    model = onnx.load(path)
    num = len(model.graph.node)
    before, constant = f"logits_{num}", f"temperature_{num}"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [before if name == "logits" else name for name in names]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(divisor, np.float32), constant))
    model.graph.node.append(onnx.helper.make_node("Div", [before, constant], ["logits"], name=f"calibrated_{before}"))
    onnx.save(model, path)
