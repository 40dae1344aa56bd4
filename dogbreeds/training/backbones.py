"""Frozen backbones by their names, and the features that they give of every photo of a data set."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from dogbreeds.errors import UserError
from dogbreeds.files import read_json
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.record import RunRecord
from dogbreeds.run_folder import RECORD
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.checks import CheckedPhotos
from dogbreeds.training.datasets.pixel_cache import PixelCache
from dogbreeds.training.datasets.splits import Splits
from dogbreeds.training.feature_file import FeatureFile
from dogbreeds.training.features import compute_features
from dogbreeds.training.inputs import Features
from dogbreeds.training.loaders import PixelDataset, TensorDataset
from dogbreeds.training.models.adapters import known_breeds
from dogbreeds.training.models.build import build_model, model_preprocessing
from dogbreeds.training.models.checkpoint import DEFAULT_SIZE, Checkpoint, base_run_folder, open_checkpoint
from dogbreeds.training.models.inspection import classifier_of
from dogbreeds.training.models.registry import is_pretrained
from dogbreeds.training.options import ModelOptions, PreprocessingOptions, group_of

Seen = Literal["yes", "no", "not known"]


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier, and its features of all photos."""

    name: str
    """As it was asked for."""
    num_parameters: int
    image_size: int
    """Height and width of what it saw of the photos, pixels."""
    seen: Seen
    """Whether its pre-training had breeds of the data among its classes, as far as its files say. ImageNet's classes
    are such: who was trained on them has seen the photos of Stanford Dogs."""
    features: dict[str, np.ndarray]
    """Of each split `(N, D)` float32, in the order of the splits."""
    seconds: dict[str, float]
    """What computing them took, by split; empty where an older file does not tell."""

    @property
    def num_features(self) -> int:
        """D."""
        return self.features["train"].shape[1]

    def of_run(self, all_photos: Splits, splits: Splits) -> Features:
        """The features of a run that trains on a part of the photos, with its part of the seconds.

        Args:
            all_photos: Whose features these are.
            splits: Of the run, with the same photos held out.
        """
        row_of = {digest: row for row, digest in enumerate(all_photos.train.digests.tolist())}
        rows = {"train": np.array([row_of[digest] for digest in splits.train.digests.tolist()])}
        datasets, seconds = {}, {}
        for split in ("train", *splits.held_out):
            found = self.features[split]
            mine = found[rows[split]] if split in rows else found
            datasets[split] = TensorDataset(torch.from_numpy(mine), torch.from_numpy(splits[split].labels))
            if split in self.seconds:
                seconds[split] = self.seconds[split] * len(mine) / len(found)
        return Features(datasets, seconds)


def own_size(checkpoint: Checkpoint | None) -> int:
    """What a checkpoint was trained to see, `Checkpoint.image_size`; of an architecture, which has no weights, 224."""
    return DEFAULT_SIZE if checkpoint is None else checkpoint.image_size


def open_backbones(models: Sequence[str], image_size: int | None) -> dict[str, Checkpoint | None]:
    """Load every model once, so that none is found to be missing when the features of others are computed.

    Args:
        models: Their names.
        image_size: Of the photos that they will see, pixels; None: each sees those of its `own_size`.

    Returns:
        By name the checkpoint; None for an architecture, which has random weights.

    Raises:
        UserError: One is named twice, is unknown, has no weights, or can't be run on photos of this size.
    """
    for name in models:
        if models.count(name) > 1:
            raise UserError(f"the model {name!r} is named twice: name it once")
    checkpoints = {name: open_checkpoint(name) for name in models}
    for name, checkpoint in checkpoints.items():
        size = own_size(checkpoint) if image_size is None else image_size
        load_backbone(name, checkpoint, group_of(PreprocessingOptions, {"image_size": size}))
    return checkpoints


def load_backbone(
    name: str, checkpoint: Checkpoint | None, options: PreprocessingOptions
) -> tuple[PreTrainedModel, Preprocessing]:
    """The network, with a classifier of two classes that nothing asks, and what it sees of a photo.

    An architecture gets the same random weights each time: a backbone to compare with.
    """
    model_options = ModelOptions(model=name)
    torch.manual_seed(0)
    model = build_model(model_options, options.image_size, ("first", "second"), checkpoint)
    return model, model_preprocessing(model_options, options, checkpoint)


def features_of_photos(
    model: PreTrainedModel,
    preprocessing: Preprocessing,
    photos: Mapping[str, CheckedPhotos],
    cache: PixelCache | None,
    context: Context,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Compute the features `(N, D)` of the photos of each split, in their order, and the seconds that each took.

    Args:
        model: From `load_backbone`, as the next.
        preprocessing: What it sees of a photo.
        photos: By split.
        cache: Their pixels, stored without random views.
        context: The process.
    """
    pixels = {split: PixelDataset(each, preprocessing, cache) for split, each in photos.items()}
    datasets, seconds = compute_features(model, pixels, preprocessing, context, num_workers=0)
    return {split: dataset.inputs.cpu().numpy() for split, dataset in datasets.items()}, seconds


def compute_backbone(
    name: str,
    checkpoint: Checkpoint | None,
    options: PreprocessingOptions,
    splits: Splits,
    context: Context,
    file: FeatureFile | None = None,
) -> Backbone:
    """Compute the features of a backbone, or find them in a file.

    Args:
        name: Of the model.
        checkpoint: From `open_backbones`.
        options: What backbones see of the photos.
        splits: From `dogbreeds.training.datasets.splits.load_data`; its pixel cache serves if it is of this view.
        context: The process.
        file: Where features are kept.
    """
    model, preprocessing = load_backbone(name, checkpoint, options)
    key = _key(model, preprocessing)
    features = file.find(name, key) if file else None
    if file and features is not None:
        seconds = file.seconds(name)
    else:
        photos = {split: splits[split] for split in ("train", *splits.held_out)}
        cache = splits.cache
        if cache is not None and cache.preprocessing.geometry != preprocessing.geometry:
            cache = None  # photos are seen once: decoding them takes no longer than storing them would
        features, seconds = features_of_photos(model, preprocessing, photos, cache, context)
        if file:
            file.add(name, key, features, seconds)
    classifier = classifier_of(model)[1]
    num_parameters = model.num_parameters() - sum(each.numel() for each in classifier.parameters())
    return Backbone(name, num_parameters, options.image_size, seen(name, checkpoint, splits.names), features, seconds)


def _key(model: PreTrainedModel, preprocessing: Preprocessing) -> str:
    """A hash of all that features depend on besides the photos: the backbone's weights and what it sees."""
    hashed = hashlib.sha256(repr(preprocessing).encode())
    classifier = classifier_of(model)[0]
    for name, weights in model.state_dict().items():
        if not name.startswith(classifier):  # which has new weights each time
            hashed.update(name.encode() + weights.contiguous().numpy().tobytes())
    return hashed.hexdigest()


def seen(name: str, checkpoint: Checkpoint | None, names: Sequence[str]) -> Seen:
    """See `Backbone.seen`.

    Args:
        name: Of the model.
        checkpoint: From `open_backbones`.
        names: The breeds of the data.
    """
    if checkpoint is None:
        return "no"
    if folder := base_run_folder(name):  # a run, whose own photos are known one by one: see `find_base`
        options = RunRecord.from_json(read_json(folder / RECORD), folder).config
        return "not known" if is_pretrained(options["model"], options["from_scratch"]) else "no"
    return "yes" if known_breeds(checkpoint.config.id2label or {}, names) else "not known"
