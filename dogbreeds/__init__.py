"""Tell a dog's breed from a photo, with a Vision Transformer or a CNN.

What a researcher does, from Python:

    TrainConfig                 every option of a run
    load_data(config)           labelled photos, cut into training, validation and test: Splits
    build_model(options, image_size, names)
                                the model of transformers, (B, 3, H, W) to logits (B, C)
    train(config)               a run folder
    Predictor(run)              answers from a run folder, without torch
    evaluate(predictor, photos) figures, each breed, predictions and cost: Evaluation
    compare(run_dirs)           several runs on the same photos: Comparison

Each is imported when it is first used, for `import dogbreeds` must not wait for torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogbreeds.research.compare import compare
    from dogbreeds.research.evaluate import evaluate
    from dogbreeds.serving.predictor import Predictor
    from dogbreeds.training.datasets.splits import load_data
    from dogbreeds.training.models.build import build_model
    from dogbreeds.training.options import TrainConfig
    from dogbreeds.training.train import train

# ONNX Runtime (read in 1.32) reports its use to its maker, and writes the id of the device below ~/.cache, unless this
# is set before it is imported. This module is imported before every other of the package.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_HOMES = {
    "Predictor": "serving.predictor",
    "TrainConfig": "training.options",
    "build_model": "training.models.build",
    "compare": "research.compare",
    "evaluate": "research.evaluate",
    "load_data": "training.datasets.splits",
    "train": "training.train",
}

__all__ = ["Predictor", "TrainConfig", "build_model", "compare", "evaluate", "load_data", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
