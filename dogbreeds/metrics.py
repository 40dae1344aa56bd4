"""Probabilities and labels in, figures out; pure."""

import numpy as np


def top_k_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of photos whose label is among the k most probable classes.

    Args:
        probabilities: `(N, C)`; any scores that order the classes will do.
        labels: `(N,)`, integers in 0..C-1.
        k: 1 or more; with k > C every photo counts as right.
    """
    k = min(k, probabilities.shape[1])
    top = np.argpartition(-probabilities, k - 1, axis=1)[:, :k]
    return float((top == labels[:, None]).any(axis=1).mean())


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln P(label), natural logarithm; P is kept away from 0 by 1e-15."""
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(1e-15)).mean())


def macro_f1(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The F1 score of the most probable class, averaged over the classes that occur in the labels.

    Classes of the model that the labelled set does not hold are left out of the mean (10 breeds scored by a model of
    120), though a photo taken for one of them still counts as missed.
    """
    from sklearn.metrics import f1_score  # takes a second to import, which predict must not pay

    predicted = probabilities.argmax(axis=1)
    return float(f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> float:
    """The gap between confidence and accuracy, 0..1 (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    The photos are put into bins of equal width by the probability of their most probable class; the result is the
    mean of |accuracy - mean confidence| over the bins, weighted by their number of photos.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(labels))


def summary(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The figures of one model on one labelled set.

    Args:
        probabilities: `(N, C)`, calibrated, rows summing to 1.
        labels: `(N,)`, integers in 0..C-1.
    """
    assert len(probabilities) == len(labels) > 0, (probabilities.shape, labels.shape)
    return {
        "n": len(labels),
        "top1": top_k_accuracy(probabilities, labels, 1),
        "top3": top_k_accuracy(probabilities, labels, 3),
        "macro_f1": macro_f1(probabilities, labels),
        "log_loss": log_loss(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels),
    }
