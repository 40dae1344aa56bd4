"""From a network's outputs to calibrated probabilities and a verdict.

Three questions have an answer of their own, since one number does not answer all of them: Is there a dog? Is it of a
breed that the model knows? Which breed? `dogbreeds/docs/results.md` compares the scores that were tried for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dogbreeds.dog_probe import DogProbe
from dogbreeds.json_types import Count, Finite, Probability, Text

Verdict = Literal["confident", "unsure", "unknown_breed", "not_a_dog"]

NAMING: tuple[Verdict, ...] = ("confident", "unsure")
"""Verdicts with a breed that may be the right one."""

DOG_PASS_RATE = 0.98
"""The share of dogs that are called dogs by `dog_score` alone ..."""
SCORE_PASS_RATE, PROBE_PASS_RATE = 0.998, 0.995
"""... and by each of the two scores where there is a dog probe, which tells far better what it was fitted on."""
KNOWN_PASS_RATE = 0.95
"""The share of dogs of known breeds that are not called a dog of an unknown breed."""
CONFIDENT_ACCURACY = 0.95
"""The share of right answers among those called confident."""
UNKNOWN_CONFIDENT_RATE = 0.17
"""The largest share of dogs of unknown breeds that get a breed confidently."""
CANDIDATES_COVERAGE = 0.93
"""The share of unsure answers whose candidates hold the breed."""
MAX_CANDIDATES = 5
"""The most candidates that are named."""
MIN_LABELLED = 100
"""The fewest labelled photos that thresholds are fitted on ..."""
MIN_OTHERS = 50
"""... and the fewest photos without a dog, or of dogs of unknown breeds."""
MIN_UNSURE = 20
"""With fewer unsure answers, the number of candidates is not fitted."""
NUM_FOLDS = 5
"""Of the cross-validation of the dog probe's scores."""


Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]
"""What logits are divided by before the softmax (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""


@dataclass(frozen=True)
class Outputs:
    """What a network gives for N photos."""

    logits: np.ndarray
    """`(N, C)`."""
    features: np.ndarray | None = None
    """`(N, D)`, the input of the classifier; None for networks that give logits alone."""

    def __len__(self) -> int:
        return len(self.logits)

    @classmethod
    def concatenate(cls, parts: Sequence["Outputs"]) -> "Outputs":
        """All photos of several, in order; features if all have them."""
        features = [part.features for part in parts if part.features is not None]
        return cls(
            np.concatenate([part.logits for part in parts]),
            np.concatenate(features) if len(features) == len(parts) else None,
        )

    def rows(self) -> list["Outputs"]:
        """Those of each photo."""
        return [self.select(np.array([row])) for row in range(len(self))]

    def select(self, index: np.ndarray) -> "Outputs":
        """These photos, by a mask or by their positions."""
        return Outputs(self.logits[index], None if self.features is None else self.features[index])


@dataclass(frozen=True)
class Calibration:
    """The parameters that turn a network's outputs into answers. They are kept in `run.json`, beside the weights.

    Runs of older versions lack some: they never say `unknown_breed`, or not how many answers are right.
    """

    temperature: Temperature
    not_a_dog_threshold: Finite
    """A photo whose `dog_score` is below this is called not a dog."""
    confident_threshold: Probability
    """An answer whose calibrated probability is at least this is called confident ..."""
    confident_score: Finite | None = None
    """... if its `dog_score` is at least this too."""
    unknown_breed_threshold: Finite | None = None
    """A dog whose `dog_score` is below this is called a dog of an unknown breed."""
    dog_probe: str | None = None
    """`DogProbe.to_text`; None where no photos without a dog were given."""
    dog_probe_threshold: Finite = 0.0
    """A photo whose score by the probe is below this is called not a dog."""
    candidates_probability: Probability = 0.9
    """Where the breed is not sure, as many candidates are named as have this probability in sum."""
    sure_margin: Finite | None = None
    """Of several looks at a photo (`dogbreeds.looks`), one after which the largest logit leads by this is the last;
    None for one look at each photo."""
    seen_score: Finite | None = None
    """Of several looks, a third one is taken only where the first two have a `dog_score` below this."""
    right_threshold: Probability | None = None
    """Of the answers whose verdict is one of `NAMING`, about as many are right as have at least this probability."""
    fitted_on: dict[Text, Count] = field(default_factory=dict)
    """Which photos all this was fitted on, and how many."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities `(N, C)`, rows summing to 1, of logits `(N, C)`."""
        return softmax(logits / self.temperature)

    def apply(self, outputs: Outputs, listed: np.ndarray | None = None) -> tuple[np.ndarray, list[Verdict]]:
        """The `probabilities` and the verdict on each photo, with one softmax for both.

        Args:
            outputs: Of N photos.
            listed: `(C,)` bool, the breeds that come into question: the others get a probability of 0. Whether there is
                a dog is told as without a list. It is of an unknown breed too if the listed ones together are less
                probable than what a confident answer leaves to all others. None for all.
        """
        probabilities = self.probabilities(outputs.logits)
        score = dog_score(outputs.logits)
        is_dog = score >= self.not_a_dog_threshold
        if self.dog_probe is not None and outputs.features is not None:
            is_dog &= DogProbe.from_text(self.dog_probe)(outputs.features) >= self.dog_probe_threshold
        is_known = score >= (-np.inf if self.unknown_breed_threshold is None else self.unknown_breed_threshold)
        if listed is not None:
            is_known &= probabilities[:, listed].sum(axis=1) >= 1 - self.confident_threshold
            probabilities = self.probabilities(np.where(listed, outputs.logits, -np.inf))
        is_sure = score >= (-np.inf if self.confident_score is None else self.confident_score)
        is_sure &= probabilities.max(axis=1) >= self.confident_threshold
        verdicts = np.select([~is_dog, ~is_known, is_sure], ["not_a_dog", "unknown_breed", "confident"], "unsure")
        return probabilities, verdicts.tolist()

    @classmethod
    def fit(
        cls,
        dogs: Outputs,
        labels: np.ndarray,
        *,
        other_photos: Outputs | None = None,
        other_dogs: Outputs | None = None,
        fitted_on: dict[str, int] | None = None,
    ) -> "Calibration":
        """Fit temperature, thresholds and dog probe.

        Args:
            dogs: Of photos that the model was not trained on.
            labels: `(N,)`, their breeds, integers in 0..C-1.
            other_photos: Of photos without a dog. Without them there is no dog probe.
            other_dogs: Of dogs of breeds that the model does not know. Without them no answer is `unknown_breed`.
            fitted_on: See the attribute.
        """
        temperature = _fit_temperature(dogs.logits, labels)
        probabilities = softmax(dogs.logits / temperature)
        score, right = dog_score(dogs.logits), dogs.logits.argmax(axis=1) == labels
        any_dogs = dogs if other_dogs is None else Outputs.concatenate([dogs, other_dogs])
        other_score = None if other_dogs is None else dog_score(other_dogs.logits)
        probe = _fit_probe(any_dogs, other_photos)
        pass_rate = SCORE_PASS_RATE if probe else DOG_PASS_RATE
        # Of each kind of dogs as many pass; the labelled ones are usually more, and nearer to what the model knows.
        not_a_dog = min(float(np.quantile(kind, 1 - pass_rate)) for kind in (score, other_score) if kind is not None)
        unknown_breed = confident_score = None
        confident = lowest_threshold(probabilities.max(axis=1), right, CONFIDENT_ACCURACY)
        if other_dogs is not None and other_score is not None:
            unknown_breed = float(np.quantile(score, 1 - KNOWN_PASS_RATE))
            confident, confident_score = _fit_confident(
                probabilities.max(axis=1),
                score,
                right,
                softmax(other_dogs.logits / temperature).max(axis=1),
                other_score,
            )
        calibration = cls(
            temperature=temperature,
            not_a_dog_threshold=not_a_dog,
            confident_threshold=confident,
            confident_score=confident_score,
            unknown_breed_threshold=unknown_breed,
            fitted_on=fitted_on or {},
            **probe,
        )
        verdicts = np.array(calibration.apply(dogs)[1])
        unsure, named = verdicts == "unsure", np.isin(verdicts, NAMING)
        threshold = _fit_right_threshold(probabilities.max(axis=1)[named], right[named])
        calibration = replace(calibration, right_threshold=threshold)
        return calibration.with_candidates(probabilities[unsure], labels[unsure])

    def with_candidates(self, probabilities: np.ndarray, labels: np.ndarray) -> "Calibration":
        """The same, naming as many candidates as `CANDIDATES_COVERAGE` asks for, if `MAX_CANDIDATES` allow it.

        This is conformal prediction by adaptive sets without randomisation (Romano et al. 2020,
        https://arxiv.org/abs/2006.02544): the level is the quantile, over photos, of the probability that the most
        probable breeds down to the right one have in sum.

        Args:
            probabilities: `(N, C)`, calibrated, of photos whose answer is unsure.
            labels: `(N,)`, their breeds.
        """
        if len(labels) < MIN_UNSURE:
            return self
        order = np.argsort(-probabilities, axis=1, kind="stable")
        held = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1)
        level = held[order == labels[:, None]]
        wanted = min(1.0, CANDIDATES_COVERAGE * (1 + 1 / len(labels)))  # the correction for few photos
        return replace(self, candidates_probability=float(np.quantile(level, wanted, method="higher")))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64: float32 rows of 120 do not sum to 1 closely enough for log-loss."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def dog_score(logits: np.ndarray) -> np.ndarray:
    """How far the largest logit stands out, `(N,)` for logits `(N, C)`: low for photos of something else.

    It is the maximum-logit score of Hendrycks et al. 2022 (https://arxiv.org/abs/1911.11132) less the mean of the
    logits. Cross-entropy ignores a constant added to all logits of a photo, so training leaves it to chance. Other
    scores find more cats (tests/benchmarks/dog_scores.py), and the dog probe more than all of them.
    """
    return logits.max(axis=1) - logits.mean(axis=1)


def _fit_probe(dogs: Outputs, other_photos: Outputs | None) -> dict[str, Any]:
    """The dog probe and its threshold, as fields of `Calibration`; empty where there is nothing to fit it on.

    The threshold is set by cross-validation: a probe has as many weights as there are features, so it tells the photos
    that it was fitted on apart better than others.
    """
    if other_photos is None or dogs.features is None or other_photos.features is None:
        return {}
    features = np.concatenate([dogs.features, other_photos.features])
    is_dog = np.arange(len(features)) < len(dogs)
    fold = np.random.default_rng(0).permutation(len(features)) % NUM_FOLDS
    scores = np.empty(len(features))
    for number in range(NUM_FOLDS):
        inside = fold != number
        scores[~inside] = DogProbe.fit(features[inside], is_dog[inside])(features[~inside])
    threshold = float(np.quantile(scores[is_dog], 1 - PROBE_PASS_RATE))
    return {"dog_probe": DogProbe.fit(features, is_dog).to_text(), "dog_probe_threshold": threshold}


def _fit_confident(
    confidence: np.ndarray, score: np.ndarray, right: np.ndarray, other_confidence: np.ndarray, other_score: np.ndarray
) -> tuple[float, float]:
    """The thresholds of probability and `dog_score` with the most confident answers that keep both promises.

    These are `CONFIDENT_ACCURACY` on dogs of known breeds and `UNKNOWN_CONFIDENT_RATE` on others.

    Args:
        confidence: `(N,)`, the probability of each answer to a dog of a known breed.
        score: `(N,)`, its `dog_score`.
        right: `(N,)`, whether it is right.
        other_confidence: `(M,)`, the same of dogs of unknown breeds.
        other_score: `(M,)`.
    """
    best, best_share = (1.0 + 1e-9, float(score.min())), -1.0
    for least in np.quantile(score, np.arange(0, 0.6, 0.02)):
        known, other = score >= least, np.where(other_score >= least, other_confidence, 0.0)
        threshold = max(
            lowest_threshold(confidence[known], right[known], CONFIDENT_ACCURACY),
            float(np.quantile(other, 1 - UNKNOWN_CONFIDENT_RATE, method="higher")) + 1e-9,
        )
        share = float((confidence[known] >= threshold).sum()) / len(score)
        if share > best_share:
            best, best_share = (threshold, float(least)), share
    return best


def _fit_right_threshold(confidence: np.ndarray, right: np.ndarray) -> float | None:
    """The threshold that as many answers reach as are right; None of no answers.

    On other photos, the share that reaches it estimates the share that is right: average thresholded confidence (Garg
    et al. 2022, https://arxiv.org/abs/2201.04234).

    Args:
        confidence: `(N,)`, the probability of each answer.
        right: `(N,)`, whether it is right.
    """
    if not len(right):
        return None
    return float(np.append(1.0 + 1e-9, -np.sort(-confidence))[right.sum()])


def _fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least cross-entropy on these labels, between 1/20 and 20.

    The targets are smoothed by 1 / (n + 2), as Platt 1999 does ("Probabilistic Outputs for Support Vector Machines"):
    without it, a validation set with no wrong answer would ask for certainty.
    """

    def cross_entropy(log_temperature: float) -> float:
        log_probabilities = np.log(softmax(logits / np.exp(log_temperature)) + 1e-300)
        right = log_probabilities[np.arange(len(labels)), labels].mean()
        return -float((1 - smoothing) * right + smoothing * log_probabilities.mean())

    smoothing = 1 / (len(labels) + 2)
    low, high = -np.log(20), np.log(20)
    golden = (np.sqrt(5) - 1) / 2  # golden-section search: the cross-entropy has one minimum
    left, right = high - golden * (high - low), low + golden * (high - low)
    loss_left, loss_right = cross_entropy(left), cross_entropy(right)
    while high - low > 1e-5:
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - golden * (high - low)
            loss_left = cross_entropy(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + golden * (high - low)
            loss_right = cross_entropy(right)
    return float(np.exp((low + high) / 2))


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
    if not len(good):
        return 1.0 + 1e-9
    return float(confidence[order[good[-1]]]) - 1e-6  # so that it is not a rounding that decides about that answer
