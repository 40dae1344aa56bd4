"""Centred kernel alignment: how alike two layers are in what they make alike and unlike among the same photos.

Kornblith et al. 2019 (https://arxiv.org/abs/1905.00414), with the linear kernel, and the sums over small batches of
Nguyen et al. 2021 (https://arxiv.org/abs/2010.15327, section 3.1), so that neither all photos' activations nor a
matrix of all photos is in memory. 1: the same but for a rotation and a scale; 0: nothing in common. With unbiased sums
it does not grow with the size of a layer, and can be a little below 0.
"""

import numpy as np

from dogbreeds.research.significance import ENDS, NUM_DRAWS

MIN_BATCH = 4
"""Photos; with fewer, the unbiased estimate is not defined."""


def kernel(activations: np.ndarray) -> np.ndarray:
    """The linear kernel `(B, B)` of a layer's activations, `(B, ...)`."""
    flat = activations.reshape(len(activations), -1).astype(np.float64)
    return flat @ flat.T


def hsic(kernels: np.ndarray) -> np.ndarray:
    """The dependence of each two of L layers on one batch, `(L, L)`.

    The unbiased estimator of the Hilbert-Schmidt independence criterion (Song et al. 2012, "Feature Selection via
    Dependence Maximization", https://jmlr.org/papers/v13/song12a.html, equation 4).

    Args:
        kernels: `(L, B, B)`, of the same photos, B at least `MIN_BATCH`.
    """
    num = kernels.shape[1]
    assert num >= MIN_BATCH, f"{num} photos"
    others = kernels.copy()
    others[:, range(num), range(num)] = 0  # a photo's likeness to itself says nothing
    rows = others.sum(axis=2)
    sums = rows.sum(axis=1)
    flat = others.reshape(len(others), -1)
    traces = flat @ flat.T
    found = traces + np.outer(sums, sums) / ((num - 1) * (num - 2)) - 2 / (num - 2) * rows @ rows.T
    return found / (num * (num - 3))


def alignment(dependences: np.ndarray) -> np.ndarray:
    """The alignment of each two layers, `(..., L, L)`.

    Args:
        dependences: From `hsic`, `(..., batches, L, L)`.
    """
    sums = dependences.sum(axis=-3)
    scale = np.sqrt(np.diagonal(sums, axis1=-2, axis2=-1).clip(min=np.finfo(float).tiny))
    return sums / (scale[..., :, None] * scale[..., None, :])


def drawn_again(dependences: np.ndarray) -> np.ndarray:
    """The alignments `(draws, L, L)` when the batches are drawn again, with a fixed seed.

    Args:
        dependences: From `hsic`, `(batches, L, L)`.
    """
    rng = np.random.default_rng(0)
    num = len(dependences)
    return np.stack([alignment(dependences[rng.integers(num, size=num)]) for _ in range(NUM_DRAWS)])


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95 % interval over the first axis of draws."""
    low, high = np.quantile(draws, ENDS, axis=0)
    return low, high
