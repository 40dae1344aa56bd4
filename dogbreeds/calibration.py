"""From logits to calibrated probabilities and a verdict: one temperature and two thresholds, fitted on validation."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["confident", "unsure", "not_a_dog"]

DOG_PASS_RATE = 0.98
"""The share of validation dogs that the "not a dog" threshold lets pass."""
CONFIDENT_ACCURACY = 0.95
"""The share of right answers among those called confident, on validation."""


@dataclass(frozen=True)
class Calibration:
    """The parameters that turn a model's logits into answers. They are kept in `run.json`, beside the weights."""

    temperature: float
    """Logits are divided by this before the softmax (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""
    not_a_dog_threshold: float
    """A photo whose `dog_score` is below this is called not a dog."""
    confident_threshold: float
    """An answer whose calibrated probability is at least this is called confident."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities `(N, C)`, rows summing to 1, of logits `(N, C)`."""
        return softmax(logits / self.temperature)

    def apply(self, logits: np.ndarray) -> tuple[np.ndarray, list[Verdict]]:
        """The `probabilities` and the verdicts on logits `(N, C)`, with one softmax for both."""
        probabilities = self.probabilities(logits)
        is_dog = dog_score(logits) >= self.not_a_dog_threshold
        is_confident = probabilities.max(axis=1) >= self.confident_threshold
        return probabilities, [
            "not_a_dog" if not dog else "confident" if confident else "unsure"
            for dog, confident in zip(is_dog, is_confident, strict=True)
        ]

    @classmethod
    def fit(cls, logits: np.ndarray, labels: np.ndarray) -> "Calibration":
        """Fit temperature and thresholds on a validation set.

        Args:
            logits: `(N, C)`, of photos that the model was not trained on.
            labels: `(N,)`, integers in 0..C-1.
        """
        temperature = _fit_temperature(logits, labels)
        confidence = softmax(logits / temperature).max(axis=1)
        right = logits.argmax(axis=1) == labels
        return cls(
            temperature=temperature,
            not_a_dog_threshold=float(np.quantile(dog_score(logits), 1 - DOG_PASS_RATE)),
            confident_threshold=lowest_threshold(confidence, right, CONFIDENT_ACCURACY),
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64: float32 rows of 120 do not sum to 1 closely enough for log-loss."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def dog_score(logits: np.ndarray) -> np.ndarray:
    """How far the largest logit stands out, `(N,)` for logits `(N, C)`: low for photos of something else.

    It is the maximum-logit score of Hendrycks et al. 2022 (https://arxiv.org/abs/1911.11132) less the mean of the
    logits. Cross-entropy ignores a constant added to all logits of a photo, so training leaves it to chance; without
    it many more photos without a dog are recognised (tests/benchmarks/not_a_dog.py measures both).
    """
    return logits.max(axis=1) - logits.mean(axis=1)


def _fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least cross-entropy on these labels, between 1/20 and 20.

    The targets are smoothed by 1 / (n + 2), as Platt 1999 does ("Probabilistic Outputs for Support Vector Machines"):
    without it, a validation set with no wrong answer would ask for certainty.
    """
    from scipy.optimize import minimize_scalar  # only training needs SciPy

    def cross_entropy(log_temperature: float) -> float:
        log_probabilities = np.log(softmax(logits / np.exp(log_temperature)) + 1e-300)
        right = log_probabilities[np.arange(len(labels)), labels].mean()
        return -float((1 - smoothing) * right + smoothing * log_probabilities.mean())

    smoothing = 1 / (len(labels) + 2)
    bounds = (-np.log(20), np.log(20))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x))


def lowest_threshold(confidence: np.ndarray, right: np.ndarray, accuracy: float) -> float:
    """The lowest threshold above which this share of answers is right; just over 1 (never) if there is none.

    Args:
        confidence: `(N,)`, the probability of each answer.
        right: `(N,)`, whether it is right.
        accuracy: The share asked for.
    """
    order = np.argsort(-confidence, kind="stable")
    share_right = right[order].cumsum() / np.arange(1, len(order) + 1)
    last_of_equals = np.append(np.diff(confidence[order]) < 0, True)
    good = np.flatnonzero((share_right >= accuracy) & last_of_equals)
    return float(confidence[order[good[-1]]]) if len(good) else 1.0 + 1e-9
