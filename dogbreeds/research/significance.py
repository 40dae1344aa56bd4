"""Whether a difference between two models is more than chance, with the tests of SciPy."""

from collections.abc import Sequence

import numpy as np

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> float:
    """The p-value of McNemar's exact test: could two models that are equally often right differ like this?

    Only the photos on which exactly one of them is right count; if both were equally good, either would be that one
    with probability 1/2 (McNemar 1947, https://doi.org/10.1007/BF02295996; for classifiers, Dietterich 1998,
    https://doi.org/10.1162/089976698300017197).

    Args:
        first_right: `(N,)` bool, whether the first model is right on each photo.
        second_right: The same of the second model on the same photos.
    """
    from scipy.stats import binomtest

    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def bootstrap_interval(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, by drawing the photos again 10,000 times.

    The percentile bootstrap (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13). Each photo keeps
    its pair of values, so what makes a photo hard for both models cancels. The draws have a fixed seed.

    Args:
        differences: `(N,)`, the first model's value minus the second's, for each photo.
    """
    from scipy.stats import bootstrap

    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    found = bootstrap(
        (differences,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=500,  # of 8,580 photos: 34 MB at a time
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def wilson_interval(num_right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    from scipy.stats import binomtest

    interval = binomtest(num_right, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple tests (Holm 1979, https://www.jstor.org/stable/4615733)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
