"""Where the photos behind a run's predictions are, for those who have them."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from dogbreeds.errors import UserError
from dogbreeds.run_folder import RunFolder
from dogbreeds.training.data import Photos, read_dataset


class PhotoFinder:
    """Finds photos by the ids in a predictions file, and makes sure that they are the photos that were judged."""

    def __init__(self, data: str | None) -> None:
        """Look through a data set.

        Args:
            data: As for `dogbreeds.training.data.read_dataset`; None for no photos.

        Raises:
            UserError: There is no such data.
        """
        self.data = data
        self._where: dict[str, tuple[Photos, int]] = {}
        if data is not None:
            for photos in read_dataset(data).values():
                self._where |= {id_: (photos, index) for index, id_ in enumerate(photos.ids)}

    @classmethod
    def for_runs(cls, runs: Sequence[RunFolder], data: str | None) -> "PhotoFinder":
        """For the data that is named, or the runs' own where that is a folder here; "" for no photos.

        Raises:
            UserError: There is no such data.
        """
        if data is None:
            named = str(runs[0].record["config"]["data"])
            data = named if Path(named).is_dir() else None
            if data is None:
                print(
                    f"note: the report shows no photos, for {named!r} is no folder here: name it with --photos",
                    file=sys.stderr,
                )
        return cls(data or None)

    def __bool__(self) -> bool:
        return bool(self._where)

    def find(self, id_: str, digest: str) -> bytes | None:
        """The file of the photo of this id, or None where the data does not have it or has another under that name.

        Args:
            id_: As in the predictions file.
            digest: The SHA-256 of the photo's file, likewise.

        Raises:
            UserError: The file can't be read.
        """
        if id_ not in self._where:
            return None
        photos, index = self._where[id_]
        source = photos.sources[index]
        try:
            content = source if isinstance(source, bytes) else source.read_bytes()
        except OSError as error:
            raise UserError(f"the photo {str(source)!r} can't be read ({error.strerror})") from None
        return content if hashlib.sha256(content).hexdigest() == digest else None
