"""Photos whose label is probably wrong: a classifier that has not seen them is sure that they are of another breed.

Confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068), on the cross-validated probabilities of a
linear classifier on the features of a frozen backbone.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dogbreeds.training.labelled_features import LabelledFeatures

NUM_FOLDS = 5
INVERSE_PENALTY = 3.0
"""`C` of the logistic regression, on features of variance 1, times the number of photos."""


def find_suspects(photos: LabelledFeatures, clear: Sequence[bool] | None = None) -> list[tuple[int, str]]:
    """The index of each photo whose label is probably wrong, and the class that is probably right, the surest first.

    A class is learned from other photos than the one that is looked at: where all photos of a class are one group,
    none of them is suspected, nor to be of it.

    Args:
        photos: Those to look at.
        clear: `(N,)`: of which of them a label can be right or wrong at all; others are left out. By default of all.
    """
    among = np.ones(len(photos.labels), dtype=bool) if clear is None else np.array(clear, dtype=bool)
    num_groups = np.bincount(
        np.unique(np.stack([photos.labels, photos.groups])[:, among], axis=1)[0], minlength=len(photos.names)
    )
    learned = np.flatnonzero(among & (num_groups[photos.labels] > 1))
    if len(np.unique(photos.labels[learned])) < 2:
        return []
    labels = photos.labels[learned]
    found = suspects(cross_validated(photos.features[learned], labels, photos.groups[learned]), labels)
    return [(int(learned[index]), photos.names[likely]) for index, likely in zip(*found, strict=True)]


def cross_validated(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The probability of each class for each photo, from a classifier that was fitted on other photos.

    Args:
        features: `(N, D)`.
        labels: `(N,)`, integers in 0..C-1, of which some may be wrong.
        groups: `(N,)`; photos of a group, such as near duplicates, are never on both sides.

    Returns:
        `(N, C)`.
    """
    probabilities = np.zeros((len(labels), labels.max() + 1))
    num_folds = min(NUM_FOLDS, np.bincount(labels).max(), len(np.unique(groups)))
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=0)
    for fitted, others in folds.split(features, labels, groups):
        if np.ptp(labels[fitted]) == 0:  # of few photos: there is nothing to tell apart
            continue
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY / len(fitted), max_iter=300))
        classifier.fit(features[fitted], labels[fitted])
        probabilities[np.ix_(others, classifier[-1].classes_)] = classifier.predict_proba(features[others])
    return probabilities


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photos whose label is probably wrong, and what is probably right.

    How many: a class counts for a photo where its probability is at least what it is in the mean for the photos with
    that label, so that a class that is always unsure is not suspected more than others. As many photos are suspected as
    there are for which another class counts most.

    Which: those for which the odds of another class against their own are the highest. Of 600 wrong labels among
    12,000, the photos that were counted hold 64 %, these 98 % (tests/benchmarks/wrong_labels.py).

    Args:
        probabilities: `(N, C)`, from `cross_validated`.
        labels: `(N,)`.

    Returns:
        Indices of photos, the surest first, and for each the class that is probably right.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    usual = np.bincount(labels, weights=own, minlength=probabilities.shape[1]) / counts.clip(1)
    counting = np.where((probabilities >= usual) & (counts > 0), probabilities, 0.0)
    num_suspects = np.count_nonzero((counting.max(axis=1) > 0) & (counting.argmax(axis=1) != labels))
    others = probabilities.copy()
    others[rows, labels] = 0
    order = np.argsort(own / others.max(axis=1).clip(1e-30), kind="stable")[:num_suspects]
    return order, others.argmax(axis=1)[order]
