"""Finds the photos behind a run's predictions, where they are on this machine."""

import os
import sys
from collections.abc import Sequence

from dogbreeds.errors import UserError
from dogbreeds.photos import photo_digest, read_bytes, read_photo
from dogbreeds.run_folder import RunFolder
from dogbreeds.training.datasets.sources import Photos, read_dataset


class PhotoFinder:
    """Finds photos by the ids in a predictions file, and checks by their digests that they are the same photos."""

    def __init__(self, data: str | None) -> None:
        """Read the ids of a data set.

        Args:
            data: As for `dogbreeds.training.datasets.sources.read_dataset`; None for no photos.

        Raises:
            UserError: There is no such data.
        """
        self.data = data
        self._where: dict[str, list[tuple[Photos, int]]] = {}  # two splits may use the same id
        if data is not None:
            for photos in read_dataset(data).values():
                for index, id_ in enumerate(photos.ids):
                    self._where.setdefault(id_, []).append((photos, index))

    @classmethod
    def for_runs(cls, runs: Sequence[RunFolder], data: str | None) -> "PhotoFinder":
        """A finder for `data`, or for the data that a run was trained on where that is a folder here.

        Raises:
            UserError: There is no such data.
        """
        if data is not None:
            return cls(data)
        named = list(dict.fromkeys(str(run.record.config["data"]) for run in runs))
        for folder in filter(os.path.isdir, named):
            try:
                return cls(folder)
            except UserError:  # something else stands there now
                continue
        print(
            f"note: the report shows no photos; give the place of those of {named[0]!r} with --photos", file=sys.stderr
        )
        return cls(None)

    def __bool__(self) -> bool:
        return self.data is not None

    def find(self, id_: str, digest: str) -> bytes | None:
        """The file of a photo, or None where the data has no photo of this id with this content.

        Args:
            id_: As in the predictions file.
            digest: The SHA-256 of the photo's file, likewise.
        """
        for photos, index in self._where.get(id_, []):
            content = read_photo(photos.sources[index], read_bytes)
            if isinstance(content, bytes) and photo_digest(content) == digest:
                return content
        return None
