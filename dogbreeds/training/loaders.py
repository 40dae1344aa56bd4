"""Batches of photos, in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.data_loader import DataLoaderAdapter
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

    device = torch.device("cpu")
    """Where the batches are."""

    def __init__(self, photos: CheckedPhotos, preprocessing: Preprocessing, cache: PixelCache | None = None) -> None:
        """Choose the photos.

        Args:
            photos: A split.
            preprocessing: How they are cropped and scaled.
            cache: Their pixels; None to decode them.
        """
        assert cache is None or cache.preprocessing.geometry == preprocessing.geometry
        self.photos, self.preprocessing, self.cache = photos, preprocessing, cache
        self._rows = None if cache is None else cache.rows(photos.digests)
        self._labels = torch.from_numpy(photos.labels)

    def on(self, device: torch.device) -> "TensorDataset":
        """A copy of the cached pixels on an accelerator; batches are indexed there."""
        assert self.cache is not None and self._rows is not None
        size = self.preprocessing.size
        pixels = torch.empty((len(self), size, size, 3), dtype=torch.uint8, device=device)
        for start in range(0, len(self), 1024):
            rows = self._rows[start : start + 1024]
            pixels[start : start + len(rows)] = torch.from_numpy(self.cache.read(rows)).to(device)
        return TensorDataset(pixels, self._labels.to(device))

    def __len__(self) -> int:
        return len(self.photos)

    def __getitems__(self, indices: list[int]) -> Batch:
        if self.cache is not None and self._rows is not None:
            pixels = self.cache.read(self._rows[indices])
        else:
            opened = (open_image(self.photos.sources[i], at_least=self.preprocessing.decoded_side) for i in indices)
            pixels = np.stack([self.preprocessing.cut(image) for image in opened])
        index = torch.tensor(indices)
        return Batch(index, torch.from_numpy(pixels), self._labels[index])


class TensorDataset(Dataset[Batch]):
    """Pixels `(N, H, W, 3)` on an accelerator, or features `(N, D)` of a frozen backbone, computed once."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        assert len(inputs) == len(labels), (inputs.shape, labels.shape)
        self.inputs, self._labels = inputs, labels
        self.device = inputs.device

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.tensor(indices).to(self.device, non_blocking=True)
        return Batch(index, self.inputs[index], self._labels[index])


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


def data_loader(
    dataset: PixelDataset | TensorDataset, batch_size: int, num_workers: int, seed: int | None = None
) -> DataLoader:
    """Batches for one process; accelerate shards them among several.

    Args:
        dataset: Its items.
        batch_size: Items in a batch.
        num_workers: Processes that decode photos.
        seed: Of a random order for each epoch; None for the data set's own order.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=None if seed is None else EpochSampler(len(dataset), seed),
        num_workers=num_workers,
        collate_fn=_identity,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available() and dataset.device.type == "cpu",
    )


def end_workers(loader: DataLoaderAdapter) -> None:
    """End the processes that decode a loader's photos, where it has any; its next pass starts new ones.

    Left to the collection of garbage, the queue that tells them to end is gone first, and torch waits 5 s for each.

    Args:
        loader: As accelerate prepared it.
    """
    own: Any = loader.base_dataloader
    if own._iterator is not None:  # torch has no public way
        own._iterator._shutdown_workers()
        own._iterator = None


def _identity(batch: Any) -> Batch:
    """The data sets above return whole batches, which need no collation."""
    return batch
