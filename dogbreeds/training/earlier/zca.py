"""Fitting ZCA whitening (`dogbreeds.preprocessing.Zca`) on training photos."""

import numpy as np

from dogbreeds.errors import UserError
from dogbreeds.preprocessing import Preprocessing, Zca
from dogbreeds.training.loaders import PixelDataset, seed_of

KERNEL_SIZE = 5
"""Height and width of the patches, pixels."""
NUM_PHOTOS = 2_000
"""Most training photos that patches are taken from."""
PATCHES_PER_PHOTO = 100
EPSILON = 0.1
"""Added to the eigenvalues, as a share of their mean, so that faint noise is not amplified to unit variance. 0.1 for
patches of unit variance is what Coates & Ng 2012 recommend to start with ("Learning feature representations with
k-means", section 3)."""


def fit_zca(dataset: PixelDataset, preprocessing: Preprocessing, seed: int) -> Zca:
    """Fit whitening on patches of training photos.

    The result depends on the arguments alone, so each process fits its own, and a resumed run fits it again.

    Args:
        dataset: The training photos, cropped as for the model, or whole and squashed as for random views.
        preprocessing: Normalises their pixels before they are whitened.
        seed: Of the choice of photos and patches.

    Raises:
        UserError: All patches are of one colour.
    """
    rng = np.random.default_rng(seed_of(seed, KERNEL_SIZE))
    photos = np.sort(rng.permutation(len(dataset))[:NUM_PHOTOS])  # in the order of the cache on disk
    offsets = np.arange(KERNEL_SIZE)
    patches = []
    for photo in photos.tolist():
        pixels = dataset.__getitems__([photo]).inputs[0].numpy()
        last = np.array(pixels.shape[:2]) - KERNEL_SIZE
        top, left = rng.integers(0, last + 1, (PATCHES_PER_PHOTO, 2)).T
        rows, columns = top[:, None, None] + offsets[:, None], left[:, None, None] + offsets
        patches.append(pixels[rows, columns])
    scale, shift = preprocessing.scale_and_shift()
    return zca_of(np.concatenate(patches).astype(np.float64) * scale - shift)


def zca_of(patches: np.ndarray) -> Zca:
    """The whitening of the central pixel of patches, scaled so that the mean variance of its channels is 1.

    With the covariance's eigenvectors U and eigenvalues l, W = U diag(1 / sqrt(l + epsilon)) U^T whitens a patch; the
    kernel is the three rows of W that give its central pixel.

    Args:
        patches: float64 `(N, k, k, 3)`, normalised.

    Raises:
        UserError: All are of one colour.
    """
    num_patches, side, _, _ = patches.shape
    flat = patches.reshape(num_patches, -1)
    if not np.ptp(flat, axis=0).any():
        raise UserError("--whitening zca: the training photos are all of one colour, which leaves nothing to whiten")
    mean, covariance = flat.mean(axis=0), np.cov(flat, rowvar=False)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    whitening = (vectors / np.sqrt(eigenvalues.clip(min=0) + EPSILON * eigenvalues.mean())) @ vectors.T
    centre = side * side // 2 * 3
    rows = whitening[centre : centre + 3]
    rows /= np.sqrt(np.einsum("ci,ij,cj->c", rows, covariance, rows).mean())
    kernel = rows.reshape(3, side, side, 3).transpose(0, 3, 1, 2)
    return Zca(np.ascontiguousarray(kernel, np.float32), (-rows @ mean).astype(np.float32))
