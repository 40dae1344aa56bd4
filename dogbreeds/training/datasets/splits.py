"""Disjoint training, validation and test photos, from a data set that may have none, some or all of these splits."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain

import numpy as np

from dogbreeds.breeds import parse_breeds
from dogbreeds.errors import UserError
from dogbreeds.model_card import EVERYDAY
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.record import DataRecord
from dogbreeds.training.datasets.checks import SPLITS, CheckedPhotos, LeftOut, check_photos, concatenated
from dogbreeds.training.datasets.diagnosis import Diagnosis
from dogbreeds.training.datasets.pixel_cache import PixelCache
from dogbreeds.training.datasets.sources import Photos, read_dataset
from dogbreeds.training.options import DataOptions, TrainConfig


@dataclass(frozen=True)
class Splits:
    """The photos on which a model is trained, its best epoch chosen, and the model tested."""

    train: CheckedPhotos
    validation: CheckedPhotos
    test: CheckedPhotos | None
    left_out: tuple[LeftOut, ...]
    fingerprint: str
    """Hash of the photos' contents and labels, whatever their ids, order and split."""
    split_hash: str
    """Hash of the contents and labels of the photos in each split. Both are of all photos, also of those that are then
    not trained on."""
    stored_preprocessing: Preprocessing
    """The preprocessing whose result training stores of each photo: `dogbreeds.training.datasets.checks`."""
    cache: PixelCache | None
    """All photos after `stored_preprocessing`; None if they are decoded in every epoch."""
    everyday: CheckedPhotos | None = None
    """Other photos on which the model is judged; neither hash knows of them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class."""
        return self.train.names

    @property
    def held_out(self) -> list[str]:
        """The names of the splits that are not trained on."""
        return ["validation", *(["test"] if self.test else []), *([EVERYDAY] if self.everyday else [])]

    def __getitem__(self, split: str) -> CheckedPhotos:
        """The photos of a split that is present, by its name."""
        present = {"train": self.train, "validation": self.validation, "test": self.test, EVERYDAY: self.everyday}
        photos = present[split]
        assert photos is not None, split
        return photos

    def to_record(self) -> DataRecord:
        """The description of the data in run.json."""
        return DataRecord(
            num_train=len(self.train),
            num_validation=len(self.validation),
            num_test=len(self.test) if self.test else 0,
            left_out=[asdict(photo) for photo in self.left_out],
            fingerprint=self.fingerprint,
            split_hash=self.split_hash,
        )

    def in_words(self) -> list[str]:
        """Lines that give the number of photos, and name those that are left out."""
        sizes = f"{len(self.train)} training, {len(self.validation)} validation"
        sizes += f" and {len(self.test)} test photos" if self.test else " photos"
        sizes += f", {len(self.everyday)} everyday photos" if self.everyday else ""
        lines = [f"{len(self.names)} breeds: {sizes}"]
        if self.left_out:
            lines.append(f"left out {len(self.left_out)} photos:")
        return lines + [f"  {photo.id}: {photo.reason}" for photo in self.left_out]


def load_data(config: TrainConfig, *, everyday: str | None = None, progress: bool = True) -> Splits:
    """Read the data of a run and cut the splits that it does not have.

    The cut is stratified by breed and depends on the photos' contents and the split's seed alone, not on names or
    order. Photos that look the same, or of which `--faults` says so, are on one side of it. Photos with the same
    content are used once; of those in two splits of the data, test keeps them before validation and validation before
    training, as of those that look the same. So the splits are disjoint by content, which is asserted.

    Args:
        config: The run's options; of these, the ones about data, preprocessing, random views and the seed are used.
        everyday: Other photos of breeds of the data, to judge the model on. Those that look like one of the data are
            left out.
        progress: Show a progress bar while the photos are checked.

    Raises:
        UserError: The data is missing, empty, has no labels, one breed only, too few photos of a breed, an unknown
            breed is asked for, or more than `dogbreeds.training.datasets.checks.MAX_UNREADABLE` of the photos can't be
            decoded; the report of faults is missing, damaged, or of other data.
    """
    options = config.data
    photos = read_dataset(options.data)
    same_photos = _same_photos(options, photos)
    if options.breeds:
        photos = _of_breeds(photos, options)
    if everyday is not None:
        photos[EVERYDAY] = _everyday(everyday, options.data, next(iter(photos.values())).names)
    checked = check_photos(photos, config, same_photos=same_photos, progress=progress)
    others = {split: checked.splits.pop(split) for split in (EVERYDAY,) if split in photos}
    parts = _cut(checked.splits, options)
    fingerprint, split_hash = _hashes(parts)
    parts |= {split: photos.of_classes(parts["train"].names) for split, photos in others.items()}
    parts, alike = _without_near_duplicates(parts)
    _check_each_breed_is_trained(parts, options)
    train, validation, test = parts["train"], parts["validation"], parts.get("test")
    stored, cache = checked.stored_preprocessing, checked.cache
    left_out = (*checked.left_out, *alike)
    splits = Splits(
        train, validation, test, left_out, fingerprint, split_hash, stored, cache, everyday=parts.get(EVERYDAY)
    )
    return with_training_photos_of(splits, config)


def with_training_photos_of(splits: Splits, config: TrainConfig) -> Splits:
    """The same splits with the training photos that a run draws of all, with its seed.

    The hashes stay those of the whole data.
    """
    options, rng = config.data, np.random.default_rng(config.run.seed)
    if options.train_images_per_breed is not None:
        counts = np.full(len(splits.names), options.train_images_per_breed)
        return replace(splits, train=_draw(splits.train, rng, counts=counts)[0])
    if options.train_fraction < 1:
        return with_part_of_training(splits, options.train_fraction, config.run.seed)
    return splits


def with_part_of_training(splits: Splits, fraction: float, seed: int) -> Splits:
    """The same splits with a share of the training photos, of each breed alike and at least one, drawn with the seed.

    The hashes stay those of the whole data.
    """
    num_photos = np.bincount(splits.train.labels, minlength=len(splits.names))
    counts = np.maximum(1, np.round(fraction * num_photos).astype(int))
    return replace(splits, train=_draw(splits.train, np.random.default_rng(seed), counts=counts)[0])


def _same_photos(options: DataOptions, splits: dict[str, Photos]) -> list[list[tuple[str, str]]]:
    """The groups of photos that the report of faults says to be the same."""
    if options.faults is None:
        return []
    groups = Diagnosis.load(options.faults).same_photos
    known = {(split, id_) for split, photos in splits.items() for id_ in photos.ids}
    if groups and known.isdisjoint(chain.from_iterable(groups)):
        raise UserError(
            f"{str(options.faults)!r} is of other photos than {options.data!r}, such as {groups[0][0][1]!r}: run "
            "doctor on these"
        )
    return groups


def _of_breeds(splits: dict[str, Photos], options: DataOptions) -> dict[str, Photos]:
    wanted = [breed.name for breed in parse_breeds(list(options.breeds))]
    known = next(iter(splits.values())).names
    for name in wanted:
        if name not in known:
            raise UserError(f"{options.data!r} has no photos of the breed {name!r}")
    return {split: photos.of_classes(wanted) for split, photos in splits.items()}


def _everyday(everyday: str, data: str, names: Sequence[str]) -> Photos:
    """Everyday photos, with the labels of the data."""
    photos = concatenated(list(read_dataset(everyday, option="everyday").values()))
    if unknown := [name for name in photos.names if name not in names]:
        raise UserError(
            f"{everyday!r} holds photos of {len(unknown)} breeds that {data!r} does not have, such as {unknown[0]!r}: "
            "leave these folders out"
        )
    label_of = np.array([names.index(name) for name in photos.names])
    return replace(photos, labels=label_of[photos.labels], names=tuple(names))


def _cut(splits: dict[str, CheckedPhotos], options: DataOptions) -> dict[str, CheckedPhotos]:
    """Cut validation and test photos from the training photos, unless the data has them."""
    if "train" not in splits:
        raise UserError(f"{options.data!r} has no training photos, only {' and '.join(splits)}")
    labels = np.unique(np.concatenate([photos.labels for photos in splits.values()]))
    breeds = [splits["train"].names[label] for label in labels]
    if len(breeds) < 2:
        raise UserError(f"{options.data!r} holds {len(breeds)} breed(s): at least two are needed to tell them apart")

    rng = np.random.default_rng(options.split_seed)
    parts = dict(splits)
    if options.images_per_breed is not None:
        for split, counts in _allot(splits, options.images_per_breed).items():
            parts[split], _ = _draw(parts[split], rng, counts=counts)
    for split, fraction in (("test", options.test_fraction), ("validation", options.validation_fraction)):
        if split in splits or fraction == 0:
            continue
        if split == "validation" and "test" in parts and "test" not in splits:
            fraction /= 1 - options.test_fraction  # both are shares of the photos before any cut
        parts[split], parts["train"] = _draw(parts["train"], rng, fraction=fraction)
    return {split: photos.of_classes(breeds) for split, photos in parts.items()}


def _without_near_duplicates(parts: dict[str, CheckedPhotos]) -> tuple[dict[str, CheckedPhotos], list[LeftOut]]:
    """Of photos that look the same, those in the split that keeps them: data that brings its splits may have others."""
    kept_by: dict[int, str] = {}
    kept, left_out = {}, []
    for split in (split for split in SPLITS if split in parts):
        photos = parts[split]
        groups = photos.groups.tolist()
        alike = [index for index, group in enumerate(groups) if group in kept_by]
        left_out += [LeftOut(photos.ids[i], f"nearly the same photo as {kept_by[groups[i]]}") for i in alike]
        kept[split] = photos.select(np.setdiff1d(np.arange(len(photos)), alike))
        for id_, group in zip(kept[split].ids, kept[split].groups.tolist(), strict=True):
            kept_by.setdefault(group, id_)
    return kept, left_out


def _check_each_breed_is_trained(parts: dict[str, CheckedPhotos], options: DataOptions) -> None:
    names, labels = parts["train"].names, [photos.labels for photos in parts.values()]
    untrained = np.setdiff1d(np.concatenate(labels), parts["train"].labels)
    if len(untrained):
        name = names[untrained[0]]
        raise UserError(
            f"{options.data!r} has too few photos of {name!r}: none is left to train on; add some that look different, "
            "or leave the breed out"
        )
    for split, photos in parts.items():
        if not len(photos):
            raise UserError(
                f"{options.data!r} has no {split} photos that look different from the others: add photos, or give "
                "--near-duplicates ignore"
            )


def _allot(splits: dict[str, CheckedPhotos], images_per_breed: int) -> dict[str, np.ndarray]:
    """How many photos of each class to take from each split: in proportion, with no more than this sum."""
    num_classes = len(splits["train"].names)
    sizes = np.stack([np.bincount(photos.labels, minlength=num_classes) for photos in splits.values()])
    exact = sizes * np.minimum(1.0, images_per_breed / sizes.sum(axis=0).clip(1))  # (splits, classes)
    counts = np.floor(exact).astype(int)
    for label in range(num_classes):
        missing = round(exact[:, label].sum()) - counts[:, label].sum()
        largest_remainders = np.argsort(counts[:, label] - exact[:, label], kind="stable")[:missing]
        counts[largest_remainders, label] += 1
    return dict(zip(splits, counts, strict=True))


def _draw(
    photos: CheckedPhotos, rng: np.random.Generator, *, counts: Sequence[int] | np.ndarray = (), fraction: float = 0.0
) -> tuple[CheckedPhotos, CheckedPhotos]:
    """Draw `counts[label]` photos of each class, or if there are no counts, about a share of each.

    A share has all photos that look the same, or none of them, so that it can be held out.

    Returns:
        The photos drawn, and the rest.
    """
    is_drawn = np.zeros(len(photos), dtype=bool)
    for label in np.unique(photos.labels):
        members = rng.permutation(np.flatnonzero(photos.labels == label))
        count = counts[label] if len(counts) else max(1, round(fraction * len(members)))
        is_drawn[members[:count]] = True
    if not len(counts):
        _, first, group = np.unique(photos.groups, return_index=True, return_inverse=True)
        is_drawn = is_drawn[first[group]]
    return photos.select(np.flatnonzero(is_drawn)), photos.select(np.flatnonzero(~is_drawn))


def _hashes(parts: dict[str, CheckedPhotos]) -> tuple[str, str]:
    """The fingerprint and the split hash of `Splits`."""
    lines = [
        (split, f"{digest} {photos.names[label]}")
        for split, photos in parts.items()
        for digest, label in zip(photos.digests, photos.labels, strict=True)
    ]
    digests = np.concatenate([photos.digests for photos in parts.values()])
    assert len(np.unique(digests)) == len(digests), "a photo is in two splits"
    return _hash_lines([line for _, line in lines]), _hash_lines([f"{split} {line}" for split, line in lines])


def _hash_lines(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
