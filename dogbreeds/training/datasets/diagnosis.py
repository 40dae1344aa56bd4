"""What is wrong with the photos of a data set, and the report of it, a JSON file."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from dogbreeds.errors import UserError
from dogbreeds.files import write_json

KINDS = {
    "unreadable": "can't be read: mend or remove them",
    "cut_short": "are cut short: get another copy",
    "wrong_ending": "are in another format than their name says: rename them",
    "bad_exif": "have EXIF that can't be read or turns them to no known side: look whether they are upright",
    "animated": "are films or have several pages, of which the first is used: cut out the one that shows the dog",
    "blank": "show one colour and nothing else: remove them",
    "tiny": "are smaller than what the model sees: get larger copies",
    "few_photos": "breeds have less than half of the median breed's photos: add some",
    "same_in_two_breeds": "photos are in two breeds: keep the right one",
    "same_in_two_splits": "photos are in two splits: keep the one for testing",
    "same": "photos occur more than once: keep one of each",
    "alike_in_two_breeds": "groups of near duplicates are in two breeds: keep the right one",
    "alike_in_two_splits": "groups of near duplicates are in two splits: keep the one for testing",
    "alike": "groups are near duplicates: keep one of each",
    "cropped_in_two_breeds": "photos are cut out of one of another breed: keep the right breed's",
    "cropped_in_two_splits": "photos are cut out of one of another split: keep the one for testing",
    "cropped": "photos are cut out of another one: keep the whole one",
    "suspect_label": "labels are probably wrong, the surest first: look at these photos",
}
"""What may be wrong, and the remedy; printed after the number of cases."""

_SAME_PHOTO = ("same", "alike", "cropped")
"""The kinds that begin so are of photos that show the same."""

NUM_EXAMPLES = 3
"""Findings of each kind that are printed; the JSON file has all."""


@dataclass(frozen=True)
class Photo:
    """The names of a photo of the data set."""

    split: str
    id: str
    breed: str

    def __str__(self) -> str:
        return self.id if self.id.startswith(f"{self.split}/") else f"{self.split}: {self.id}"


@dataclass(frozen=True)
class Finding:
    """One fault."""

    kind: str
    """One of `KINDS`."""
    photos: tuple[Photo, ...]
    """The photo, or all that are the same or alike; empty for a breed with few photos."""
    detail: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that is wrong with a data set."""

    num_photos: dict[str, int]
    """By split."""
    num_of_breed: dict[str, int]
    share_grey: float
    """The share without colour of the photos that can be read; it is not a fault."""
    findings: tuple[Finding, ...]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: There is no such file, or it is no report of `doctor`.
        """
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"can't read the report of faults {str(path)!r} ({error.strerror})") from None
        except ValidationError:
            raise UserError(f"{str(path)!r} is no report of faults: python -m dogbreeds doctor writes one") from None

    @property
    def same_photos(self) -> list[list[tuple[str, str]]]:
        """Split and id of each photo of each group that shows the same: equal, alike, or cut out of one another."""
        return [
            [(photo.split, photo.id) for photo in finding.photos]
            for finding in self.findings
            if finding.kind.startswith(_SAME_PHOTO)
        ]

    def save(self, path: Path) -> None:
        """Write every finding with every photo as JSON.

        Raises:
            UserError: The file can't be written.
        """
        try:
            write_json(path, asdict(self))
        except OSError as error:
            raise UserError(f"can't write {str(path)!r} ({error.strerror}): give another --output") from None

    def __str__(self) -> str:
        """Counts and examples, in lines of text."""
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
