"""Several runs answering together, where that was measured to be right more often than the best of them alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dogbreeds.answers import Answer, answers_of
from dogbreeds.calibration import CONFIDENT_ACCURACY, Verdict, lowest_threshold
from dogbreeds.errors import UserError
from dogbreeds.run_folder import PRETRAINED, RunFolder, serving_files
from dogbreeds.serving.predictor import Prediction

JOINT = "joint.json"
SHIPPED_JOINT = PRETRAINED / JOINT
"""What the two runs that come with the project reach together."""


@dataclass(frozen=True)
class Joint:
    """What some runs reach together on photos that none of them was trained on; written by `compare`."""

    models: tuple[str, ...]
    """The SHA-256 of each run's model."""
    num_photos: int
    num_right: int
    """Of the joint answers; a joint answer is the mean of the runs' calibrated probabilities."""
    num_right_alone: tuple[int, ...]
    """Of each run's own."""
    confident_threshold: float
    """A joint answer whose probability is at least this is called confident; see `Calibration`."""

    @property
    def is_better(self) -> bool:
        """Whether more joint answers are right than of the best run alone."""
        return self.num_right > max(self.num_right_alone)

    @classmethod
    def measure(cls, runs: Sequence[RunFolder], probabilities: Sequence[np.ndarray], labels: np.ndarray) -> "Joint":
        """Compare joint with single answers.

        Args:
            runs: At least two, with the same classes.
            probabilities: Of each run `(N, C)`, calibrated.
            labels: `(N,)`.
        """
        mean = np.mean(probabilities, axis=0)
        right = mean.argmax(axis=1) == labels
        return cls(
            models=tuple(model_hash(run) for run in runs),
            num_photos=len(labels),
            num_right=int(right.sum()),
            num_right_alone=tuple(int((single.argmax(axis=1) == labels).sum()) for single in probabilities),
            confident_threshold=lowest_threshold(mean.max(axis=1), right, CONFIDENT_ACCURACY),
        )

    def answer(self, predictions: Sequence[Prediction], labels: Sequence[str], *, top_k: int = 5) -> Answer:
        """The joint answer to one photo.

        It is called not a dog if all runs say so: on everyday photos the worst of them says it too often.

        Args:
            predictions: Of each run, in any order.
            labels: The name of each class.
            top_k: How many breeds to name.
        """
        mean = np.mean([prediction.probabilities for prediction in predictions], axis=0)
        verdict: Verdict = "confident" if mean.max() >= self.confident_threshold else "unsure"
        if all(prediction.verdict == "not_a_dog" for prediction in predictions):
            verdict = "not_a_dog"
        return answers_of(mean[None], [verdict], self.confident_threshold, labels, top_k=top_k)[0]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Joint":
        """Read what `save` wrote.

        Raises:
            UserError: The file is missing or damaged.
        """
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            lists = {name: tuple(facts[name]) for name in ("models", "num_right_alone")}
            return cls(**{**facts, **lists})
        except FileNotFoundError:
            raise UserError(f"there is no file {str(path)!r}: name the {JOINT} of a folder that compare made") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{str(path)!r} is damaged ({error}): make it anew with compare") from None

    def is_of(self, runs: Sequence[RunFolder]) -> bool:
        """Whether it was measured with these very models."""
        return sorted(self.models) == sorted(model_hash(run) for run in runs)


def model_hash(run: RunFolder) -> str:
    """The SHA-256 of the model that answers, from run.json, which was checked when the run was opened."""
    return str(run.record["sha256"][serving_files(run.record)[-1]])
