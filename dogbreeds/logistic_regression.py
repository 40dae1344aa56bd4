"""Logistic regression by Newton's method, without scikit-learn, which serving does not need otherwise."""

import numpy as np

MAX_STEP = 5.0
"""Of each coefficient in one step: from far away, a whole step of Newton's method can lead further away."""


def logistic_regression(
    x: np.ndarray, is_positive: np.ndarray, *, weight: np.ndarray, penalty: float, offset: np.ndarray | float = 0.0
) -> tuple[np.ndarray, float]:
    """Fit the logit of a probability, `x @ coefficients + intercept + offset`.

    Args:
        x: `(N, D)`, columns of about the same scale.
        is_positive: `(N,)` bool, of both kinds.
        weight: `(N,)`, of each row's loss.
        penalty: Of the squared coefficients, relative to the loss of one row of weight 1; the intercept is free.
        offset: `(N,)`, a part of the logit that is known.

    Returns:
        The coefficients `(D,)` and the intercept.
    """
    x = np.column_stack([x, np.ones(len(x))])
    penalties = np.full(x.shape[1], penalty)
    penalties[-1] = 1e-6
    solution = np.zeros(x.shape[1])
    solution[-1] = -np.median(offset)
    for _ in range(50):  # it converges in about 10 steps
        probability = 1 / (1 + np.exp(-np.clip(x @ solution + offset, -30, 30)))
        gradient = x.T @ (weight * (probability - is_positive)) + penalties * solution
        curvature = weight * probability * (1 - probability)
        step = np.linalg.solve(x.T * curvature @ x + np.diag(penalties), gradient)
        solution -= np.clip(step, -MAX_STEP, MAX_STEP)
        if np.abs(step).max() < 1e-6:
            break
    return solution[:-1], float(solution[-1])
