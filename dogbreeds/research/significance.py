"""Whether a difference between two models is more than chance, with the tests of SciPy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dogbreeds import metrics

NUM_RESAMPLES = 10_000
BATCH = 500
"""Resamples computed at a time."""
NUM_DRAWS = 1_000
"""Of figures that take longer to compute than a mean."""
SIGNIFICANCE_LEVEL = 0.05
"""A difference with a p-value below this is called significant."""
CONFIDENCE = 0.95
ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
"""The quantiles between which an interval lies."""


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
        batch=BATCH,  # of 8,580 photos: 34 MB at a time
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def interval_of_right(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences in being right, which are from -1 to 1.

    It is `bootstrap_interval`'s. Where all photos have the same difference, as of two runs that agree on each, photos
    drawn again say nothing; then it is that of a share of which no photo was seen, to both sides (`wilson_interval`).

    Args:
        differences: `(N,)`, of the same photos.
    """
    if np.ptp(differences):
        return bootstrap_interval(differences)
    aside = metrics.wilson_interval(0, len(differences))[1]
    return float(max(-1.0, differences[0] - aside)), float(min(1.0, differences[0] + aside))


def are_alike(right: np.ndarray) -> bool:
    """Whether all answers are right, or all wrong, so that photos drawn again say nothing of others."""
    return bool(right.all() or not right.any())


def interval_of_alike(value: float, interval: tuple[float, float], num_photos: int) -> tuple[float, float]:
    """The 95 % interval of a figure from 0 to 1 of photos that are alike (`are_alike`), of which draws say nothing.

    It reaches at least as far to both sides as that of a share of which no photo was seen (`wilson_interval`).

    Args:
        value: The figure.
        interval: From draws.
        num_photos: How many there are.
    """
    aside = metrics.wilson_interval(0, num_photos)[1]
    return max(0.0, min(interval[0], value - aside)), min(1.0, max(interval[1], value + aside))


def sign_flip(differences: np.ndarray) -> float:
    """The p-value of paired differences: could their mean be this far from 0 if either sign were as likely for each?

    The permutation test of paired samples (Fisher 1935, "The Design of Experiments", section 21), with 9,999 draws of
    the signs from a fixed seed. Where no draw is as far from 0, the normal distribution of their means tells, for the
    reason that `p_value_of_draws` gives.

    Args:
        differences: `(N,)`, of the same photos.
    """
    from scipy.stats import norm, permutation_test

    if len(differences) < 2 or not differences.any():
        return 1.0
    found = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_RESAMPLES - 1,
        batch=BATCH,
        rng=np.random.default_rng(0),
    )
    if found.pvalue > 2 / NUM_RESAMPLES:
        return float(found.pvalue)
    return float(2 * norm.sf(abs(differences.sum()) / np.sqrt((differences**2).sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple tests (Holm 1979, https://www.jstor.org/stable/4615733)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


class CrossedDraws:
    """Figures of several seeds on the same photos, with both drawn again 10,000 times.

    Seeds and photos are drawn with replacement, each independently of the other: the pigeonhole bootstrap (Owen 2007,
    https://doi.org/10.1214/07-AOAS122), for tables whose rows and columns are both a sample. Of one seed the photos
    alone are drawn. The draws are always the same ones.
    """

    def __init__(self, num_seeds: int, num_photos: int) -> None:
        """Draw; how often each seed and each photo is in each draw is kept."""
        rng = np.random.default_rng(0)
        self._seeds = _multiplicities(rng, num_seeds)
        # Whole numbers, of which sums are exact: a share would be rounded, and no draw of a difference be exactly 0.
        self._photos = _multiplicities(rng, num_photos)

    def of_mean(self, values: np.ndarray) -> np.ndarray:
        """The mean of values `(seeds, photos)` in each draw."""
        return self._over_seeds(self._photos @ values.T.astype(np.float32))

    def of_calibration_error(self, confidence: np.ndarray, right: np.ndarray, num_bins: int = 15) -> np.ndarray:
        """The calibration error in each draw, the mean over the seeds.

        Args:
            confidence: `(seeds, photos)`.
            right: `(seeds, photos)`, bool.
            num_bins: As of `dogbreeds.metrics.expected_calibration_error`.
        """
        errors = []
        for mine, is_right in zip(confidence, right, strict=True):
            errors.append(np.abs(self._photos @ _gaps(mine[None], is_right[None], num_bins)).sum(axis=1))
        return self._over_seeds(np.stack(errors, axis=1))

    def _over_seeds(self, sums: np.ndarray) -> np.ndarray:
        """The mean in each draw, from the sums `(draws, seeds)` over the photos."""
        total = (sums.astype(np.float64) * self._seeds).sum(axis=1)
        return total / (self._seeds.shape[1] * self._photos.shape[1])


def _gaps(confidence: np.ndarray, right: np.ndarray, num_bins: int = 15) -> np.ndarray:
    """What each photo's answers add to each bin's right answers less confidence, `(photos, num_bins)` float32.

    Args:
        confidence: `(answers, photos)`.
        right: `(answers, photos)`, bool.
        num_bins: As of `dogbreeds.metrics.expected_calibration_error`.
    """
    gaps = np.zeros((confidence.shape[1], num_bins), dtype=np.float32)
    photos = np.broadcast_to(np.arange(len(gaps)), confidence.shape)
    np.add.at(gaps, (photos, metrics.confidence_bins(confidence, num_bins)), right - confidence)
    return gaps


def _multiplicities(rng: np.random.Generator, num: int, num_draws: int = NUM_RESAMPLES) -> np.ndarray:
    """How often each of `num` things is in each draw, `(num_draws, num)` float32."""
    found = np.empty((num_draws, num), dtype=np.float32)
    for start in range(0, num_draws, BATCH):  # of 8,580 photos: 70 MB at a time
        drawn = rng.integers(0, num, (BATCH, num)) + num * np.arange(BATCH)[:, None]
        found[start : start + BATCH] = np.bincount(drawn.ravel(), minlength=BATCH * num).reshape(BATCH, num)
    return found


def percentile_interval(draws: np.ndarray, around: float | None = None) -> tuple[float, float]:
    """The 95 % interval of a figure, from its values in draws.

    Args:
        draws: `(draws,)`.
        around: The figure itself, where the draws lie higher or lower than it: their spread is laid around it.
    """
    low, high = np.quantile(draws, ENDS) + (0 if around is None else around - draws.mean())
    return float(low), float(high)


class PhotoDraws:
    """Figures of several answers to each of some photos, with the photos drawn again 1,000 times, always the same ones.

    A photo is drawn with all of its answers: those to one photo, such as it is and made worse, are no other photos.
    """

    def __init__(self, num_photos: int) -> None:
        """Draw; how often each photo is in each draw is kept."""
        self._photos = _multiplicities(np.random.default_rng(0), num_photos, NUM_DRAWS)

    def of_share(self, part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
        """The 95 % interval of how many of some answers have something, as of the confident ones those that are right.

        Where none or all of them have it, no draw differs: then it is Wilson's, of the photos with such an answer.

        Args:
            part: `(answers, photos)`, bool: those that have it.
            whole: `(answers, photos)`, bool, with those of `part` and at least one.
        """
        parts, wholes = part.sum(axis=0), whole.sum(axis=0)
        if len(part) == 1 or parts.sum() in (0, wholes.sum()):
            return metrics.wilson_interval(int((parts > 0).sum()), int((wholes > 0).sum()))
        num = self._photos @ wholes
        return percentile_interval((self._photos @ parts)[num > 0] / num[num > 0])

    def of_calibration_error(self, confidence: np.ndarray, right: np.ndarray) -> tuple[float, float]:
        """The 95 % interval of the calibration error of all answers together, laid around it as by `figure_intervals`.

        Args:
            confidence: `(answers, photos)`.
            right: `(answers, photos)`, bool.
        """
        gaps = _gaps(confidence, right)
        errors = np.abs(self._photos @ gaps).sum(axis=1) / confidence.size
        error = float(np.abs(gaps.sum(axis=0)).sum() / confidence.size)
        low, high = percentile_interval(errors, around=error)
        if are_alike(right):
            return interval_of_alike(error, (low, high), right.shape[1])
        return max(0.0, low), min(1.0, high)

    def of_kappa(self, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
        """The 95 % interval of Cohen's kappa of two models' answers.

        Where they agree on all photos, no draw differs: then it is that of as many photos of which none was seen to
        differ (`dogbreeds.metrics.wilson_interval`).

        Args:
            first: `(photos,)`, the classes that the first model predicts, from 0 on.
            second: The same of the second.
        """
        num, classes = len(first), np.arange(max(first.max(), second.max()) + 1)
        given = [(answers[:, None] == classes).astype(np.float32) for answers in (first, second)]
        same = first == second
        if same.all():
            by_chance = float((given[0].mean(axis=0) ** 2).sum())
            low = metrics.wilson_interval(num, num)[0]
            return (max(-1.0, (low - by_chance) / (1 - by_chance)) if by_chance < 1 else -1.0), 1.0
        one, other = (self._photos @ each / num for each in given)
        by_chance = (one * other).sum(axis=1)
        kappas = (self._photos @ same / num - by_chance) / np.maximum(1 - by_chance, np.finfo(np.float32).eps)
        return percentile_interval(np.where(by_chance < 1, kappas, 1.0))


def p_value_of_draws(draws: np.ndarray) -> float:
    """The p-value of "there is no difference": twice the share of the draws of a difference beyond 0.

    Where no draw is, the normal distribution says how far away 0 is. The draws can't show a p-value below 1 of 5,000,
    which a correction for hundreds of comparisons would turn into "may be chance", whatever the difference.
    """
    from scipy.stats import norm

    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    if not beyond and (spread := draws.std()):
        return float(2 * norm.sf(abs(draws.mean()) / spread))
    return float(min(1.0, 2 * (beyond + 1) / (len(draws) + 1)))


def interval_over_seeds(of_seeds: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a figure over seeds and photos.

    Of several seeds it is Student's. Draws of n seeds show (n - 1) / n of what other seeds would change, so the rest is
    added to their variance; and that part is known from n seeds alone, the part of the photos almost exactly, which
    gives the degrees of freedom of the sum (Satterthwaite 1946, https://doi.org/10.2307/3002019). Of one seed it is of
    the draws alone.

    Args:
        of_seeds: `(seeds,)`, the figure of each; it is their mean.
        draws: `(draws,)`, the figure in each of `CrossedDraws`.
    """
    num, mean = len(of_seeds), float(np.mean(of_seeds))
    if num == 1:
        return percentile_interval(draws)
    own = float(np.var(of_seeds, ddof=1)) / num
    return _students(mean, own, float(draws.var()) + own / num - own, num - 1)[0]


@dataclass(frozen=True)
class SeedVariance:
    """How much the seeds change the difference of two recipes, from all pairs of some recipes together.

    Of three seeds alone it is hardly known: where they happen to be alike, a difference looks certain that is none, and
    of many pairs that is one of them. With the 28 pairs of eight equal recipes, whose seeds differ twice as much as
    photos do, Holm's correction then calls a difference real in 31 % of the studies, with this in 2 %.
    """

    variance: float
    """Between the seeds' differences, the mean over the pairs."""
    freedom: float
    """Degrees of freedom: (recipes - 1) (seeds - 1) where all recipes have all seeds."""

    @classmethod
    def of(cls, differences: Sequence[np.ndarray], num_recipes: int) -> "SeedVariance":
        """Pool it.

        Args:
            differences: Of each pair `(seeds, photos)`, of as many seeds as both recipes have.
            num_recipes: Of which these are the pairs.
        """
        several = [each.mean(axis=1) for each in differences if len(each) > 1]
        counts = [len(each) - 1 for each in several]
        if not several:
            return cls(0.0, 0.0)
        variance = np.average([np.var(each, ddof=1) for each in several], weights=counts)
        return cls(float(variance), 2 * sum(counts) / num_recipes)


def interval_and_p_value(differences: np.ndarray, seeds: SeedVariance) -> tuple[tuple[float, float], float]:
    """The 95 % interval of a mean difference over seeds and photos, and the p-value of "it is 0"; they agree.

    The variances of seeds and of photos are those of a table whose rows and columns are both a sample (two-way random
    effects, by moments: Searle, Casella & McCulloch 1992, "Variance Components", chapter 4). That of the seeds is the
    larger one of the pair's own and of all pairs'. Both are Student's, with the degrees of freedom of the sum
    (Satterthwaite 1946, https://doi.org/10.2307/3002019). Of one seed they are of the photos alone, drawn again.

    Args:
        differences: `(seeds, photos)`, the first recipe's values less the second's.
        seeds: Of all pairs that are compared.
    """
    num, num_photos = differences.shape
    if num == 1:
        draws = _draws_of_photos(num_photos).of_mean(differences)
        # To whole draws, as the p-value counts them
        low, high = np.quantile(draws, ENDS[0], method="lower"), np.quantile(draws, ENDS[1], method="higher")
        return (float(low), float(high)), p_value_of_draws(draws)
    of_seeds, of_photos, mean = differences.mean(axis=1), differences.mean(axis=0), float(differences.mean())
    rest = differences - of_seeds[:, None] - of_photos + mean
    mean_square = float((rest**2).sum()) / ((num - 1) * (num_photos - 1)) if num_photos > 1 else 0.0
    photos = float(np.var(of_photos, ddof=1)) - mean_square / num if num_photos > 1 else 0.0
    own = max(float(np.var(of_seeds, ddof=1)), seeds.variance) / num
    return _students(mean, own, max(photos, 0.0) / num_photos, seeds.freedom)


@lru_cache(maxsize=1)  # of 2,000 photos: 80 MB, for all pairs
def _draws_of_photos(num_photos: int) -> CrossedDraws:
    return CrossedDraws(1, num_photos)


def _students(mean: float, seeds: float, photos: float, freedom: float) -> tuple[tuple[float, float], float]:
    """Student's interval and p-value of a mean, of the two parts of its variance; that of the seeds has the freedom."""
    from scipy.stats import t

    variance = seeds + photos
    if variance == 0:
        return (mean, mean), float(mean == 0)  # of one photo, or of photos and seeds that are all alike
    freedom = freedom * (variance / seeds) ** 2 if seeds else np.inf
    spread = np.sqrt(variance)
    half = float(t.ppf(ENDS[1], freedom) * spread)
    return (mean - half, mean + half), float(2 * t.sf(abs(mean) / spread, freedom))


def figure_intervals(
    probabilities: np.ndarray, labels: np.ndarray, uncalibrated: np.ndarray
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of every figure of `dogbreeds.metrics.summary` that is no share of the photos.

    The photos are drawn again 1,000 times, with a fixed seed, and the spread of a figure over the draws is laid around
    the figure itself (the bootstrap, as in `bootstrap_interval`): a drawn set holds photos twice, which makes its
    calibration error larger and its macro figures smaller than those of a set of new photos.

    Args:
        probabilities: `(N, C)`, calibrated.
        labels: `(N,)`, integers in 0..C-1.
        uncalibrated: `(N, C)`.
    """
    photos = _Photos.of(probabilities, labels, uncalibrated)
    rng, num = np.random.default_rng(0), len(labels)
    draws = [photos.figures(rng.integers(0, num, num)) for _ in range(NUM_DRAWS)]
    intervals = {}
    for name, value in photos.figures(np.arange(num)).items():
        drawn = np.array([figures[name] for figures in draws])
        low, high = percentile_interval(drawn, around=value)
        is_share = name.startswith(("macro", "ece"))
        if is_share and (are_alike(photos.right) or not np.ptp(drawn)):
            low, high = interval_of_alike(value, (low, high), num)
        intervals[name] = (max(0.0, low), min(1.0 if is_share else np.inf, high))
    return intervals


def calibration_error_by_chance(confidence: np.ndarray, num_bins: int = 15) -> tuple[float, float]:
    """The calibration error that answers with these probabilities show though all of them are what they say.

    It is above 0, for of few photos in a bin never exactly the expected share is right. Which are right is drawn by
    the probabilities 1,000 times (consistency resampling, Broecker & Smith 2007, https://doi.org/10.1175/WAF993.1).

    Args:
        confidence: Of the most probable class, `(photos,)`; or `(answers, photos)` of several answers to each photo.
            Then one draw decides for all of a photo, which is hard or easy: chance makes more of that than of answers
            that do not depend on each other.
        num_bins: As of `dogbreeds.metrics.expected_calibration_error`.

    Returns:
        The mean, and what 95 % of the draws do not exceed.
    """
    bins, rng = metrics.confidence_bins(confidence.ravel(), num_bins), np.random.default_rng(0)
    errors = [
        calibration_error(bins, ((rng.random(confidence.shape[-1]) < confidence) - confidence).ravel(), num_bins)
        for _ in range(NUM_DRAWS)
    ]
    return float(np.mean(errors)), float(np.quantile(errors, CONFIDENCE))


def calibration_error(bins: np.ndarray, gaps: np.ndarray, num_bins: int = 15) -> float:
    """`dogbreeds.metrics.expected_calibration_error`, from each photo's bin and its right (1 or 0) less confidence."""
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=num_bins)).sum() / len(bins))


@dataclass(frozen=True)
class _Photos:
    """Of each photo what the figures are made of, `(N,)` each."""

    labels: np.ndarray
    predicted: np.ndarray
    losses: dict[str, np.ndarray]
    """By figure, what it is the mean of."""
    calibration: dict[str, tuple[np.ndarray, np.ndarray]]
    """By figure the bins, and right (1 or 0) less confidence."""

    @property
    def right(self) -> np.ndarray:
        return self.labels == self.predicted

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray, uncalibrated: np.ndarray) -> "_Photos":
        rows = np.arange(len(labels))
        losses, calibration = {}, {}
        for suffix, given in (("", probabilities), ("_uncalibrated", uncalibrated)):
            of_the_label, confidence = given[rows, labels], given.max(axis=1)
            losses["log_loss" if not suffix else "cross_entropy"] = -np.log(of_the_label.clip(1e-15))
            losses[f"brier{suffix}"] = (given**2).sum(axis=1) - 2 * of_the_label + 1
            right = given.argmax(axis=1) == labels
            calibration[f"ece{suffix}"] = metrics.confidence_bins(confidence), right - confidence
        return cls(labels, probabilities.argmax(axis=1), losses, calibration)

    def figures(self, drawn: np.ndarray) -> dict[str, float]:
        """The figures of these photos, of which some may occur several times."""
        labels, predicted = self.labels[drawn], self.predicted[drawn]
        num_classes = int(max(self.labels.max(), self.predicted.max())) + 1
        num, given = (np.bincount(each, minlength=num_classes) for each in (labels, predicted))
        right = np.bincount(labels[labels == predicted], minlength=num_classes)
        present = num > 0
        return {
            "macro_precision": float((right / given.clip(1))[present].mean()),
            "macro_recall": float((right / num.clip(1))[present].mean()),
            "macro_f1": float((2 * right / (num + given).clip(1))[present].mean()),
            **{name: float(each[drawn].mean()) for name, each in self.losses.items()},
            **{name: calibration_error(bins[drawn], gaps[drawn]) for name, (bins, gaps) in self.calibration.items()},
        }
