"""Features of a frozen backbone on a CPU: ONNX Runtime, as training computes them, against PyTorch, in one run.

python tests/benchmarks/frozen_features.py --model FOLDER_OR_HUB_ID
"""

import time

import numpy as np
import torch
import tyro
from accelerate import Accelerator

from dogbreeds.training.augment import Normalise
from dogbreeds.training.features import BATCH_SIZE, encoder
from dogbreeds.training.models.build import build_model, model_preprocessing
from dogbreeds.training.models.inspection import features_of
from dogbreeds.training.options import ModelOptions, PreprocessingOptions


def main(model: str, num_batches: int = 10, num_rounds: int = 3) -> None:
    """Print photos per second of both, their ratio and the largest difference."""
    options, preprocessing = ModelOptions(model=model, freeze_backbone=True), PreprocessingOptions()
    size = preprocessing.image_size
    network = build_model(options, size, ("a", "b")).eval()
    normalise = Normalise(model_preprocessing(options, preprocessing), torch.device("cpu"))
    encode = encoder(network, normalise, Accelerator(cpu=True), size)
    pixels = torch.randint(0, 256, (BATCH_SIZE["cpu"], size, size, 3), dtype=torch.uint8)
    ratios = []
    with torch.no_grad():
        difference = (encode(pixels) - features_of(network, normalise(pixels))).abs().max()
        for round_number in range(num_rounds):
            rates = []
            for compute in (encode, lambda batch: features_of(network, normalise(batch))):
                start = time.perf_counter()
                for _ in range(num_batches):
                    compute(pixels)
                rates.append(num_batches * len(pixels) / (time.perf_counter() - start))
            ratios.append(rates[0] / rates[1])
            print(f"round {round_number + 1}: ONNX Runtime {rates[0]:.0f}, PyTorch {rates[1]:.0f} photos/s")
    print(f"ratio {np.mean(ratios):.1f} +- {np.std(ratios):.1f}; largest difference {difference:.1e}")


if __name__ == "__main__":
    tyro.cli(main)
