"""The figures of `dogbreeds.metrics` as a module of the evaluate library, which needs no network."""

from typing import Any

import datasets
import evaluate
import numpy as np

from dogbreeds import metrics


class BreedMetrics(evaluate.Metric):
    """`dogbreeds.metrics.summary`, with the interface of evaluate's metrics (`add_batch`, `compute`).

    Inputs: `predictions` `(N, C)`, calibrated probabilities; `uncalibrated` `(N, C)`, the softmax of the logits;
    `references` `(N,)`, the labels as integers.
    """

    def __init__(self) -> None:
        # In memory: the trainer gathers all predictions first, so there are no files to share between processes.
        super().__init__(keep_in_memory=True)

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
