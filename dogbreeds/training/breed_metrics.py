"""The figures of `dogbreeds.metrics` as a module of the evaluate library, which needs no network.

Training and research compute the figures that they report with `compute_figures`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np

from dogbreeds import metrics


@contextmanager
def _hidden(library: str) -> Iterator[None]:
    """Let imports of a library fail for a while, as if it were not installed; one that is imported already stays."""
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]  # what Python reads as "can't be imported"
    try:
        yield
    finally:
        del sys.modules[library]


# For its evaluators, which are not used here, evaluate imports transformers and so torch: 5 s more. It does without
# where transformers is not installed (read in evaluate 0.4.6, evaluator/__init__.py and evaluator/base.py). A version
# that imports its evaluators only when they are used replaces this.
with _hidden("transformers"):
    import evaluate


class BreedMetrics(evaluate.Metric):
    """`dogbreeds.metrics.summary`, with the interface of evaluate's metrics (`add_batch`, `compute`).

    Inputs: `predictions` `(N, C)`, calibrated probabilities; `uncalibrated` `(N, C)`, the softmax of the logits;
    `references` `(N,)`, the labels as integers.
    """

    def __init__(self) -> None:
        # In memory: one process has all predictions, so there are no files to share. evaluate makes a folder for them
        # nevertheless (read in 0.4.6, module.py), below ~/.cache unless another is named.
        with TemporaryDirectory() as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder)

    def _info(self) -> evaluate.MetricInfo:
        probabilities = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description="Accuracy, calibration and macro figures of a classifier's probabilities.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                predictions=probabilities, uncalibrated=probabilities, references=datasets.Value("int64")
            ),
        )

    def _compute(self, predictions: Any, uncalibrated: Any, references: Any) -> dict[str, float]:
        return metrics.summary(np.asarray(predictions), np.asarray(references), np.asarray(uncalibrated))


def compute_figures(probabilities: np.ndarray, labels: np.ndarray, uncalibrated: np.ndarray) -> dict[str, float]:
    """The figures of one model on one labelled set; arguments and result are those of `dogbreeds.metrics.summary`."""
    figures: dict[str, float] = BreedMetrics().compute(
        predictions=probabilities, uncalibrated=uncalibrated, references=labels
    )
    return figures
