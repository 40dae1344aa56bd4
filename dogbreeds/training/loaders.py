"""Batches of photos, in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dogbreeds.images import open_image
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.datasets.checks import CheckedPhotos
from dogbreeds.training.datasets.pixel_cache import PixelCache


class Batch(NamedTuple):
    """Some photos of a split."""

    indices: torch.Tensor
    """`(B,)` int64: the photos' indices in the split."""
    inputs: torch.Tensor
    """Pixels, uint8 `(B, H, W, 3)`, or features, float32 `(B, D)`."""
    labels: torch.Tensor
    """`(B,)` int64."""


def seed_of(*parts: int) -> int:
    """One seed from several numbers, the same on every machine."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


class PixelDataset(Dataset[Batch]):
    """Photos as 8-bit pixels: rows of a pixel cache, or decoded on every access."""

    def __init__(self, photos: CheckedPhotos, preprocessing: Preprocessing, cache: PixelCache | None = None) -> None:
        """Choose the photos.

        Args:
            photos: A split.
            preprocessing: How they are cropped and scaled.
            cache: Their pixels; None to decode them.
        """
        assert cache is None or cache.preprocessing.geometry == preprocessing.geometry
        self.photos, self.preprocessing = photos, preprocessing
        self._cached = None if cache is None else cache.pixels
        self._rows = None if cache is None else cache.rows(photos.digests)
        self._labels = torch.from_numpy(photos.labels)
        self._resident: torch.Tensor | None = None

    @property
    def is_cached(self) -> bool:
        """Whether the pixels are in a cache, with nothing left to decode."""
        return self._cached is not None

    @property
    def is_resident(self) -> bool:
        """Whether the pixels are on an accelerator; see `keep_on`."""
        return self._resident is not None

    @property
    def num_bytes(self) -> int:
        """The size of all pixels in memory."""
        return len(self) * self.preprocessing.size**2 * 3

    def keep_on(self, device: torch.device) -> None:
        """Copy the cached pixels to an accelerator; batches are then indexed there."""
        assert self._cached is not None and self._rows is not None
        size = self.preprocessing.size
        resident = torch.empty((len(self), size, size, 3), dtype=torch.uint8, device=device)
        for start in range(0, len(self), 1024):
            rows = self._rows[start : start + 1024]
            resident[start : start + len(rows)] = torch.from_numpy(self._cached[rows]).to(device)
        self._resident, self._labels = resident, self._labels.to(device)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.tensor(indices)
        if self._resident is not None:
            index = index.to(self._resident.device, non_blocking=True)
            return Batch(index, self._resident[index], self._labels[index])
        if self._cached is not None and self._rows is not None:
            pixels = self._cached[self._rows[indices]]
        else:
            opened = (open_image(self.photos.sources[i], at_least=self.preprocessing.decoded_side) for i in indices)
            pixels = np.stack([self.preprocessing.cut(image) for image in opened])
        return Batch(index, torch.from_numpy(pixels), self._labels[index])


class FeatureDataset(Dataset[Batch]):
    """Features of a frozen backbone `(N, D)`, computed once."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        assert len(features) == len(labels), (features.shape, labels.shape)
        self._features, self._labels = features, labels

    @property
    def is_resident(self) -> bool:
        """Whether the features are on an accelerator."""
        return self._features.device.type != "cpu"

    def __len__(self) -> int:
        return len(self._features)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.tensor(indices)
        return Batch(index, self._features[index], self._labels[index])


class EpochSampler(Sampler[int]):
    """Every item once in each epoch, in an order drawn with the seed and the epoch."""

    def __init__(self, num_items: int, seed: int) -> None:
        self._num_items, self._seed = num_items, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed_of(self._seed, self.epoch))
        yield from torch.randperm(self._num_items, generator=generator).tolist()


def training_loader(dataset: PixelDataset | FeatureDataset, batch_size: int, seed: int, num_workers: int) -> DataLoader:
    """Batches in random order, for one process; accelerate shards them among several."""
    return _loader(dataset, batch_size, num_workers, EpochSampler(len(dataset), seed))


def evaluation_loader(dataset: PixelDataset | FeatureDataset, batch_size: int, num_workers: int) -> DataLoader:
    """Batches in the data set's own order."""
    return _loader(dataset, batch_size, num_workers, None)


def _loader(
    dataset: PixelDataset | FeatureDataset, batch_size: int, num_workers: int, sampler: EpochSampler | None
) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_identity,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available() and not dataset.is_resident,
    )


def _identity(batch: Any) -> Batch:
    """The data sets above return whole batches, which need no collation."""
    return batch
