"""The answer to a photo as people see it: with where the model looked, and of each dog where there are several."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dogbreeds.answers import Answer

Shares = tuple[float, float, float, float]
"""A part of an upright photo: left, top, right, bottom, as shares of its width and height."""


@dataclass(frozen=True)
class Prediction(Answer):
    """The answer to one photo."""

    probabilities: np.ndarray
    """`(C,)`, calibrated, in the order of the run's labels."""
    heat_map: np.ndarray | None
    """`(h, w)` float32, 0..1: where in the region the photo speaks for the most probable breed; None if the model has
    no heat map."""
    region: Shares
    """What the model saw in its best look."""
    seconds: float
    """From the photo to the answer: with `Predictor.predict`, opening the file included; with `predict_images`, the
    time for all images of the call."""
    dogs: tuple["Dog", ...] = ()
    """Each dog of a photo of several, from left to right, where they were looked for; empty for one dog. The rest of
    the answer is to the photo as a whole."""

    def to_dict(self) -> dict[str, Any]:
        """As that of an `Answer`, with the `dogs` where there are several."""
        return super().to_dict() | ({"dogs": [dog.to_dict() for dog in self.dogs]} if self.dogs else {})


@dataclass(frozen=True)
class Dog:
    """One dog of several."""

    box: Shares
    """Where it is."""
    prediction: Prediction
    """Which breed it is; its `region` is a part of the photo, as the box is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"box": [round(edge, 4) for edge in self.box], **self.prediction.to_dict()}
