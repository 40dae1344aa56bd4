"""Labelled photos, as a folder, Stanford's archives, Parquet files or the Hugging Face Hub store them."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from dogbreeds.addresses import Address, Place, place
from dogbreeds.breeds import all_breeds, label_name
from dogbreeds.errors import UserError, first_line
from dogbreeds.hub import announce
from dogbreeds.photo_paths import PhotoPaths, is_left_out, open_paths, valid_text, walk
from dogbreeds.photos import is_list

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The names of splits in data sets, and their names here."""


class TableRow(NamedTuple):
    """A photo in an Arrow table of the library `datasets`."""

    table: Any
    """`datasets.table.Table`. Unlike pyarrow's, one that is memory-mapped is pickled by its path, not by its content:
    so photos are sent to the worker processes of a `DataLoader`."""
    column: str
    row: int

    def read(self) -> Path | bytes:
        """The photo's file, or where it is; no bytes if the row has no image."""
        # Through the data set's own formatting (`dataset[row]`), this takes ten times as long.
        image = self.table.column(self.column)[self.row].as_py() or {"bytes": b""}
        return image["bytes"] if image["bytes"] is not None else Path(image["path"])


class PhotoSources(Sequence[Place | bytes]):
    """Where photos are, for `dogbreeds.images.open_image`; a photo in a table is read when it is accessed."""

    def __init__(self, places: Sequence[Place | TableRow]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        place = self.places[index]
        return place.read() if isinstance(place, TableRow) else place


@dataclass(frozen=True)
class Photos:
    """Labelled photos, not yet opened."""

    ids: tuple[str, ...]
    """The name of each photo in messages and tables: its path in the folder, or the data set's own id."""
    sources: PhotoSources
    labels: np.ndarray
    """`(N,)` int64: the index of each photo's class in `names`."""
    names: tuple[str, ...]
    """The name of each class, in the order of Stanford's labels."""

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Sequence[int] | np.ndarray) -> Self:
        """These photos, in this order, with the same classes."""
        index = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            sources=PhotoSources([self.sources.places[i] for i in index]),
            labels=self.labels[index],
        )

    def of_classes(self, names: Sequence[str]) -> Self:
        """The photos of these classes, labelled by the index in `names`."""
        new_label = np.full(len(self.names), -1)
        new_label[[self.names.index(name) for name in names]] = np.arange(len(names))
        photos = self.select(np.flatnonzero(new_label[self.labels] >= 0))
        return replace(photos, labels=new_label[photos.labels], names=tuple(names))


def read_dataset(data: str, *, option: str = "--data") -> dict[str, Photos]:
    """Find the photos and labels of a data set.

    Args:
        data: A folder (of Parquet files; with a sub-folder for each breed, or with train/, validation/ and test/ that
            hold them; or Stanford's extracted Images/ and lists/); an fsspec address of a folder with such sub-folders;
            a text, CSV or Parquet file of paths (`dogbreeds.photo_paths`), where a photo's folder or the column "label"
            is its breed; else the id of a data set on the Hugging Face Hub.
        option: What named it, for the person to check.

    Returns:
        The splits of the data: of "train", "validation" and "test" those that it has; data without splits is "train".
        All splits have the same classes, those that occur in any of them: first Stanford's in their order, then the
        others in alphabetical order.

    Raises:
        UserError: There is no such data, or it holds no labelled photos.
    """
    check_is_there(data, option=option)
    where, folder = place(data), Path(data)
    if isinstance(where, Address) or where.is_file():
        labelled = _read_paths(data)
    elif folder.is_dir():
        if (folder / "Images").is_dir():
            labelled = _read_stanford(folder)
        elif any(folder.rglob("*.parquet")):
            labelled = _read_with_datasets(data, option)
        else:
            labelled = _read_folders(folder)
    else:
        announce(data)
        labelled = _read_with_datasets(data, option)
    labelled = {split: photos for split, photos in labelled.items() if photos.ids}
    if not labelled:
        raise UserError(f"{data!r} holds no labelled photos: it needs one sub-folder of photos for each breed")
    return _with_common_classes(labelled, data)


def check_is_there(data: str, *, option: str = "--data") -> None:
    """Refuse data that can be on no machine; what is elsewhere is not asked for.

    Args:
        data: As for `read_dataset`.
        option: What named it, for the person to check.

    Raises:
        UserError: There is no such folder or list, and the name is none of a data set on the Hugging Face Hub.
    """
    where = place(data)
    if isinstance(where, Address) or where.is_dir() or is_list(where):
        return
    if where.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        raise UserError(f"there is no data folder {data!r}: check {option}")


class _Labelled(NamedTuple):
    """The photos of one split, with the labels as they are written in the data."""

    ids: Sequence[str]
    places: Sequence[Place | TableRow]
    texts: Sequence[str]


def _with_common_classes(labelled: dict[str, _Labelled], data: str) -> dict[str, Photos]:
    name_of = {text: label_name(text) for photos in labelled.values() for text in set(photos.texts)}
    if unwritable := next((text for text in name_of if valid_text(text) != text), None):
        raise UserError(
            f"{data!r} has a breed {unwritable!r}, which is no UTF-8: rename its folder, or save the list in UTF-8"
        )
    rank = {breed.name: index for index, breed in enumerate(all_breeds())}
    names = tuple(sorted(set(name_of.values()), key=lambda name: (rank.get(name, len(rank)), name)))
    label_of = {text: names.index(name) for text, name in name_of.items()}
    return {
        split: Photos(
            tuple(map(valid_text, photos.ids)),
            PhotoSources(photos.places),
            np.array([label_of[text] for text in photos.texts], dtype=np.int64),
            names,
        )
        for split, photos in labelled.items()
    }


def _read_folders(folder: Path) -> dict[str, _Labelled]:
    """Read one sub-folder for each breed, or a folder for each split that holds such sub-folders."""
    children = _folders_in(folder)
    if not _are_splits([child.name for child in children], folder):
        return {"train": _read_breed_folders(folder, folder)}
    splits: dict[str, _Labelled] = {}
    for child in children:
        split = SPLIT_NAMES[child.name.lower()]
        if split in splits:
            raise UserError(f"{str(folder)!r} has two folders for the {split} split: keep one of them")
        splits[split] = _read_breed_folders(child, folder)
    return splits


def _are_splits(names: Collection[str], data: object) -> bool:
    """Whether folders of these names hold the splits of the data, each with the folders of its breeds.

    Raises:
        UserError: Some do: the others would become breeds, beside "train" and "test".
    """
    splits = sorted(name for name in names if name.lower() in SPLIT_NAMES)
    if splits and (others := sorted(set(names) - set(splits))):
        raise UserError(
            f"{str(data)!r} has a folder {others[0]!r} beside {' and '.join(splits)}: move it elsewhere, or give the "
            "folders of the breeds alone"
        )
    return bool(splits)


def _read_breed_folders(folder: Path, root: Path) -> _Labelled:
    # Every other file counts as a photo: one that is not, or a broken link, is then left out by name, not in silence.
    paths = [breed / path for breed in _folders_in(folder) for path in walk(breed)]
    breeds = [path.relative_to(folder).parts[0] for path in paths]
    return _Labelled([path.relative_to(root).as_posix() for path in paths], paths, breeds)


def _folders_in(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and _holds_photos(child.name))


def _holds_photos(folder_name: str) -> bool:
    """Whether photos are looked for in a folder of this name: not in hidden ones, nor in what macOS packs beside."""
    return not folder_name.startswith((".", "__MACOSX"))


def _read_paths(data: str) -> dict[str, _Labelled]:
    """Read a folder at an address, or a list."""
    with open_paths(data) as photos:
        if not photos.is_list:
            return _read_listed_folders(photos, data)
        breed_of = photos.labelled()
        places = [photos.place(path) for path in breed_of]
    return {"train": _Labelled(list(breed_of), places, list(breed_of.values()))}


def _read_listed_folders(photos: PhotoPaths, data: str) -> dict[str, _Labelled]:
    """As `_read_folders`, from the paths of the files."""
    parts = [folders for folders in (path.split("/") for path in photos) if _holds_photos(folders[0])]
    has_splits = _are_splits({folders[0] for folders in parts if len(folders) > 1}, data)
    found: dict[str, list[tuple[str, str]]] = {}
    for split, *inside in parts if has_splits else (["train", *folders] for folders in parts):
        if len(inside) > 1 and not is_left_out(inside[-1]):
            path = "/".join([split, *inside] if has_splits else inside)
            found.setdefault(SPLIT_NAMES[split.lower()], []).append((path, inside[0]))
    return {
        split: _Labelled([path for path, _ in files], [photos.place(path) for path, _ in files], [b for _, b in files])
        for split, files in found.items()
    }


def _read_stanford(folder: Path) -> dict[str, _Labelled]:
    """Read Stanford's extracted archives: Images/, and the official split in lists/ or next to Images/."""
    from scipy.io import loadmat

    splits: dict[str, _Labelled] = {}
    for split in ("train", "test"):
        name = f"{split}_list.mat"
        path = next((path for path in (folder / "lists" / name, folder / name) if path.exists()), None)
        if path is None:
            continue
        try:
            files = [str(cell[0]) for cell in loadmat(path)["file_list"][:, 0]]
        except Exception as error:  # SciPy's reader and the indexing raise errors of many classes
            raise UserError(f"{str(path)!r} is damaged: {first_line(error)}") from None
        paths = [folder / "Images" / file for file in files]
        splits[split] = _Labelled(files, paths, [path.parent.name for path in paths])
    if len(splits) == 1:
        missing = "test" if "train" in splits else "train"
        raise UserError(f"{str(folder)!r} has one of Stanford's two lists: {missing}_list.mat is missing in lists/")
    return splits or {"train": _read_breed_folders(folder / "Images", folder / "Images")}


def _read_with_datasets(data: str, option: str) -> dict[str, _Labelled]:
    """Read a data set of the Hub or a folder of Parquet files."""
    import datasets  # takes a second to import, and a folder of photos does not need it

    try:
        loaded = datasets.load_dataset(data, trust_remote_code=False)
    except Exception as error:  # the library, the Hub's client and the network each raise their own
        if Path(data).is_dir():
            raise UserError(f"the Parquet files in {data!r} can't be read: {first_line(error)}") from None
        raise UserError(
            f"{data!r} is no folder here, and the Hugging Face Hub did not give a data set of that name "
            f"({first_line(error)}): connect to the network, or give a folder of photos with {option}"
        ) from None
    splits: dict[str, _Labelled] = {}
    for given, dataset in loaded.items():
        split = SPLIT_NAMES.get(str(given).lower(), "train" if len(loaded) == 1 else None)
        if split is None or split in splits:
            raise UserError(f"{data!r} has a split {given!r}: name the splits train, validation and test")
        splits[split] = _read_columns(dataset, data, split)
    return splits


def _read_columns(dataset: Any, data: str, split: str) -> _Labelled:
    """Find images, labels and ids by the types of the columns, whatever their names."""
    import datasets

    features = dataset.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    strings = {
        name: list(dataset[name])
        for name, feature in features.items()
        if isinstance(feature, datasets.Value) and "string" in feature.dtype
    }
    if len(images) != 1 or len(labels) > 1:
        columns = ", ".join(f"{name} ({feature})" for name, feature in features.items())
        raise UserError(f"{data!r} must have one image column and one label column; it has {columns}")
    if labels:
        numbers = list(dataset[labels[0]])
        unlabelled = sum(number is None or number < 0 for number in numbers)
        if unlabelled:
            raise UserError(f"{unlabelled} of {len(numbers)} photos in {data!r}, {split}, have no label: remove them")
        texts = features[labels[0]].int2str(numbers)
    else:
        breeds = {breed.name for breed in all_breeds()}
        fitting = [values for values in strings.values() if values and breeds.issuperset(map(label_name, set(values)))]
        if len(fitting) != 1:
            raise UserError(f"{data!r} has no label column: a ClassLabel feature, or one text column of breed names")
        texts = fitting[0]
    unique = (values for values in strings.values() if len(set(values)) == len(dataset))
    ids = next(unique, [f"{split}/{row}" for row in range(len(dataset))])
    # A selection of a data set keeps the whole table, so its rows have other numbers; `load_dataset` selects nothing.
    assert dataset.data.num_rows == len(dataset), (dataset.data.num_rows, len(dataset))
    return _Labelled(ids, [TableRow(dataset.data, images[0], row) for row in range(len(dataset))], texts)
