"""From a data set, wherever it is, to disjoint training, validation and test photos. Imports no torch.

`read_dataset` finds the photos and their labels; `load_data` decodes every photo once, into the pixel cache, leaves out
what can't be read or occurs twice, and cuts the splits that the data does not bring.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dogbreeds.breeds import all_breeds, label_name, parse_breeds
from dogbreeds.errors import UserError
from dogbreeds.hub import announce
from dogbreeds.images import BadImage, image_size, open_image
from dogbreeds.machine import on_all_cores
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.record import DataRecord
from dogbreeds.training.datasets.pixel_cache import PixelCache, default_folder, open_pixel_cache
from dogbreeds.training.options import TrainConfig

MAX_UNREADABLE = 0.01
"""A larger share of photos that can't be decoded stops the run: then something is wrong with the data as a whole."""

WHOLE_PHOTO_SCALE = 8 / 7
"""Random views are cut from photos that are kept at up to this many times the image size: 256 pixels for 224."""

NUM_AHEAD = 64
"""Photos that are looked at ahead."""

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""The names that data sets give their splits, and ours."""


@dataclass(frozen=True)
class Photos:
    """Labelled photos, not yet opened."""

    ids: tuple[str, ...]
    """What names a photo to a person: its path in the folder, or the data set's own id."""
    sources: Sequence[Path | bytes]
    """Where each photo is, for `dogbreeds.images.open_image`."""
    labels: np.ndarray
    """`(N,)` int64: the index of each photo's class in `names`."""
    names: tuple[str, ...]
    """The name of each class, in the order of Stanford's labels."""

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Sequence[int] | np.ndarray) -> "Photos":
        """These photos, in this order; the classes stay."""
        sources = [self.sources[int(i)] for i in indices] if isinstance(self.sources, list) else None
        return replace(
            self,
            ids=tuple(self.ids[int(i)] for i in indices),
            sources=sources if sources is not None else _Subset(self.sources, np.asarray(indices, dtype=np.int64)),
            labels=self.labels[np.asarray(indices, dtype=np.int64)],
        )


@dataclass(frozen=True)
class LeftOut:
    """A photo that takes no part, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Splits:
    """What a model is trained, chosen and judged on."""

    train: Photos
    validation: Photos
    test: Photos | None
    left_out: tuple[LeftOut, ...]
    fingerprint: str
    """Hash of the photos' contents and labels, whatever their names, order and split."""
    split_hash: str
    """Hash of which photo, by its content, is in which split with which label."""
    digests: dict[str, np.ndarray]
    """For each split the SHA-256 of each photo's file, in hexadecimal, in the split's order."""
    sizes: dict[str, np.ndarray]
    """For each split `(N, 2)` int: width and height of each photo, upright, as it was decoded, pixels."""
    kept_view: Preprocessing
    """What training keeps of a photo; see `kept_view`."""
    cache: PixelCache | None
    """All photos as `kept_view` shows them; None where they are decoded in every epoch."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class."""
        return self.train.names

    @property
    def held_out(self) -> list[str]:
        """The splits that are not trained on."""
        return ["validation", "test"] if self.test else ["validation"]

    def __getitem__(self, split: str) -> Photos:
        """The photos of a split that there is."""
        photos = {"train": self.train, "validation": self.validation, "test": self.test}[split]
        assert photos is not None, split
        return photos

    def to_record(self) -> DataRecord:
        """What run.json says of the data."""
        return DataRecord(
            num_train=len(self.train),
            num_validation=len(self.validation),
            num_test=len(self.test) if self.test else 0,
            left_out=[{"id": photo.id, "reason": photo.reason} for photo in self.left_out],
            fingerprint=self.fingerprint,
            split_hash=self.split_hash,
        )

    def in_words(self) -> list[str]:
        """Lines that say how many photos there are, and name those that are left out."""
        sizes = f"{len(self.train)} training, {len(self.validation)} validation"
        sizes += f" and {len(self.test)} test photos" if self.test else " photos"
        lines = [f"{len(self.names)} breeds: {sizes}"]
        if self.left_out:
            lines.append(f"left out {len(self.left_out)} photos:")
        return lines + [f"  {photo.id}: {photo.reason}" for photo in self.left_out]


def load_data(config: TrainConfig, *, progress: bool = True) -> Splits:
    """Read the data of a run and cut the splits that it does not bring.

    The cut is stratified by breed and depends on the photos' contents and the seed alone, not on names or order.
    Photos with the same content are used once; where they stand in two splits of the data, test keeps them before
    validation and validation before training. So the splits are disjoint by content, which is asserted.

    Args:
        config: The run's options; of these, the ones about data and the seed are used.
        progress: Show a progress bar while the photos are checked.

    Raises:
        UserError: The data is missing, empty, has no labels, one breed only, too few photos of a breed, an unknown
            breed is asked for, or more than `MAX_UNREADABLE` of the photos can't be decoded.
    """
    given = read_dataset(config.data.data)
    if config.data.breeds:
        wanted = [breed.name for breed in parse_breeds(list(config.data.breeds))]
        given = {split: _only(photos, wanted, config.data.data) for split, photos in given.items()}

    left_out: list[LeftOut] = []
    seen: dict[str, str] = {}
    kept: dict[str, Photos] = {}
    checked = _check(given, config, progress)
    digests: dict[str, np.ndarray] = {}
    sizes: dict[str, np.ndarray] = {}
    num_unreadable = 0
    for split in sorted(given, key=["test", "validation", "train"].index):
        photos = given[split]
        # Sorted by content, so that what follows does not depend on the order in which a disk lists its files.
        order = sorted(range(len(photos)), key=lambda i: (checked.digests[split][i], photos.ids[i]))
        good = []
        for index in order:
            digest = checked.digests[split][index]
            problem = checked.problems.get(digest)
            if problem:
                num_unreadable += 1
            elif digest in seen:
                problem = f"the same photo as {seen[digest]}"
            else:
                seen[digest] = photos.ids[index]
                good.append(index)
            if problem:
                left_out.append(LeftOut(photos.ids[index], problem))
        kept[split] = photos.select(good)
        digests[split] = np.array([checked.digests[split][index] for index in good])
        sizes[split] = np.array([checked.size_of[digest] for digest in digests[split]]).reshape(-1, 2)
    num_checked = sum(len(photos) for photos in given.values())
    if num_unreadable > MAX_UNREADABLE * num_checked:
        examples = "; ".join(f"{photo.id}: {photo.reason}" for photo in left_out[:3])
        raise UserError(
            f"{num_unreadable} of {num_checked} photos in {config.data.data!r} can't be read, more than "
            f"{MAX_UNREADABLE:.0%}: mend or remove them ({examples} ...)"
        )

    if "train" not in kept:
        raise UserError(f"{config.data.data!r} has no training photos, only {' and '.join(kept)}")
    members = _cut(kept, config)
    present = [kept["train"].names[label] for label in np.unique(kept["train"].labels)]
    if len(present) < 2:
        raise UserError(
            f"{config.data.data!r} holds {len(present)} breed(s): at least two are needed to tell them apart"
        )
    parts: dict[str, Photos] = {}
    part_digests: dict[str, np.ndarray] = {}
    part_sizes: dict[str, np.ndarray] = {}
    for split, (source, indices) in members.items():
        parts[split] = _only(kept[source].select(indices), present, config.data.data)
        part_digests[split], part_sizes[split] = digests[source][indices], sizes[source][indices]
    everything = np.concatenate(list(part_digests.values()))
    assert len(set(everything.tolist())) == len(everything), "a photo is in two splits"
    lines = [
        f"{split} {digest} {photos.names[label]}"
        for split, photos in parts.items()
        for digest, label in zip(part_digests[split], photos.labels, strict=True)
    ]
    return Splits(
        train=parts["train"],
        validation=parts["validation"],
        test=parts.get("test"),
        left_out=tuple(left_out),
        fingerprint=_hash_lines([line.split(" ", 1)[1] for line in lines]),
        split_hash=_hash_lines(lines),
        digests=part_digests,
        sizes=part_sizes,
        kept_view=checked.preprocessing,
        cache=checked.cache,
    )


def with_part_of_training(splits: Splits, fraction: float, seed: int) -> Splits:
    """The same splits with a share of the training photos, of each breed alike and at least one, drawn with the seed.

    The hashes stay those of the whole, of which nothing changed sides.
    """
    rng = np.random.default_rng(seed)
    drawn, _ = _draw(splits.train, np.arange(len(splits.train)), rng, share=fraction)
    return replace(
        splits,
        train=splits.train.select(drawn),
        digests={**splits.digests, "train": splits.digests["train"][drawn]},
        sizes={**splits.sizes, "train": splits.sizes["train"][drawn]},
    )


def kept_view(config: TrainConfig, longest_side: int) -> Preprocessing:
    """What training keeps of a photo: what evaluation sees, or for random views the whole photo, squashed to a square.

    Steps of pre-processing in 8 bits (grey, equalised, blurred) are part of either: random views are made of a photo
    that was equalised or blurred as a whole, while evaluation equalises and blurs what it cut.

    Args:
        config: The run's options.
        longest_side: Of all photos, pixels: none is kept larger than it is.
    """
    if not config.random_views:
        return config.preprocessing.build()
    size = min(round(config.preprocessing.image_size * WHOLE_PHOTO_SCALE), longest_side)
    return replace(config.preprocessing.build(), size=size, fit="squash")


def pixel_cache(
    config: TrainConfig, view: Preprocessing, sources: Sequence[Path | bytes], digests: Sequence[str], progress: bool
) -> PixelCache:
    """The pixel cache of these photos, kept as the options say.

    Raises:
        UserError: There is no room for it.
    """
    return open_pixel_cache(
        view,
        sources,
        digests,
        folder=config.data.cache_dir or default_folder(),
        max_bytes=round(config.data.max_cache_gigabytes * 1e9),
        progress=progress,
    )


def read_dataset(data: str) -> dict[str, Photos]:
    """Find the photos and labels of a data set.

    Args:
        data: A folder (of Parquet files; with a sub-folder for each breed, or with train/, validation/ and test/ that
            hold them; or Stanford's extracted Images/ and lists/), else the id of a data set on the Hugging Face Hub.

    Returns:
        The splits that the data brings, of "train", "validation" and "test"; unsplit data is "train". Classes are
        those that occur, the same in all splits, in the order of Stanford's labels, others behind in alphabetical
        order.

    Raises:
        UserError: There is no such data, or it holds no labelled photos.
    """
    folder = Path(data)
    if folder.is_dir():
        if (folder / "Images").is_dir():
            labelled = _read_stanford(folder)
        elif any(folder.rglob("*.parquet")):
            labelled = _read_with_datasets(data)
        else:
            labelled = _read_folders(folder)
    elif folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        raise UserError(f"there is no data folder {data!r}: check --data")
    else:
        announce(data)
        labelled = _read_with_datasets(data)
    labelled = {split: entries for split, entries in labelled.items() if entries[0]}
    if not labelled:
        raise UserError(f"{data!r} holds no labelled photos: it needs one sub-folder of photos for each breed")
    return _with_common_classes(labelled)


_Labelled = tuple[list[str], Sequence[Path | bytes], list[str]]
"""Ids, sources and label texts of one split."""


def _with_common_classes(labelled: dict[str, _Labelled]) -> dict[str, Photos]:
    names_of = {text: label_name(text) for _, _, texts in labelled.values() for text in set(texts)}
    rank = {breed.name: index for index, breed in enumerate(all_breeds())}
    names = tuple(sorted(set(names_of.values()), key=lambda name: (rank.get(name, len(rank)), name)))
    index = {name: i for i, name in enumerate(names)}
    return {
        split: Photos(tuple(ids), sources, np.array([index[names_of[text]] for text in texts], dtype=np.int64), names)
        for split, (ids, sources, texts) in labelled.items()
    }


def _read_folders(folder: Path) -> dict[str, _Labelled]:
    """One sub-folder a breed, or splits that hold such sub-folders."""
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    split_dirs = [child for child in children if child.name.lower() in SPLIT_NAMES]
    if not split_dirs or len(split_dirs) != len(children):
        return {"train": _read_breed_folders(folder, folder)}
    splits: dict[str, _Labelled] = {}
    for child in split_dirs:
        name = SPLIT_NAMES[child.name.lower()]
        if name in splits:
            raise UserError(f"{str(folder)!r} has two folders for the {name} split: keep one of them")
        splits[name] = _read_breed_folders(child, folder)
    return splits


def _read_breed_folders(folder: Path, root: Path) -> _Labelled:
    paths: list[Path] = []
    texts: list[str] = []
    for breed_dir in sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")):
        # Every file is taken for a photo: one that is none is then left out with its name, not skipped in silence.
        photos = sorted(path for path in breed_dir.rglob("[!.]*") if path.is_file())
        paths += photos
        texts += [breed_dir.name] * len(photos)
    return [path.relative_to(root).as_posix() for path in paths], paths, texts


def _read_stanford(folder: Path) -> dict[str, _Labelled]:
    """Stanford's archives, extracted: Images/, and lists/ (or the lists beside Images/) with the official split."""
    from scipy.io import loadmat

    splits: dict[str, _Labelled] = {}
    for split in ("train", "test"):
        found = [
            path for path in (folder / "lists" / f"{split}_list.mat", folder / f"{split}_list.mat") if path.exists()
        ]
        if not found:
            continue
        try:
            files = [str(cell[0]) for cell in loadmat(found[0])["file_list"][:, 0]]
        except Exception as error:  # SciPy's reader and the indexing raise many kinds
            raise UserError(f"{str(found[0])!r} is damaged: {_first_line(error)}") from None
        splits[split] = (
            files,
            [folder / "Images" / file for file in files],
            [Path(file).parent.name for file in files],
        )
    if len(splits) == 1:
        missing = "test" if "train" in splits else "train"
        raise UserError(f"{str(folder)!r} has one of Stanford's two lists: {missing}_list.mat is missing in lists/")
    return splits or {"train": _read_breed_folders(folder / "Images", folder / "Images")}


def _read_with_datasets(data: str) -> dict[str, _Labelled]:
    """A Hub data set or a folder of Parquet files; the columns are found by the type of their feature."""
    import datasets  # only here, and without torch

    try:
        found = datasets.load_dataset(data)
    except Exception as error:  # the library, the Hub's client and the network each raise their own
        if Path(data).is_dir():
            raise UserError(f"the Parquet files in {data!r} can't be read: {_first_line(error)}") from None
        raise UserError(
            f"{data!r} is no folder here, and the Hugging Face Hub did not give a data set of that name "
            f"({_first_line(error)}): connect to the network, or give a folder of photos with --data"
        ) from None
    splits: dict[str, _Labelled] = {}
    for given, dataset in found.items():
        name = SPLIT_NAMES.get(str(given).lower(), "train" if len(found) == 1 else None)
        if name is None or name in splits:
            raise UserError(f"{data!r} has a split {given!r}: name the splits train, validation and test")
        splits[name] = _columns(dataset, data, name)
    return splits


def _columns(dataset: Any, data: str, split: str) -> _Labelled:
    import datasets

    images = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]
    strings = [
        name
        for name, feature in dataset.features.items()
        if isinstance(feature, datasets.Value) and "string" in feature.dtype
    ]
    if len(images) != 1 or len(labels) > 1:
        raise UserError(
            f"{data!r} must have one image column and one label column; it has "
            + ", ".join(f"{name} ({feature})" for name, feature in dataset.features.items())
        )
    if labels:
        feature = dataset.features[labels[0]]
        numbers = list(dataset[labels[0]])
        unlabelled = sum(number is None or number < 0 for number in numbers)
        if unlabelled:
            raise UserError(f"{unlabelled} of {len(numbers)} photos in {data!r}, {split}, have no label: remove them")
        texts = [feature.names[number] for number in numbers]
    else:
        columns = {name: list(dataset[name]) for name in strings}
        known = {breed.name for breed in all_breeds()}
        fitting = [
            name for name, values in columns.items() if values and all(label_name(v) in known for v in set(values))
        ]
        if len(fitting) != 1:
            raise UserError(f"{data!r} has no label column: a ClassLabel feature, or one text column of breed names")
        texts = columns[fitting[0]]
    ids = next((values for name in strings if len(set(values := list(dataset[name]))) == len(dataset)), None)
    sources = _ImageColumn(dataset.cast_column(images[0], datasets.Image(decode=False)), images[0])
    return ids or [f"{split}/{index}" for index in range(len(dataset))], sources, texts


class _ImageColumn(Sequence[Path | bytes]):
    """The undecoded images of a memory-mapped `datasets.Dataset`."""

    def __init__(self, dataset: Any, column: str) -> None:
        self._dataset = dataset.select_columns([column])
        assert self._dataset._indices is None, "rows of a part of a data set are not those of its table"
        self._column = column

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        # From the Arrow table: through the data set's own formatting it takes ten times as long.
        image = self._dataset.data.column(self._column)[int(index)].as_py()
        if image is None:
            return b""
        return image["bytes"] if image["bytes"] is not None else Path(image["path"])


class _Subset(Sequence[Path | bytes]):
    """Some of the photos of a column, in some order."""

    def __init__(self, sources: Sequence[Path | bytes], indices: np.ndarray) -> None:
        self._sources, self._indices = sources, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._sources[int(self._indices[index])]


def _only(photos: Photos, names: Sequence[str], data: str) -> Photos:
    """The photos of these classes, which become the classes."""
    for name in names:
        if name not in photos.names:
            raise UserError(f"{data!r} has no photos of the breed {name!r}")
    new_label = np.full(len(photos.names), -1)
    new_label[[photos.names.index(name) for name in names]] = np.arange(len(names))
    labels = new_label[photos.labels]
    return replace(photos.select(np.flatnonzero(labels >= 0)), labels=labels[labels >= 0], names=tuple(names))


@dataclass(frozen=True)
class _Checked:
    """What was found when every photo was decoded."""

    digests: dict[str, list[str]]
    """Of each split's photos. A file that can't be read has a name of its own here instead."""
    problems: dict[str, str]
    """By digest, what is wrong with a photo."""
    size_of: dict[str, tuple[int, int]]
    """By digest, width and height of a good photo, upright, as it was decoded."""
    preprocessing: Preprocessing
    cache: PixelCache | None


def _check(given: dict[str, Photos], config: TrainConfig, progress: bool) -> _Checked:
    """Decode every photo once, into the pixel cache or only to see whether it can be."""
    digests: dict[str, list[str]] = {}
    problems: dict[str, str] = {}
    sides = [config.preprocessing.image_size]
    for split, photos in given.items():
        digests[split] = []
        headers = _look_at_all(_read_header, photos.sources, f"reading {split} photos", progress)
        for index, (digest, longest_side, problem) in enumerate(headers):
            key = digest or f"unreadable {split} {index}"
            if problem:
                problems[key] = problem
            digests[split].append(key)
            sides.append(longest_side)
    view = kept_view(config, max(sides))
    readable = [
        (digest, photos.sources, index)
        for split, photos in given.items()
        for index, digest in enumerate(digests[split])
        if digest not in problems
    ]
    sources = _Picked([(column, index) for _, column, index in readable])
    good = [digest for digest, _, _ in readable]
    if config.data.cache == "on":
        cache = pixel_cache(config, view, sources, good, progress)
        size_of = {digest: tuple(cache.sizes[row].tolist()) for digest, row in cache.row_of.items()}
        return _Checked(digests, {**problems, **cache.problems}, size_of, view, cache)
    size_of = {}
    found_sizes = _look_at_all(lambda source: _size(source, view), sources, "decoding photos", progress)
    for digest, found in zip(good, found_sizes, strict=True):
        if isinstance(found, str):
            problems[digest] = found
        else:
            size_of[digest] = found
    return _Checked(digests, problems, size_of, view, None)


class _Picked(Sequence[Path | bytes]):
    """Photos of several splits, in some order; each is read when it is asked for."""

    def __init__(self, places: list[tuple[Sequence[Path | bytes], int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        column, place = self._places[index]
        return column[place]


def _read_header(source: Path | bytes) -> tuple[str, int, str | None]:
    """The digest of a photo's file, its longest side in pixels, and what is wrong with it so far or None."""
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        return "", 0, f"The file can't be read ({error.strerror})."
    digest = hashlib.sha256(content).hexdigest()
    try:
        return digest, max(image_size(content)), None
    except BadImage as error:
        return digest, 0, str(error)


def _size(source: Path | bytes, view: Preprocessing) -> tuple[int, int] | str:
    """The size of a photo, or why it can't be decoded."""
    try:
        return open_image(source, at_least=view.decoded_side).size
    except BadImage as error:
        return str(error)


def _look_at_all(
    function: Callable[[Path | bytes], Any], sources: Sequence[Path | bytes], what: str, progress: bool
) -> Iterator[Any]:
    """The function's answers for each photo, in order."""
    with tqdm(total=len(sources), desc=what, unit="photo", disable=not progress) as bar:
        for answer in on_all_cores(lambda index: function(sources[index]), range(len(sources)), NUM_AHEAD):
            bar.update()
            yield answer


def _cut(kept: dict[str, Photos], config: TrainConfig) -> dict[str, tuple[str, np.ndarray]]:
    """Decide which photos make up each split.

    Returns:
        For each split: the split of the data that it comes from, and the indices there.
    """
    rng = np.random.default_rng(config.run.seed)
    parts = {split: (split, np.arange(len(photos))) for split, photos in kept.items()}
    if config.data.images_per_breed is not None:
        numbers = _allot(kept, config.data.images_per_breed)
        for split, photos in kept.items():
            parts[split] = (split, _draw(photos, parts[split][1], rng, numbers=numbers[split])[0])
    for split, fraction in (("test", config.data.test_fraction), ("validation", config.data.validation_fraction)):
        if split in kept or fraction == 0:
            continue
        available = parts["train"][1]
        if split == "validation" and "test" in parts and "test" not in kept:
            fraction /= 1 - config.data.test_fraction  # both are shares of what there was before any cut
        held_out, left = _draw(kept["train"], available, rng, share=fraction)
        parts[split], parts["train"] = ("train", held_out), ("train", left)
    for split, (source, indices) in parts.items():
        for label, name in enumerate(kept["train"].names):
            if split != "train" and label in kept[source].labels[indices]:
                trained = label in kept["train"].labels[parts["train"][1]]
                if not trained:
                    raise UserError(f"{config.data.data!r} has too few photos of {name!r}: none is left to train on")
    return parts


def _allot(kept: dict[str, Photos], images_per_breed: int) -> dict[str, np.ndarray]:
    """How many photos of each class to take from each split: in proportion, and together no more than asked for."""
    num_classes = len(next(iter(kept.values())).names)
    sizes = np.array(
        [np.bincount(photos.labels, minlength=num_classes) for photos in kept.values()]
    )  # (splits, classes)
    exact = sizes * np.minimum(1.0, images_per_breed / sizes.sum(axis=0).clip(1))
    numbers = np.floor(exact).astype(int)
    for label in range(num_classes):
        missing = round(exact[:, label].sum()) - numbers[:, label].sum()
        largest_remainders = np.argsort(numbers[:, label] - exact[:, label], kind="stable")[:missing]
        numbers[largest_remainders, label] += 1
    return dict(zip(kept, numbers, strict=True))


def _draw(
    photos: Photos,
    among: np.ndarray,
    rng: np.random.Generator,
    *,
    numbers: np.ndarray | None = None,
    share: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw of each class `numbers[label]` photos, or a share and at least one: the indices drawn, and those left."""
    drawn, left = [], []
    for label in np.unique(photos.labels[among]):
        members = rng.permutation(among[photos.labels[among] == label])
        count = max(1, round(share * len(members))) if numbers is None else numbers[label]
        drawn.append(members[:count])
        left.append(members[count:])
    return np.sort(np.concatenate(drawn)), np.sort(np.concatenate(left))


def _hash_lines(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
