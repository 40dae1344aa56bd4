"""The joint answer of several runs, used where it was measured to be right more often than the best run alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from dogbreeds.answers import Answer, answers_of
from dogbreeds.calibration import CONFIDENT_ACCURACY, Verdict, lowest_threshold, softmax
from dogbreeds.errors import UserError, first_line
from dogbreeds.files import write_json
from dogbreeds.run_folder import PRETRAINED, RunFolder
from dogbreeds.serving.predictor import Prediction

ENSEMBLE_FILE = "ensemble.json"
SHIPPED_ENSEMBLE = PRETRAINED / ENSEMBLE_FILE
"""The ensemble of the two runs that come with the project."""


@dataclass(frozen=True)
class Ensemble:
    """How to pool the answers of some runs, as measured on photos that none was trained on; written by `compare`."""

    models: tuple[str, ...]
    """The SHA-256 of each run's model."""
    weights: tuple[float, ...]
    """The weight of each run's answer, summing to 1; chosen for the least log-loss on these photos."""
    num_photos: int
    num_right: int
    """Right joint answers."""
    num_right_alone: tuple[int, ...]
    """Right answers of each run alone."""
    confident_threshold: float
    """A joint answer whose probability is at least this is called confident; see `Calibration`."""

    @property
    def is_better(self) -> bool:
        """Whether more joint answers are right than of the best run alone."""
        return self.num_right > max(self.num_right_alone)

    @classmethod
    def measure(cls, runs: Sequence[RunFolder], probabilities: Sequence[np.ndarray], labels: np.ndarray) -> "Ensemble":
        """Fit the weights, and count right answers of the ensemble and of each run.

        Args:
            runs: At least two, with the same classes.
            probabilities: For each run `(N, C)`, calibrated.
            labels: `(N,)`, the right classes.
        """
        weights = _fit_weights(probabilities, labels)
        pooled = pool(probabilities, weights)
        right = pooled.argmax(axis=1) == labels
        return cls(
            models=tuple(model_hash(run) for run in runs),
            weights=tuple(weights.tolist()),
            num_photos=len(labels),
            num_right=int(right.sum()),
            num_right_alone=tuple(int((single.argmax(axis=1) == labels).sum()) for single in probabilities),
            confident_threshold=lowest_threshold(pooled.max(axis=1), right, CONFIDENT_ACCURACY),
        )

    def answer(self, predictions: dict[str, Prediction], labels: Sequence[str], *, top_k: int = 5) -> Answer:
        """The joint answer to one photo.

        The verdict is `not_a_dog` if all runs say so: on everyday photos the worst of them says it too often.

        Args:
            predictions: Each run's prediction, by its `model_hash`.
            labels: The name of each class.
            top_k: How many breeds to name.
        """
        pooled = pool([predictions[model].probabilities[None] for model in self.models], np.array(self.weights))
        verdict: Verdict = "confident" if pooled.max() >= self.confident_threshold else "unsure"
        if all(prediction.verdict == "not_a_dog" for prediction in predictions.values()):
            verdict = "not_a_dog"
        return answers_of(pooled, [verdict], self.confident_threshold, labels, top_k=top_k)[0]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Ensemble":
        """Read what `save` wrote.

        Raises:
            UserError: The file is missing or damaged.
        """
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"there is no file {str(path)!r}: name the {ENSEMBLE_FILE} of a folder that compare made"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{str(path)!r} is damaged ({first_line(error)}): create it again with compare") from None

    def is_of(self, runs: Sequence[RunFolder]) -> bool:
        """Whether it was measured with exactly these models."""
        return sorted(self.models) == sorted(model_hash(run) for run in runs)


def pool(probabilities: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The logarithmic opinion pool: the weighted geometric mean of several models' probabilities.

    With the two runs that come with the project it has less log-loss and more right answers than the plain mean.
    See Genest and Zidek 1986, "Combining Probability Distributions" (https://doi.org/10.1214/ss/1177013825).

    Args:
        probabilities: For each model `(N, C)`.
        weights: For each model, summing to 1.

    Returns:
        `(N, C)`, rows summing to 1.
    """
    logs = [np.log(np.clip(single, 1e-12, None)) for single in probabilities]
    return softmax(np.tensordot(weights, np.stack(logs), axes=1))


def _fit_weights(probabilities: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    from scipy.optimize import minimize  # only research needs SciPy

    def log_loss(scores: np.ndarray) -> float:
        right = pool(probabilities, softmax(scores))[np.arange(len(labels)), labels]
        return -float(np.log(right.clip(1e-12)).mean())

    return softmax(minimize(log_loss, np.zeros(len(probabilities)), method="Nelder-Mead").x)


def model_hash(run: RunFolder) -> str:
    """The SHA-256 of the model that answers, from run.json, which was checked when the run was opened."""
    return run.record.sha256[run.record.serving_model]
