"""One more breed from a few photos: its logit is a linear function of the logits that a run has already.

These say what a dog of an unknown breed resembles, and how much: enough to tell it, with far fewer numbers to fit than
there are features.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dogbreeds.logistic_regression import logistic_regression

PENALTY = 5.0
"""Of the squared weights, relative to the loss of one photo of another breed. With 3 or 10 the shares that are right
differ by 1 point."""
WEIGHT = 4.0
"""Of a photo of the new breed, relative to one of another. Chosen on photos of Stanford Dogs: with more, single breeds
lose more than one point."""
MAX_MARGIN_APART = -3.0
"""If neither of two groups of photos makes the other recognisable, by this much, they are of two breeds."""


@dataclass(frozen=True)
class NewLogit:
    """The logit of a breed from those of the breeds before."""

    weights: np.ndarray
    """`(C,)` float32."""
    bias: float

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Its value `(N,)` for logits `(N, C)`."""
        return logits @ self.weights + self.bias

    def margin(self, logits: np.ndarray) -> np.ndarray:
        """How far it is above the largest of the logits, `(N,)` for logits `(N, C)`."""
        return self(logits) - logits.max(axis=1)

    def appended(self, logits: np.ndarray) -> np.ndarray:
        """The logits `(N, C + 1)` of all breeds, the new one last."""
        return np.column_stack([logits, self(logits)])

    @classmethod
    def fit(cls, logits: np.ndarray, others: np.ndarray) -> "NewLogit":
        """Fit the probability of the new breed, with the softmax over all breeds, on photos of it and of the others.

        Args:
            logits: `(N, C)`, of photos of the new breed.
            others: `(M, C)`, of photos of the breeds before.
        """
        x = _centred(np.concatenate([logits, others]))
        scale = x[len(logits) :].std()
        is_new = np.arange(len(x)) < len(logits)
        largest = x.max(axis=1)
        log_sum_exp = largest + np.log(np.exp(x - largest[:, None]).sum(axis=1))
        coefficients, intercept = logistic_regression(
            x / scale, is_new, weight=np.where(is_new, WEIGHT, 1.0), penalty=PENALTY, offset=-log_sum_exp
        )
        weights = coefficients / scale
        weights += (1 - weights.sum()) / len(weights)  # the mean of the logits is taken off, and added to the result
        return cls(weights.astype(np.float32), intercept)


def left_out_margins(logits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The margin of each photo of the new breed, `(N,)`, where it is fitted on the others of them.

    Args:
        logits: `(N, C)`, of photos of the new breed.
        others: `(M, C)`, of photos of the breeds before.
    """
    left_out = [
        NewLogit.fit(np.delete(logits, row, axis=0), others).margin(logits[[row]]) for row in range(len(logits))
    ]
    return np.concatenate(left_out)


def smaller_group(logits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which photos are of another breed than most, where the photos are of two breeds: `(N,)` bool.

    They are parted in two around the two photos that are, to all of them, the nearest (2-medoids). The parts are two
    breeds if a breed that is fitted on one of them is far from recognised in the other, both ways.

    Args:
        logits: `(N, C)`, of photos that should be of one new breed.
        others: `(M, C)`, of photos of the breeds before.
    """
    x = _centred(logits)
    distance = ((x[:, None] - x) ** 2).sum(axis=-1)
    first, second = min(
        combinations(range(len(x)), 2), key=lambda pair: np.minimum(distance[pair[0]], distance[pair[1]]).sum()
    )
    part = distance[second] < distance[first]
    part = ~part if part.sum() > len(part) / 2 else part
    if part.sum() < 2:  # one photo may be an odd one of the same breed
        return np.zeros(len(part), bool)
    margins = [np.median(NewLogit.fit(logits[one], others).margin(logits[~one])) for one in (part, ~part)]
    return part & (max(margins) < MAX_MARGIN_APART)


def _centred(logits: np.ndarray) -> np.ndarray:
    """Less their mean, which training leaves to chance."""
    return logits - logits.mean(axis=1, keepdims=True)
