"""From photos to batches of tensors, in an order that is a function of the seed and the epoch alone."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from dogbreeds.images import open_image
from dogbreeds.training.data import Photos
from dogbreeds.view import View

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs (pixels `(B, 3, H, W)` or features `(B, D)`, float32) and labels `(B,)` int64."""


def seed_of(*parts: int) -> int:
    """One seed from several numbers, the same on every machine."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


class ViewDataset(Dataset[tuple[torch.Tensor, int]]):
    """Photos as the model sees them in evaluation; an item is `(3, H, W)` float32 and its label."""

    def __init__(self, photos: Photos, view: View) -> None:
        self._photos, self._view = photos, view

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = self._view(open_image(self._photos.sources[index]))
        return torch.from_numpy(pixels), int(self._photos.labels[index])


class RandomViewDataset(Dataset[tuple[torch.Tensor, int]]):
    """Photos as the model sees them in training; an item is asked for by (epoch, index).

    The random view of a photo is a function of the seed, the epoch and the photo's index, whatever worker makes it.
    """

    def __init__(self, photos: Photos, transform: Callable[[Image.Image], torch.Tensor], seed: int) -> None:
        self._photos, self._transform, self._seed = photos, transform, seed

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, epoch_and_index: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, index = epoch_and_index
        image = open_image(self._photos.sources[index])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self._seed, epoch, index))
            return self._transform(image), int(self._photos.labels[index])


class FeatureDataset(Dataset[tuple[torch.Tensor, int]]):
    """Features of a frozen backbone `(D,)`, computed once; training asks by (epoch, index), evaluation by index."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        assert len(features) == len(labels), (features.shape, labels.shape)
        self._features, self._labels = features, labels

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, int]:
        index = key[1] if isinstance(key, tuple) else key
        return self._features[index], int(self._labels[index])


class EpochSampler(Sampler[tuple[int, int]]):
    """Every item once an epoch, in an order drawn from (seed, epoch); yields (epoch, index).

    The epoch travels with the index because a data set's own state does not reach its worker processes.
    """

    def __init__(self, num_items: int, seed: int) -> None:
        self._num_items, self._seed = num_items, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(seed_of(self._seed, self.epoch))
        for index in torch.randperm(self._num_items, generator=generator).tolist():
            yield self.epoch, index


def training_loader(dataset: Dataset, batch_size: int, seed: int, num_workers: int) -> DataLoader:
    """Batches in random order, for one process; accelerate shards them over several."""
    sampler = EpochSampler(len(dataset), seed)  # type: ignore[arg-type]
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def evaluation_loader(dataset: Dataset, batch_size: int, num_workers: int) -> DataLoader:
    """Batches in the data set's own order."""
    return DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, pin_memory=torch.cuda.is_available())
