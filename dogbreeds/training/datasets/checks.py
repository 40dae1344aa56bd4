"""Every photo of a data set is decoded once; those that can't be, and copies, are left out."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
from tqdm import tqdm

from dogbreeds.addresses import Place
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, image_size, open_image
from dogbreeds.model_card import EVERYDAY
from dogbreeds.photos import photo_digest, read_bytes, read_photos
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.datasets.near_duplicates import find_near_duplicates, join_groups
from dogbreeds.training.datasets.pixel_cache import PixelCache, open_pixel_cache
from dogbreeds.training.datasets.sources import Photos, PhotoSources
from dogbreeds.training.options import DataOptions, TrainConfig

MAX_UNREADABLE = 0.01
"""Largest share of photos that may be unreadable. With more of them, there is a fault in the data as a whole."""

WHOLE_PHOTO_SCALE = 8 / 7
"""Random views are cut from whole photos, stored at up to this many times the image size: 256 pixels for 224."""

SPLITS = ("test", "validation", "train", EVERYDAY)
"""The split that comes first here keeps a photo that occurs in several."""

Size = tuple[int, int]
"""Width and height of a photo, upright, in pixels."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class CheckedPhotos(Photos):
    """Photos that can be decoded, no two with the same content."""

    digests: np.ndarray
    """`(N,)`: the SHA-256 of each photo's file, in hexadecimal."""
    sizes: np.ndarray
    """`(N, 2)` int: width and height of each decoded photo, upright, in pixels."""
    groups: np.ndarray
    """`(N,)` int: photos that look the same (`dogbreeds.training.datasets.near_duplicates`), or are known to show the
    same, have the same number, all others have one of their own."""

    def select(self, indices: Sequence[int] | np.ndarray) -> Self:
        """These photos, in this order, with the same classes."""
        index = np.asarray(indices, dtype=np.int64)
        return replace(
            super().select(index), digests=self.digests[index], sizes=self.sizes[index], groups=self.groups[index]
        )


@dataclass(frozen=True)
class LeftOut:
    """A photo that is not used, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class CheckedData:
    """The result of `check_photos`."""

    splits: dict[str, CheckedPhotos]
    """Sorted by content, so that what follows does not depend on the order in which a disk lists its files."""
    left_out: tuple[LeftOut, ...]
    stored_preprocessing: Preprocessing
    """See `stored_preprocessing`."""
    cache: PixelCache | None
    """The pixels of all photos; None if they are decoded in every epoch."""


def check_photos(
    splits: dict[str, Photos],
    config: TrainConfig,
    *,
    same_photos: Sequence[Sequence[tuple[str, str]]] = (),
    max_unreadable: float = MAX_UNREADABLE,
    progress: bool = True,
) -> CheckedData:
    """Decode every photo once, into the pixel cache or only to see whether it can be decoded.

    Of photos with the same content, the first one by split (see `SPLITS`) and id is used.

    Args:
        splits: The photos, in the splits of the data.
        config: The run's options; of these, the ones about data, preprocessing and random views are used.
        same_photos: Groups of photos that are known to show the same, each photo by its split and id.
        max_unreadable: The largest share of photos that may be unreadable.
        progress: Show progress bars.

    Raises:
        UserError: More than `max_unreadable` of the photos can't be decoded, or there is no room for the pixel cache.
    """
    present = [split for split in SPLITS if split in splits]
    photos = concatenated([splits[split] for split in present])
    split_of = np.repeat(np.arange(len(present)), [len(splits[split]) for split in present])

    digests, problems, longest_side = _read_headers(photos.sources, progress)
    preprocessing = config.preprocessing.build()
    stored = stored_preprocessing(preprocessing, config.random_views, max(longest_side, preprocessing.size))
    readable = [index for index, digest in enumerate(digests) if digest not in problems]
    sources, wanted = photos.select(readable).sources, [digests[index] for index in readable]
    sizes, cache = _decode(sources, wanted, stored, config.data, progress)
    sizes |= problems

    order = sorted(range(len(photos)), key=lambda i: (split_of[i], digests[i], photos.ids[i]))
    unreadable = [LeftOut(photos.ids[i], str(sizes[digests[i]])) for i in order if isinstance(sizes[digests[i]], str)]
    if len(unreadable) > max_unreadable * len(photos):
        examples = "; ".join(f"{photo.id}: {photo.reason}" for photo in unreadable[:3])
        raise UserError(
            f"{len(unreadable)} of {len(photos)} photos in {config.data.data!r} can't be read, more than "
            f"{max_unreadable:.0%}: mend or remove them ({examples} ...)"
        )
    used: dict[str, int] = {}
    copies: list[LeftOut] = []
    for index in order:
        digest = digests[index]
        if digest in used:
            copies.append(LeftOut(photos.ids[index], f"the same photo as {photos.ids[used[digest]]}"))
        elif not isinstance(sizes[digest], str):
            used[digest] = index

    kept = np.array(list(used.values()), dtype=np.int64)
    used_sizes = np.array([sizes[digest] for digest in used], dtype=np.int64).reshape(-1, 2)
    selected, kept_digests = photos.select(kept), list(used)
    groups = _look_alikes(selected.sources, kept_digests, cache, config.data, progress)
    if same_photos:
        groups = _joined(groups, [(present[split_of[index]], photos.ids[index]) for index in kept], same_photos)
    checked = CheckedPhotos(**vars(selected), digests=np.array(kept_digests), sizes=used_sizes, groups=groups)
    parts = {split: checked.select(np.flatnonzero(split_of[kept] == index)) for index, split in enumerate(present)}
    return CheckedData(parts, (*unreadable, *copies), stored, cache)


def _look_alikes(
    sources: PhotoSources, digests: list[str], cache: PixelCache | None, options: DataOptions, progress: bool
) -> np.ndarray:
    """See `CheckedPhotos.groups`; with `--near-duplicates ignore` every photo has a group of its own."""
    groups = np.arange(len(digests))
    if options.near_duplicates == "ignore":
        return groups

    def find() -> list[list[str]]:
        return find_near_duplicates(sources, digests, progress=progress)

    return _joined(groups, digests, cache.near_duplicates(find) if cache else find())


def _joined(groups: np.ndarray, names: Sequence[Hashable], same: Iterable[Sequence[Hashable]]) -> np.ndarray:
    """The groups after those of photos that are the same, by their names, are joined; names may be of other photos."""
    index_of = {name: index for index, name in enumerate(names)}
    present = [[index_of[name] for name in group if name in index_of] for group in same]
    pairs = [(first, other) for first, *others in filter(None, present) for other in others]
    return join_groups(groups, pairs)


def stored_preprocessing(preprocessing: Preprocessing, random_views: bool, longest_side: int) -> Preprocessing:
    """The preprocessing whose result training stores of each photo.

    It is that of evaluation, or for random views the whole photo, squashed to a square. The steps in 8 bits (grey,
    equalised, blurred) are part of both: random views are cut from a photo that was equalised or blurred as a whole,
    while evaluation crops first.

    Args:
        preprocessing: What the model sees in evaluation.
        random_views: Whether it is trained on random views.
        longest_side: The largest width or height of all photos, in pixels: none is stored larger than that.
    """
    if not random_views:
        return preprocessing
    return replace(preprocessing, size=min(round(preprocessing.size * WHOLE_PHOTO_SCALE), longest_side), fit="squash")


def concatenated(parts: list[Photos]) -> Photos:
    """The photos of several splits of a data set, one split after the other."""
    return Photos(
        tuple(id_ for part in parts for id_ in part.ids),
        PhotoSources([place for part in parts for place in part.sources.places]),
        np.concatenate([part.labels for part in parts]),
        parts[0].names,
    )


def _read_headers(sources: PhotoSources, progress: bool) -> tuple[list[str], dict[str, Size | str], int]:
    """Read the files without decoding them.

    Returns:
        The digest of each photo, or a unique text for a file that is no photo; for these texts, what is wrong; and the
        longest side of all photos, in pixels.
    """

    def read(source: Place | bytes) -> tuple[str, int]:
        content = read_bytes(source)
        return photo_digest(content), max(image_size(content))

    headers = enumerate(_read_all(sources, read, "reading photos", progress))
    known = [(f"unreadable {i}", 0, header) if isinstance(header, str) else (*header, "") for i, header in headers]
    problems: dict[str, Size | str] = {digest: problem for digest, _, problem in known if problem}
    return [digest for digest, _, _ in known], problems, max(side for _, side, _ in known)


def _decode(
    sources: PhotoSources, digests: list[str], stored: Preprocessing, options: DataOptions, progress: bool
) -> tuple[dict[str, Size | str], PixelCache | None]:
    """The size of each photo, or why it can't be decoded, by digest; and the pixel cache if there is one."""
    if options.cache == "on":
        cache = open_pixel_cache(stored, sources, digests, options, progress=progress)
        rows = zip(cache.row_of, cache.sizes.tolist(), strict=True)
        sizes = {digest: (width, height) for digest, (width, height) in rows}
        return {**sizes, **cache.problems}, cache

    def size(source: Place | bytes) -> Size:
        return open_image(source, at_least=stored.decoded_side).size

    return dict(zip(digests, _read_all(sources, size, "decoding photos", progress), strict=True)), None


def _read_all(
    sources: PhotoSources, read: Callable[[Place | bytes], Result], description: str, progress: bool
) -> Iterator[Result | str]:
    """The result for each photo, or why it can't be read."""
    # By index, so that the threads read the photos of a table too, not only the paths.
    results = read_photos(range(len(sources)), lambda index: read(sources[index]))
    for result in tqdm(results, description, len(sources), unit="photo", disable=not progress):
        yield str(result) if isinstance(result, BadImage) else result
