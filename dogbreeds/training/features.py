"""Features of a frozen backbone, computed once for a whole split."""

import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from dogbreeds.machine import num_cores_each
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.augment import Normalise
from dogbreeds.training.context import Context
from dogbreeds.training.export import export_onnx
from dogbreeds.training.loaders import PixelDataset, TensorDataset, data_loader, end_workers
from dogbreeds.training.models.inspection import features_of

BATCH_SIZE = {"cpu": 32, "cuda": 512}
"""Photos in a batch; on a CPU, ONNX Runtime is no faster with more."""


class FeatureModel(nn.Module):
    """The part of a model before its classifier: pixels `(B, 3, H, W)` -> features `(B, D)`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features; see the class."""
        return features_of(self.model, pixel_values)


def compute_features(
    model: PreTrainedModel,
    pixels: dict[str, PixelDataset],
    preprocessing: Preprocessing,
    context: Context,
    num_workers: int,
) -> tuple[dict[str, TensorDataset], dict[str, float]]:
    """Run the backbone once over each split, divided among the processes.

    Args:
        model: Is put into evaluation mode.
        pixels: The photos of each split, pre-processed up to the normalisation.
        preprocessing: Normalises their 8-bit pixels.
        context: The process, with its device.
        num_workers: Processes that decode photos, for each training process.

    Returns:
        For each split its features `(D,)`, float32, and labels, in the split's order, complete in every process and on
        its device; and for each split the seconds that it took.
    """
    accelerator = context.accelerator
    encode = encoder(model, Normalise(preprocessing, context.device), accelerator, preprocessing.size)
    # Large batches from worker processes would not fit into the shared memory of most containers.
    batch_size = BATCH_SIZE.get(context.device.type, 32) if num_workers == 0 else 32
    features, seconds = {}, {}
    for name, dataset in pixels.items():
        started = time.perf_counter()
        loader = accelerator.prepare(data_loader(dataset, batch_size, num_workers))
        bar = tqdm(loader, f"features of {name}", unit="batch", disable=not context.shows_progress)
        parts = (accelerator.gather_for_metrics((encode(batch.inputs), batch.labels)) for batch in bar)
        features[name] = TensorDataset(*_joined(parts, len(dataset)))
        end_workers(loader)
        seconds[name] = time.perf_counter() - started
    return features, seconds


def _joined(parts: Iterable[tuple[torch.Tensor, torch.Tensor]], num_photos: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The features `(N, D)`, float32, and labels of all batches, each of which is written to its place at once.

    A list of them would keep the C library from giving back the memory of the batches' pixels: each of its small
    tensors lies behind some, and 14,000 photos took 9 GB.
    """
    features = labels = torch.empty(0)
    done = 0
    for some_features, some_labels in parts:
        if not done:
            features = some_features.new_empty((num_photos, *some_features.shape[1:]), dtype=torch.float32)
            labels = some_labels.new_empty(num_photos)
        rows = slice(done, done + len(some_labels))
        features[rows], labels[rows] = some_features, some_labels
        done = rows.stop
    assert done == num_photos, f"{done} features of {num_photos} photos"
    return features, labels


def encoder(
    model: PreTrainedModel, normalise: Normalise, accelerator: Accelerator, image_size: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The fastest way on this device from 8-bit pixels `(B, H, W, 3)` to features `(B, D)`."""
    feature_model = FeatureModel(model).eval()
    if accelerator.device.type != "cpu":
        feature_model.to(accelerator.device)
        return torch.no_grad()(lambda pixels: feature_model(normalise(pixels)))
    # On a CPU, ONNX Runtime computes MobileNetV2's features several times as fast as PyTorch, and faster still where
    # each core has photos of its own (measured by tests/benchmarks/frozen_features.py).
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.onnx"
        export_onnx(feature_model, file, image_size, ["features"])
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    num_threads = num_cores_each()
    pool = ThreadPoolExecutor(num_threads)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"pixel_values": normalise(pixels).contiguous().numpy()})[0])

    return lambda pixels: torch.cat(list(pool.map(encode, pixels.chunk(num_threads))))
