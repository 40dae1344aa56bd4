"""The answer to a photo as people see it: with where the model looked, and of each dog where there are several."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dogbreeds.answers import Answer

Shares = tuple[float, float, float, float]
"""A part of an upright photo: left, top, right, bottom, as shares of its width and height."""


@dataclass(frozen=True)
class Shot:
    """A photo, or one frame of a video."""

    path: str
    seconds: float | None = None
    """Of a frame: from the first one of its video."""

    def __str__(self) -> str:
        return self.path if self.seconds is None else f"{self.path} at {self.seconds:.1f} s"


@dataclass(frozen=True)
class Prediction(Answer):
    """The answer to one photo, or to several of the same dog."""

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
    """Each dog of several, where they were looked for: those of a photo from left to right, those of a video by when
    they are first seen. Empty for one dog. The rest of the answer is to the photo or video as a whole."""
    decided_by: Shot | None = None
    """Of photos or frames that have one answer together, the one that speaks most for the most probable breed; heat map
    and region are its own."""

    def to_dict(self) -> dict[str, Any]:
        """As that of an `Answer`, with the `dogs` where there are several, and what decided where it is known."""
        found = super().to_dict()
        if self.dogs:
            found["dogs"] = [dog.to_dict() for dog in self.dogs]
        if self.decided_by:
            found["decided_by"] = asdict(self.decided_by)
        return found


@dataclass(frozen=True)
class Dog:
    """One dog of several."""

    box: Shares
    """Where it is; of a video, in the frame that decided."""
    prediction: Prediction
    """Which breed it is; its `region` is a part of the photo, as the box is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"box": [round(edge, 4) for edge in self.box], **self.prediction.to_dict()}
