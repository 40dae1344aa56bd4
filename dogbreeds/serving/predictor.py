"""A run folder -> answers, with ONNX Runtime and without torch."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from dogbreeds.calibration import Verdict
from dogbreeds.errors import UserError
from dogbreeds.images import PhotoSource, open_image
from dogbreeds.machine import num_cores
from dogbreeds.run_folder import DEFAULT_RUN, RunFolder


@dataclass(frozen=True)
class BreedProbability:
    """One candidate."""

    breed: str
    probability: float
    """Calibrated, 0..1."""


@dataclass(frozen=True)
class Prediction:
    """The answer to one photo."""

    verdict: Verdict
    breeds: tuple[BreedProbability, ...]
    """The most probable breeds, best first."""
    heat_map: np.ndarray
    """`(h, w)` float32, 0..1: where in the model's view the photo speaks for the most probable breed."""
    region: tuple[float, float, float, float]
    """The part of the photo that the model saw: left, top, right, bottom, in pixels of the upright photo."""
    seconds: float
    """From the photo as it was given (a file is opened, a PIL image is not) to the answer."""


class Predictor:
    """Answers from one run folder. Safe to share between threads."""

    def __init__(
        self, run: str | os.PathLike[str] | RunFolder = DEFAULT_RUN, *, num_threads: int | None = None
    ) -> None:
        """Load a run.

        Args:
            run: A run folder; by default the one that comes with the project.
            num_threads: Cores for one forward pass; by default all that this process may use.

        Raises:
            UserError: The run folder is missing or damaged, or its model has another number of labels.
        """
        self.run = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or num_cores()
        # Threads that wait for work by spinning take the cores from a second model; on its own each is as fast without.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; its warnings are about the graph, not for the user
        try:
            self._session = onnxruntime.InferenceSession(self.run.onnx, options, providers=["CPUExecutionProvider"])
            outputs = {output.name: output.shape for output in self._session.get_outputs()}
            num_outputs = outputs["logits"][1]
        except Exception as error:  # ONNX Runtime has no common class for its errors
            raise UserError(f"{str(self.run.onnx)!r} can't be loaded: {error}") from None
        if num_outputs != len(self.run.labels):
            raise UserError(
                f"run folder {str(self.run.path)!r} is damaged: its model has {num_outputs} outputs, but config.json "
                f"names {len(self.run.labels)} labels"
            )

    def predict(self, photo: PhotoSource, *, top_k: int = 5) -> Prediction:
        """Answer one photo.

        Args:
            photo: Path, bytes or PIL image.
            top_k: How many breeds to name, at least 1.

        Raises:
            BadImage: The photo can't be read; the message is a sentence for the person.
        """
        started = time.perf_counter()
        image = open_image(photo)
        logits, heat_maps = self._session.run(["logits", "heat_map"], {"pixel_values": self.run.view(image)[None]})
        probabilities = self.run.calibration.probabilities(logits)[0]
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return Prediction(
            verdict=self.run.calibration.verdicts(logits)[0],
            breeds=tuple(BreedProbability(self.run.labels[i], float(probabilities[i])) for i in order),
            heat_map=evidence(heat_maps[0], order[0]),
            region=self.run.view.region(image.width, image.height),
            seconds=time.perf_counter() - started,
        )

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits `(B, C)` of views `(B, 3, H, W)`, before calibration."""
        return self._session.run(["logits"], {"pixel_values": pixels})[0]


def evidence(heat_maps: np.ndarray, label: int) -> np.ndarray:
    """Where a photo speaks for one class rather than for the others, and more than on the average: 0..1.

    Only differences between logits mean something, so the maps are taken relative to the mean of all classes.

    Args:
        heat_maps: `(C, h, w)`, the model's own, in units of logits.
        label: The class.

    Returns:
        `(h, w)` float32; the strongest place is 1, those below the average 0.
    """
    relative = heat_maps[label] - heat_maps.mean(axis=0)
    above = (relative - relative.mean()).clip(min=0)
    return (above / max(above.max(), 1e-12)).astype(np.float32)
