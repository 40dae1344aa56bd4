"""What the network is given: pixels or features of each split, where they are kept, and their batches."""

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from dogbreeds.machine import num_cores_each
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.augment import Normalise, RandomAugmentation
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.pixel_cache import open_pixel_cache
from dogbreeds.training.datasets.splits import Splits
from dogbreeds.training.earlier.zca import fit_zca
from dogbreeds.training.features import compute_features
from dogbreeds.training.loaders import Batch, EpochSampler, PixelDataset, TensorDataset, data_loader, end_workers
from dogbreeds.training.options import DataOptions, TrainConfig

GPU_SHARE = 0.5
"""Of a GPU's free memory, what the photos' pixels may take; the rest is for the network."""

MAX_WORKERS = 8

EVALUATION_BATCH_SIZE = {"cpu": 64, "cuda": 1024}
"""Photos in a batch where no gradients are kept; on a GPU fewer where so many do not fit."""


@dataclass
class Features:
    """The features of a frozen backbone, which several runs may share."""

    datasets: dict[str, TensorDataset] = field(default_factory=dict)
    """By split; empty until they are computed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What computing them took, by split."""


class Inputs:
    """The batches of each split, and what makes the network's input of them."""

    def __init__(
        self,
        config: TrainConfig,
        context: Context,
        splits: Splits,
        model: PreTrainedModel,
        preprocessing: Preprocessing,
        features: Features,
    ) -> None:
        """Prepare pixels, or features where only the classifier is trained on unchanging photos.

        Args:
            config: The run's options.
            context: Its process.
            splits: Its photos.
            model: The network, whose backbone computes features.
            preprocessing: What it sees; ZCA whitening, if asked for, is fitted here.
            features: Those of a frozen backbone, computed if they are not there yet.
        """
        self._accelerator, self._device = context.accelerator, context.device
        self.labels = {split: splits[split].labels for split in ("train", *splits.held_out)}
        """The labels of each split, `(N,)` int64."""
        self.head_only = config.trains_on_features
        pixels = {"train": _pixels(config, context, splits, "train", preprocessing)}
        if config.preprocessing.whitening == "zca":
            with context.timed("whitening"):
                preprocessing = replace(preprocessing, zca=fit_zca(pixels["train"], preprocessing, config.run.seed))
        self.preprocessing = preprocessing
        for split in splits.held_out:
            pixels[split] = _pixels(config, context, splits, split, preprocessing)
        self._num_workers = 0 if pixels["train"].cache else _num_workers(config.data)
        self._normalise = Normalise(preprocessing, self._device)
        self.random_views: RandomAugmentation | None = None
        if config.random_views:
            self.random_views = RandomAugmentation(
                config.augment, config.run.seed, preprocessing, splits.train.sizes, self._device
            )
        datasets: Mapping[str, PixelDataset | TensorDataset]
        if self.head_only:
            if not features.datasets:
                with context.timed("features"):
                    computed = compute_features(model, pixels, preprocessing, context, self._num_workers)
                    features.datasets, features.seconds = computed
            datasets, self._num_workers = features.datasets, 0
        else:
            datasets = _on_gpu(pixels, context) or pixels
        loader = data_loader(datasets["train"], config.optim.batch_size, self._num_workers, config.run.seed)
        assert isinstance(loader.sampler, EpochSampler)
        self._sampler = loader.sampler
        self.training_loader: DataLoader = self._accelerator.prepare(loader)
        self._datasets = datasets
        self.held_out = splits.held_out
        """The splits that the network is judged on."""
        # Large batches from worker processes would not fit into the shared memory of most containers.
        self.evaluation_batch_size = EVALUATION_BATCH_SIZE.get(self._device.type, 64) if not self._num_workers else 64
        if context.num_processes > 1:  # one could not try a smaller one alone, and those of training fit
            self.evaluation_batch_size = min(self.evaluation_batch_size, config.optim.batch_size)
        self._evaluation_loaders: dict[tuple[str, int], DataLoader] = {}
        self._begun_loader: DataLoader | None = None
        """Of the epoch that a resumed run goes on in."""

    def training_batches(self, epoch: int, num_done: int) -> Iterator[Batch]:
        """The batches of an epoch but for those that are done, in an order drawn from the seed and the epoch."""
        loader: Any = self.training_loader
        if self._begun_loader is not None:  # of the epoch before
            end_workers(self._begun_loader)
            self._begun_loader = None
        if num_done:
            loader = self._begun_loader = self._accelerator.skip_first_batches(loader, num_done)
        self._sampler.set_epoch(epoch)
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)  # accelerate counts epochs itself, from 0 after a resume
        if self.random_views is not None:
            self.random_views.draw(epoch)
        return iter(loader)

    def evaluation_loader(self, split: str, batch_size: int) -> DataLoader:
        """The batches of a split that is held out, in its order."""
        key = (split, batch_size)
        if key not in self._evaluation_loaders:
            loader = data_loader(self._datasets[split], batch_size, self._num_workers)
            self._evaluation_loaders[key] = self._accelerator.prepare(loader)
        return self._evaluation_loaders[key]

    def close(self) -> None:
        """End the processes that decode photos; the next batch starts new ones."""
        for loader in (self.training_loader, self._begun_loader, *self._evaluation_loaders.values()):
            if loader is not None:
                end_workers(loader)

    def of_training(self, batch: Batch) -> torch.Tensor:
        """What the network is given of a training batch: features, or pixels as random views or as they are."""
        if self.random_views is not None:
            return self.random_views(batch.indices, batch.inputs)
        return self.of_evaluation(batch)

    def of_evaluation(self, batch: Batch) -> torch.Tensor:
        """What the network is given of a batch that is held out: features as they are, pixels normalised."""
        return batch.inputs if self.head_only else self._normalise(batch.inputs)


def _num_workers(data: DataOptions) -> int:
    return min(MAX_WORKERS, num_cores_each()) if data.num_workers is None else data.num_workers


def _pixels(
    config: TrainConfig, context: Context, splits: Splits, split: str, preprocessing: Preprocessing
) -> PixelDataset:
    """The photos of a split: for training as they are stored for it, otherwise as the model sees them."""
    photos, cache = splits[split], splits.cache
    if split == "train":
        preprocessing = splits.stored_preprocessing
    if cache is not None and cache.preprocessing.geometry != preprocessing.geometry:
        digests: list[str] = photos.digests.tolist()
        with context.accelerator.main_process_first():
            cache = open_pixel_cache(preprocessing, photos.sources, digests, config.data, progress=context.is_main)
    return PixelDataset(photos, preprocessing, cache)


def _on_gpu(pixels: dict[str, PixelDataset], context: Context) -> dict[str, TensorDataset]:
    """The pixels of each split in the GPU's memory; empty where there is no GPU or they do not fit."""
    if context.device.type != "cuda" or not all(dataset.cache for dataset in pixels.values()):
        return {}
    num_bytes = sum(len(dataset) * dataset.preprocessing.size**2 * 3 for dataset in pixels.values())
    gc.collect()
    torch.cuda.empty_cache()  # of a run before, with another seed
    free = torch.cuda.mem_get_info(context.device)[0]
    if not fits_on_gpu(num_bytes, free):
        context.say(
            f"the photos stay in the host's memory: their pixels take {num_bytes / 1e9:.1f} GB, the GPU has "
            f"{free / 1e9:.1f} GB free, of which they may take {GPU_SHARE:.0%}"
        )
        return {}
    with context.timed("photos to the GPU"):
        on_gpu = {split: dataset.on(context.device) for split, dataset in pixels.items()}
    context.say(f"the photos are in the GPU's memory ({num_bytes / 1e9:.1f} GB)")
    return on_gpu


def fits_on_gpu(num_bytes: int, free: int) -> bool:
    """Whether pixels may be kept in the memory of a GPU that has this much of it free, in bytes."""
    return num_bytes <= GPU_SHARE * free
