"""What is wrong with a data set: photos that can't be read or mislead, photos that occur twice, breeds with few."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, open_header, open_image
from dogbreeds.machine import on_all_cores
from dogbreeds.training.datasets.sources import read_dataset

KINDS = {
    "unreadable": "can't be read: mend or remove them",
    "cut_short": "are cut short: get another copy",
    "wrong_ending": "are in another format than their name says: rename them",
    "bad_exif": "have EXIF that can't be read or turns them to no known side: look whether they are upright",
    "animated": "are films or have several pages, of which the first is used: cut out the one that shows the dog",
    "tiny": "are smaller than what the model sees: get larger copies",
    "few_photos": "breeds have less than half of the median breed's photos: add some",
    "same_in_two_breeds": "photos are in two breeds: keep the right one",
    "same_in_two_splits": "photos are in two splits: keep the one for testing",
    "same": "photos occur more than once: keep one of each",
    "alike_in_two_breeds": "groups of near duplicates are in two breeds: keep the right one",
    "alike_in_two_splits": "groups of near duplicates are in two splits: keep the one for testing",
    "alike": "groups are near duplicates: keep one of each",
}
"""What may be wrong, and the remedy, after the number of cases."""

NUM_EXAMPLES = 3
"""Of each kind that are printed; the JSON has all."""

FORMAT_OF_ENDING = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), "PPM"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".avif": "AVIF",
}

_SKETCH_SIDE = 9
_MAX_BITS = 8
"""Near duplicates differ in at most so many of the 128 bits that say where a photo gets brighter."""
_MAX_LEVELS = 10.0
"""And by at most so many of 255 levels, in the mean over their sketches."""
_MAX_TINT = 3
"""Levels by which the channels of a photo without colour may differ: what a coder does to grey."""


@dataclass(frozen=True)
class Photo:
    """A photo of the data set, as people name it."""

    split: str
    id: str
    breed: str

    def __str__(self) -> str:
        return self.id if self.id.startswith(f"{self.split}/") else f"{self.split}: {self.id}"


@dataclass(frozen=True)
class Finding:
    """Something to mend."""

    kind: str
    """One of `KINDS`."""
    photos: tuple[Photo, ...]
    """The photo, or all that are the same or alike; none where a breed has few."""
    detail: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that was found."""

    num_photos: dict[str, int]
    """By split."""
    num_of_breed: dict[str, int]
    share_grey: float
    """Of the photos that can be read, those without colour; nothing to mend."""
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Every finding with every photo, for programs."""
        return {
            "num_photos": self.num_photos,
            "num_of_breed": self.num_of_breed,
            "share_grey": self.share_grey,
            "findings": [
                {"kind": each.kind, "detail": each.detail, "photos": [vars(photo) for photo in each.photos]}
                for each in self.findings
            ],
        }

    def __str__(self) -> str:
        """Counts and examples, for people."""
        splits = ", ".join(f"{count:,} {split}" for split, count in self.num_photos.items())
        fewest, most = min(self.num_of_breed.values()), max(self.num_of_breed.values())
        lines = [
            f"{sum(self.num_photos.values()):,} photos ({splits}) of {len(self.num_of_breed)} breeds, "
            f"{fewest:,} to {most:,} of each; {self.share_grey:.1%} without colour"
        ]
        for kind, meaning in KINDS.items():
            found = [finding for finding in self.findings if finding.kind == kind]
            if found:
                lines.append(f"{len(found):>6,} {meaning}")
                lines += [f"         {_example(finding)}" for finding in found[:NUM_EXAMPLES]]
                if len(found) > NUM_EXAMPLES:
                    lines.append("         ...")
        return "\n".join(lines if self.findings else [*lines, "nothing to mend"])


def _example(finding: Finding) -> str:
    named = " = ".join(str(photo) for photo in finding.photos[:4])
    more = f" and {len(finding.photos) - 4} more" if len(finding.photos) > 4 else ""
    return f"{named}{more}" + (f" ({finding.detail})" if finding.photos and finding.detail else finding.detail)


@dataclass(frozen=True)
class _Seen:
    """One photo, looked at."""

    faults: dict[str, str]
    """By kind, the detail."""
    digest: str = ""
    """Of the file; empty where it can't be read."""
    is_grey: bool = False
    sketch: np.ndarray | None = None
    """`(_SKETCH_SIDE, _SKETCH_SIDE)` uint8, grey; None where the photo can't be decoded."""


def examine(data: str, *, image_size: int = 224, progress: bool = False) -> Diagnosis:
    """Look at every photo of a data set.

    Near duplicates are found whatever their size, format and compression, not mirrored, turned or cut.

    Args:
        data: As for `dogbreeds.training.datasets.sources.read_dataset`.
        image_size: Sides of what the model sees, pixels.
        progress: Show a progress bar.

    Raises:
        UserError: There is no such data, or it holds no labelled photos.
    """
    splits = read_dataset(data)
    named = [
        Photo(split, id_, photos.names[label])
        for split, photos in splits.items()
        for id_, label in zip(photos.ids, photos.labels, strict=True)
    ]
    places = [(photos.sources, index) for photos in splits.values() for index in range(len(photos))]

    def look(number: int) -> _Seen:
        sources, index = places[number]
        return _look(sources[index], named[number].id, image_size)

    looked = on_all_cores(look, range(len(places)), num_ahead=64)
    seen = list(tqdm(looked, total=len(places), unit="photo", disable=not progress))
    findings = [
        Finding(kind, (photo,), detail)
        for photo, each in zip(named, seen, strict=True)
        for kind, detail in each.faults.items()
    ]
    num_of_breed = dict(Counter(photo.breed for photo in named))
    median = float(np.median(list(num_of_breed.values())))
    findings += [
        Finding("few_photos", (), f"{breed}: {count:,}; the median breed has {median:,.0f}")
        for breed, count in num_of_breed.items()
        if count < median / 2
    ]
    findings += _repeated(named, seen)
    readable = [each for each in seen if each.sketch is not None]
    return Diagnosis(
        num_photos={split: len(photos) for split, photos in splits.items()},
        num_of_breed=num_of_breed,
        share_grey=sum(each.is_grey for each in readable) / max(1, len(readable)),
        findings=tuple(findings),
    )


def write_json(diagnosis: Diagnosis, path: Path) -> None:
    """Write all that was found.

    Raises:
        UserError: The file can't be written.
    """
    try:
        path.write_text(json.dumps(diagnosis.to_dict(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write {str(path)!r} ({error.strerror}): give another --output") from None


def _look(source: Path | bytes, name: str, image_size: int) -> _Seen:
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        return _Seen({"unreadable": f"The file can't be read ({error.strerror})."})
    digest = hashlib.sha256(content).hexdigest()
    try:
        header = open_header(content)
        photo = open_image(content, at_least=4 * _SKETCH_SIDE)
    except BadImage as error:
        return _Seen({"cut_short" if error.problem == "cut_short" else "unreadable": str(error)}, digest)
    faults = {}
    format = "JPEG" if header.format == "MPO" else header.format  # what many phones call .jpg
    if FORMAT_OF_ENDING.get(PurePath(name).suffix.lower(), format) != format:
        faults["wrong_ending"] = f"it is {format}"
    if bad_exif := _bad_exif(header):
        faults["bad_exif"] = bad_exif
    if header.format not in ("MPO", "HEIF") and getattr(header, "is_animated", False):
        faults["animated"] = f"{getattr(header, 'n_frames', 2)} pictures"
    if min(header.size) < image_size:
        faults["tiny"] = f"{header.width} x {header.height} pixels"
    small = photo.resize((_SKETCH_SIDE, _SKETCH_SIDE), Image.Resampling.BOX)
    is_grey = np.ptp(np.asarray(small), axis=2).max() <= _MAX_TINT
    return _Seen(faults, digest, bool(is_grey), np.asarray(small.convert("L")))


def _bad_exif(header: Image.Image) -> str:
    """What is wrong with the facts that a photo brings, or nothing."""
    try:
        exif = header.getexif()
        orientation = exif.get(0x0112, 1)
    except Exception:  # Pillow's reader raises what it likes
        return "it can't be read"
    if header.info.get("exif", b"").removeprefix(b"Exif\0\0") and not exif:
        return "it can't be read"
    return "" if orientation in range(1, 9) else f"orientation {orientation!r}"


def _repeated(named: list[Photo], seen: list[_Seen]) -> Iterator[Finding]:
    """Photos that are there twice: the same file, and then what looks the same among different files."""
    same: dict[str, list[int]] = {}
    for number, each in enumerate(seen):
        if each.digest:
            same.setdefault(each.digest, []).append(number)
    for numbers in same.values():
        if len(numbers) > 1:
            yield _group("same", [named[number] for number in numbers])
    sketched = [(numbers, sketch) for numbers in same.values() if (sketch := seen[numbers[0]].sketch) is not None]
    if not sketched:
        return
    different = [numbers for numbers, _ in sketched]
    for members in near_duplicates(np.stack([sketch for _, sketch in sketched])):
        yield _group("alike", [named[number] for member in members for number in different[member]])


def _group(kind: str, photos: list[Photo]) -> Finding:
    """The worst that can be said of photos that are the same or alike."""
    if len({photo.breed for photo in photos}) > 1:
        breeds = ", ".join(sorted({photo.breed for photo in photos}))
        return Finding(f"{kind}_in_two_breeds", tuple(photos), breeds)
    return Finding(f"{kind}_in_two_splits" if len({p.split for p in photos}) > 1 else kind, tuple(photos))


def near_duplicates(sketches: np.ndarray) -> list[np.ndarray]:
    """Find pictures that look the same.

    Args:
        sketches: `(N, side, side)` uint8: each picture scaled down to a few grey pixels.

    Returns:
        For each group of two or more its indices, ascending.
    """
    levels = sketches.astype(np.int16)
    across, down = np.diff(levels, axis=2)[:, :-1] > 0, np.diff(levels, axis=1)[:, :, :-1] > 0
    bits = np.concatenate([across.reshape(len(levels), -1), down.reshape(len(levels), -1)], axis=1)
    group = np.arange(len(levels))  # of each, the first of those that it is alike to
    # Two that differ in no more than _MAX_BITS bits agree in all bits of at least one of _MAX_BITS + 1 bands.
    for band in np.array_split(np.arange(bits.shape[1]), _MAX_BITS + 1):
        keys = bits[:, band] @ (1 << np.arange(len(band)))
        order = np.argsort(keys, kind="stable")
        for step in range(1, len(order)):  # neighbours, then those two apart, until no bucket is as large as that
            first, second = order[:-step], order[step:]
            in_one_bucket = keys[first] == keys[second]
            if not in_one_bucket.any():
                break
            new = in_one_bucket & (group[first] != group[second])
            first, second = first[new], second[new]
            close = (bits[first] != bits[second]).sum(axis=1) <= _MAX_BITS
            first, second = first[close], second[close]
            close = np.abs(levels[first] - levels[second]).mean(axis=(1, 2)) <= _MAX_LEVELS
            if close.any():
                group = _joined(group, first[close], second[close])
    order = np.argsort(group, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [members for members in groups if len(members) > 1]


def _joined(group: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The groups after these pairs have become one each."""
    size = len(group)
    ends = np.concatenate([np.arange(size), first]), np.concatenate([group, second])
    _, labels = connected_components(coo_array((np.ones(len(ends[0]), np.int8), ends), (size, size)), directed=False)
    _, first_of_label = np.unique(labels, return_index=True)
    return first_of_label[labels]
