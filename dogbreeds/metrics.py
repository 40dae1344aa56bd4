"""Probabilities and labels in, figures out; pure. NumPy, and scikit-learn where it has the figure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mistaken:
    """A breed that photos of another breed are mistaken for."""

    breed: str
    count: int
    """Photos whose most probable class it is."""
    mean_probability: float
    """Its mean probability over all photos of the true breed."""


@dataclass(frozen=True)
class BreedFigures:
    """How well a model recognises one breed."""

    breed: str
    n: int
    """Photos with this label."""
    recall: float
    """The share of them whose most probable class is the breed."""
    precision: float | None
    """The share of the photos predicted as this breed that are of it; None if there are none."""
    mean_probability: float
    """Mean probability of the breed on its own photos."""
    mistaken_for: tuple[Mistaken, ...]
    """The breeds that its photos are mistaken for most, by count, then by mean probability."""


def summary(probabilities: np.ndarray, labels: np.ndarray, uncalibrated: np.ndarray) -> dict[str, float]:
    """The figures of one model on one labelled set.

    `cross_entropy` is the loss that training minimises, so it is that of the uncalibrated probabilities. `log_loss` is
    the score of Kaggle's Dog Breed Identification (https://www.kaggle.com/competitions/dog-breed-identification), of
    the calibrated probabilities. The macro figures are means over the classes that occur in the labels.

    Args:
        probabilities: `(N, C)`, calibrated, rows summing to 1.
        labels: `(N,)`, integers in 0..C-1.
        uncalibrated: `(N, C)`, the same before calibration: the softmax of the logits.
    """
    assert len(probabilities) == len(labels) == len(uncalibrated) > 0, (probabilities.shape, labels.shape)
    precision, recall, f1 = macro_precision_recall_f1(probabilities, labels)
    return {
        "n": len(labels),
        "top1": top_k_accuracy(probabilities, labels, 1),
        "top3": top_k_accuracy(probabilities, labels, 3),
        "top5": top_k_accuracy(probabilities, labels, 5),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "cross_entropy": log_loss(uncalibrated, labels),
        "log_loss": log_loss(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels),
        "ece_uncalibrated": expected_calibration_error(uncalibrated, labels),
        "brier": brier_score(probabilities, labels),
        "brier_uncalibrated": brier_score(uncalibrated, labels),
    }


def top_k_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of photos whose label is among the k most probable classes.

    Args:
        probabilities: `(N, C)`; any scores that order the classes will do.
        labels: `(N,)`, integers in 0..C-1.
        k: 1 or more; with k > C every photo counts as right.
    """
    if k == 1:  # as everywhere else, the first of equals
        return float((probabilities.argmax(axis=1) == labels).mean())
    k = min(k, probabilities.shape[1])
    top = np.argpartition(-probabilities, k - 1, axis=1)[:, :k]
    return float((top == labels[:, None]).any(axis=1).mean())


def macro_precision_recall_f1(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 of the most probable class, each averaged over the classes that occur in the labels.

    Classes of the model that the labelled set does not hold are left out of the means (10 breeds scored by a model of
    120), though a photo taken for one of them still counts as missed. A class that is never predicted has precision 0.
    """
    from sklearn.metrics import precision_recall_fscore_support  # takes a second to import, which predict must not pay

    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0
    )
    return float(precision), float(recall), float(f1)


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln P(label), natural logarithm; P is kept away from 0 by 1e-15, as Kaggle's scorer does."""
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(1e-15)).mean())


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance of the probabilities from the truth, 0 (sure and right) to 2 (sure and wrong).

    The form for several classes of Brier 1950 (https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2).
    """
    of_the_label = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities**2).sum(axis=1) - 2 * of_the_label + 1).mean())


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> float:
    """The gap between confidence and accuracy, 0..1 (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    The mean of |accuracy - mean confidence| over `reliability`'s bins, weighted by their number of photos.
    """
    bins = reliability(probabilities, labels, num_bins)
    filled = bins["n"] > 0
    gaps = np.abs(bins["accuracy"] - bins["confidence"])[filled]
    return float((gaps * bins["n"][filled]).sum() / len(labels))


def reliability(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> dict[str, np.ndarray]:
    """Accuracy against confidence, in bins of equal width by the probability of the most probable class.

    Returns:
        For each bin, `(num_bins,)`: `n` photos, their mean `confidence` and their `accuracy`, NaN where n is 0.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = confidence_bins(confidence, num_bins)
    n = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return {
            "n": n,
            "confidence": np.bincount(bins, weights=confidence, minlength=num_bins) / n,
            "accuracy": np.bincount(bins, weights=right, minlength=num_bins) / n,
        }


def confidence_bins(confidence: np.ndarray, num_bins: int = 15) -> np.ndarray:
    """The bin of each answer, `(N,)` from 0 on: bins of equal width by the probability of the most probable class."""
    return np.minimum((confidence * num_bins).astype(int), num_bins - 1)


def wilson_interval(num_right: int, num: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953).

    Args:
        num_right: How many of them.
        num: Of how many, at least 1.
    """
    z = 1.959964  # the 97.5 % quantile of the normal distribution
    share = num_right / num
    centre = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * np.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    # The share is always within the ends, though their rounding may put it beyond one by 1e-16.
    return float(max(0.0, min(share, centre - half))), float(min(1.0, max(share, centre + half)))


def share_with_interval(share: float, num: int) -> str:
    """A share of this many, and its `wilson_interval`, in per cent: 81.2% (79.5-82.8)."""
    low, high = wilson_interval(round(share * num), num)
    return f"{share:.1%} ({100 * low:.1f}-{100 * high:.1f})"


def confusion_counts(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(C, C)` integers: of the photos labelled i, how many have j as their most probable class."""
    num_classes = probabilities.shape[1]
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    return counts


def confusion_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(C, C)`: M[i, j], the mean P(j) over the photos labelled i; a row of NaN where there are none."""
    num_classes = probabilities.shape[1]
    sums = np.zeros((num_classes, num_classes))
    np.add.at(sums, labels, probabilities)
    with np.errstate(invalid="ignore"):
        return sums / np.bincount(labels, minlength=num_classes)[:, None]


def breed_figures(
    probabilities: np.ndarray, labels: np.ndarray, names: tuple[str, ...], num_mistaken: int = 3
) -> list[BreedFigures]:
    """The figures of each breed that occurs in the labels, in the order of the classes.

    Args:
        probabilities: `(N, C)`, calibrated.
        labels: `(N,)`, integers in 0..C-1.
        names: The C breeds.
        num_mistaken: How many of the breeds that a breed's photos are mistaken for to name.
    """
    counts = confusion_counts(probabilities, labels)
    means = confusion_probabilities(probabilities, labels)
    predicted = counts.sum(axis=0)
    figures = []
    for label in np.unique(labels):
        others = [other for other in range(len(names)) if other != label]
        others.sort(key=lambda other: (-counts[label, other], -means[label, other]))
        figures.append(
            BreedFigures(
                breed=names[label],
                n=int(counts[label].sum()),
                recall=float(counts[label, label] / counts[label].sum()),
                precision=float(counts[label, label] / predicted[label]) if predicted[label] else None,
                mean_probability=float(means[label, label]),
                mistaken_for=tuple(
                    Mistaken(names[other], int(counts[label, other]), float(means[label, other]))
                    for other in others[:num_mistaken]
                ),
            )
        )
    return figures


def most_confused(breeds: Sequence[BreedFigures], num_breeds: int) -> list[BreedFigures]:
    """The breeds with the lowest recall, and of equals those with the lowest mean probability; the lowest first."""
    return sorted(breeds, key=lambda breed: (breed.recall, breed.mean_probability))[:num_breeds]
