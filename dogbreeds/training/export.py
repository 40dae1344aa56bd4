"""Export of a trained model to ONNX for serving, checked against PyTorch."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from transformers import PreTrainedModel

from dogbreeds.errors import first_line
from dogbreeds.training.heat_maps import ServingModel

MAX_DIFFERENCE = 1e-4
"""Largest difference allowed between an output of ONNX Runtime and of PyTorch; for outputs that go beyond 1, relative
to their largest value, since float32 has no more than about seven digits."""


@dataclass(frozen=True)
class ServingExport:
    """The result of `export_serving_model`."""

    differences: dict[str, float]
    """For each output, the largest difference from PyTorch on random pixels, as `MAX_DIFFERENCE` counts it."""
    why_no_heat_map: str | None
    """Why the file gives logits alone, in one line; None if it gives heat maps too."""


def export_serving_model(model: PreTrainedModel, path: Path, image_size: int) -> ServingExport:
    """Export logits, and heat maps if they can be computed and exported, and check them against PyTorch.

    Args:
        model: Is moved to the CPU, in float32 and evaluation mode.
        path: The ONNX file to write.
        image_size: Pixels.

    Raises:
        RuntimeError: ONNX Runtime gives other logits than PyTorch.
    """
    serving_model = ServingModel(model.cpu().float(), image_size)
    try:
        differences = _export_checked(serving_model, path, image_size)
    except Exception as error:  # the exporter, ONNX Runtime and the checks each raise their own
        if serving_model.explain is None:
            raise
        serving_model.omit_heat_map(f"its export failed: {first_line(error)}")
        differences = _export_checked(serving_model, path, image_size)
    return ServingExport(differences, serving_model.why_no_heat_map)


def _export_checked(serving_model: ServingModel, path: Path, image_size: int) -> dict[str, float]:
    """Export, and compare each output on random pixels; see `ServingExport.differences`."""
    names = serving_model.output_names
    export_onnx(serving_model, path, image_size, names)
    pixels = torch.rand(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = [output.numpy() for output in serving_model(pixels)]
        np.testing.assert_allclose(expected[0], serving_model.model(pixels).logits.numpy(), atol=1e-4, rtol=1e-4)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(names, {"pixel_values": pixels.numpy()})
    differences = {
        name: float(np.abs(onnx_output - output).max() / max(1.0, np.abs(output).max()))
        for name, onnx_output, output in zip(names, found, expected, strict=True)
    }
    worst = max(differences.values())
    if not worst <= MAX_DIFFERENCE:
        raise RuntimeError(f"the ONNX export differs from PyTorch by {worst:.2g}, more than {MAX_DIFFERENCE:.0e}")
    return differences


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
    logging.disable(logging.WARNING)
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
        logging.disable(logging.NOTSET)
    # The exporter notes for each node which source file made it: paths of this machine, which must not be published.
    exported = onnx.load(path)
    nodes_of_functions = [node for function in exported.functions for node in function.node]
    graph = exported.graph
    for item in (exported, graph, *graph.node, *graph.value_info, *exported.functions, *nodes_of_functions):
        item.ClearField("metadata_props")
    onnx.save(exported, path)
