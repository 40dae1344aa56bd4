"""Finds faults of a data set: photos that can't be read or mislead, duplicates, breeds with few photos."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from dogbreeds.addresses import Place
from dogbreeds.images import FORMATS, BadImage, open_header, open_image
from dogbreeds.photos import photo_digest, read_bytes, read_photos
from dogbreeds.training.datasets.cropped_copies import find_cropped_copies
from dogbreeds.training.datasets.diagnosis import Diagnosis, Finding, Photo
from dogbreeds.training.datasets.near_duplicates import DECODED_SIDE, join_groups, near_duplicates, shrunk, sketch
from dogbreeds.training.datasets.sources import read_dataset

if TYPE_CHECKING:
    from dogbreeds.training.labelled_features import LabelledFeatures

_MAX_BLANK = 4
"""Levels of grey by which the parts of a blank photo may differ, as those of a lens cap or an empty scan."""
_MAX_TINT = 3
"""Levels by which the channels of a photo without colour may differ, because of lossy compression."""


@dataclass(frozen=True)
class _PhotoFacts:
    """What is known of one photo."""

    faults: dict[str, str]
    """The detail of each fault, by kind."""
    digest: str = ""
    """The SHA-256 of the file; empty if it can't be read."""
    is_grey: bool = False
    sketch: np.ndarray | None = None
    """Of `dogbreeds.training.datasets.near_duplicates`; None if the photo can't be decoded."""

    @property
    def shows_nothing(self) -> bool:
        """It can't be decoded, or is blank: there is no dog that its label could be wrong of."""
        return self.sketch is None or "blank" in self.faults


def examine(data: str, *, image_size: int = 224, labels_by: str | None = None, progress: bool = False) -> Diagnosis:
    """Find the faults of a data set, in each photo and between photos.

    Near duplicates are found if they differ in size, format or compression, or one is mirrored; not if one is turned,
    and only with `labels_by` if one is cropped.

    Args:
        data: As for `dogbreeds.training.datasets.sources.read_dataset`.
        image_size: Sides of what the model sees, pixels.
        labels_by: A backbone, as `--model`, by whose features labels are suspected and cropped copies are found.
        progress: Show a progress bar.

    Raises:
        UserError: There is no such data, or it holds no labelled photos; or the backbone is unknown.
    """
    splits = read_dataset(data)
    features = _features(data, labels_by, image_size, progress) if labels_by else None
    named = [
        Photo(split, id_, photos.names[label])
        for split, photos in splits.items()
        for id_, label in zip(photos.ids, photos.labels, strict=True)
    ]
    sources = chain.from_iterable(photos.sources for photos in splits.values())
    stream = read_photos(zip(sources, named, strict=True), lambda item: _facts(*item, image_size))
    facts = [
        _PhotoFacts({"unreadable": str(each)}) if isinstance(each, BadImage) else each
        for each in tqdm(stream, total=len(named), unit="photo", disable=not progress)
    ]
    findings = [
        Finding(kind, (photo,), detail)
        for photo, each in zip(named, facts, strict=True)
        for kind, detail in each.faults.items()
    ]
    num_of_breed = dict(Counter(photo.breed for photo in named))
    median = float(np.median(list(num_of_breed.values())))
    findings += [
        Finding("few_photos", (), f"{breed}: {count:,}; the median breed has {median:,.0f}")
        for breed, count in num_of_breed.items()
        if count < median / 2
    ]
    duplicates = list(_duplicates(named, facts))
    findings += duplicates
    if features:
        clear = {photo for photo, each in zip(named, facts, strict=True) if not each.shows_nothing}
        findings += _found_by(features, named, clear, duplicates, progress)
    readable = [each for each in facts if each.sketch is not None]
    return Diagnosis(
        num_photos={split: len(photos) for split, photos in splits.items()},
        num_of_breed=num_of_breed,
        share_grey=sum(each.is_grey for each in readable) / max(1, len(readable)),
        findings=tuple(findings),
    )


def _features(data: str, model: str, image_size: int, progress: bool) -> "LabelledFeatures | None":
    from dogbreeds.training.labelled_features import LabelledFeatures  # imports torch, which nothing else here needs

    return LabelledFeatures.compute(data, model, image_size, progress=progress)


def _found_by(
    features: "LabelledFeatures", named: list[Photo], clear: set[Photo], duplicates: list[Finding], progress: bool
) -> Iterator[Finding]:
    """The faults that a backbone's features tell of; labels are learned from clear photos, and suspected of them."""
    from dogbreeds.training.label_suspects import find_suspects  # imports scikit-learn

    named_of = {(photo.split, photo.id): photo for photo in named}
    photo_of = [named_of[name] for name in zip(features.splits, features.ids, strict=True)]
    group_of = {photo: number for number, group in enumerate(duplicates) for photo in group.photos}
    pairs = find_cropped_copies(features.sources, features.features, progress=progress)
    for whole, part in pairs:
        photos = [photo_of[whole], photo_of[part]]
        if group_of.get(photos[0], -1) != group_of.get(photos[1], -2):  # the same photo, hardly cropped
            group = _group("cropped", photos)
            how = "the second is a part of the first"
            yield replace(group, detail=f"{group.detail}; {how}" if group.detail else how)
    features = replace(features, groups=join_groups(features.groups, pairs))
    for index, likely in find_suspects(features, [photo in clear for photo in photo_of]):
        yield Finding("suspect_label", (photo_of[index],), f"it looks like {likely}")


def _facts(source: Place | bytes, named: Photo, image_size: int) -> _PhotoFacts:
    """Examine one photo.

    Raises:
        BadImage: The file can't be read.
    """
    content = read_bytes(source)
    digest = photo_digest(content)
    try:
        header = open_header(content)
        photo = open_image(content, at_least=DECODED_SIDE)
    except BadImage as error:
        return _PhotoFacts({"cut_short" if error.problem == "cut_short" else "unreadable": str(error)}, digest)
    faults = {}
    format = "JPEG" if header.format == "MPO" else header.format  # many phones name these .jpg
    if _format_of_ending().get(PurePath(named.id).suffix.lower(), format) != format:
        faults["wrong_ending"] = f"it is {format}"
    if bad_exif := _bad_exif(header):
        faults["bad_exif"] = bad_exif
    if header.format not in ("MPO", "HEIF") and getattr(header, "is_animated", False):
        faults["animated"] = f"{getattr(header, 'n_frames', 2)} pictures"
    if min(header.size) < image_size:
        faults["tiny"] = f"{header.width} x {header.height} pixels"
    picture = sketch(photo)
    if np.ptp(picture) <= _MAX_BLANK:
        faults["blank"] = f"all of it has a brightness of about {picture.mean():.0f} of 255"
    is_grey = np.ptp(np.asarray(shrunk(photo)), axis=2).max() <= _MAX_TINT
    return _PhotoFacts(faults, digest, bool(is_grey), picture)


@cache
def _format_of_ending() -> dict[str, str]:
    # Pillow knows the endings of HEIF only when pillow-heif has opened a photo.
    known = {ending: format for ending, format in Image.registered_extensions().items() if format in FORMATS}
    return {**known, ".mpo": "JPEG", **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF")}


def _bad_exif(header: Image.Image) -> str:
    """What is wrong with the photo's EXIF; empty if nothing is."""
    try:
        exif = header.getexif()
        orientation = exif.get(0x0112, 1)
    except Exception:  # Pillow's reader raises errors of many classes
        return "it can't be read"
    if header.info.get("exif", b"").removeprefix(b"Exif\0\0") and not exif:
        return "it can't be read"
    return "" if orientation in range(1, 9) else f"orientation {orientation!r}"


def _duplicates(named: list[Photo], facts: list[_PhotoFacts]) -> Iterator[Finding]:
    """Photos that occur more than once: first equal files, then different files that look the same."""
    same: dict[str, list[int]] = {}
    for number, each in enumerate(facts):
        if each.digest:
            same.setdefault(each.digest, []).append(number)
    for numbers in same.values():
        if len(numbers) > 1:
            yield _group("same", [named[number] for number in numbers])
    sketched = [(numbers, sketch) for numbers in same.values() if (sketch := facts[numbers[0]].sketch) is not None]
    if not sketched:
        return
    different = [numbers for numbers, _ in sketched]
    for members in near_duplicates(np.stack([sketch for _, sketch in sketched]), mirrored=True):
        yield _group("alike", [named[number] for member in members for number in different[member]])


def _group(kind: str, photos: list[Photo]) -> Finding:
    """The most serious finding about photos that are the same or alike."""
    if len({photo.breed for photo in photos}) > 1:
        breeds = ", ".join(sorted({photo.breed for photo in photos}))
        return Finding(f"{kind}_in_two_breeds", tuple(photos), breeds)
    return Finding(f"{kind}_in_two_splits" if len({p.split for p in photos}) > 1 else kind, tuple(photos))
