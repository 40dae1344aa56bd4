"""A Parquet file of the features of frozen backbones: a row for each photo, a column for each backbone.

Columns image_id, image_sha256, split and label, and for each backbone one of lists of D float32, which says of which
network and which view they are. What the file has is not computed again, whatever the split.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from dogbreeds.errors import UserError, first_line
from dogbreeds.files import atomic_write
from dogbreeds.training.datasets.splits import Splits

_KEY = b"dogbreeds.features"
"""Of a column's metadata: what its features are of."""
_SECONDS = b"dogbreeds.seconds"
"""What computing them took, by split, as JSON; columns of older versions have none."""


class FeatureFile:
    """The features that are known of the photos of a data set."""

    def __init__(self, path: Path, splits: Splits) -> None:
        """Open a file, or begin one.

        Args:
            path: The file, which is written by `add`.
            splits: The photos.

        Raises:
            UserError: The file is damaged, or holds the features of other photos.
        """
        self._path, self._splits = path, splits
        self._names = ["train", *splits.held_out]
        self._digests = np.concatenate([splits[split].digests for split in self._names])
        self._columns: dict[str, tuple[dict[bytes, bytes], np.ndarray]] = {}
        if path.exists():
            self._read()

    def find(self, backbone: str, key: str) -> dict[str, np.ndarray] | None:
        """The features `(N, D)` of each split; None where the file has none of this backbone with this key."""
        metadata, features = self._columns.get(backbone, ({}, None))
        if features is None or metadata[_KEY] != key.encode():
            return None
        ends = np.cumsum([len(self._splits[split]) for split in self._names])
        return dict(zip(self._names, np.split(features, ends[:-1]), strict=True))

    def seconds(self, backbone: str) -> dict[str, float]:
        """What computing the features of each split took, where that is known."""
        seconds: dict[str, float] = json.loads(self._columns[backbone][0].get(_SECONDS, b"{}"))
        return seconds

    def add(self, backbone: str, key: str, features: dict[str, np.ndarray], seconds: dict[str, float]) -> None:
        """Add a column, and write the file.

        Args:
            backbone: Its name, which becomes that of the column.
            key: What the features depend on.
            features: Of each split `(N, D)` float32.
            seconds: What computing them took, by split.

        Raises:
            UserError: The file can't be written.
        """
        metadata = {_KEY: key.encode(), _SECONDS: json.dumps(seconds).encode()}
        self._columns[backbone] = (metadata, np.concatenate([features[split] for split in self._names]))
        fields, columns = [], []
        for name, (metadata, values) in self._columns.items():
            flat = pyarrow.array(values.astype(np.float32).reshape(-1))
            columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1]))
            fields.append(pyarrow.field(name, columns[-1].type, metadata=metadata))
        photos = [self._splits[split] for split in self._names]
        facts = {
            "image_id": [id_ for each in photos for id_ in each.ids],
            "image_sha256": self._digests.tolist(),
            "split": np.repeat(self._names, [len(each) for each in photos]).tolist(),
            "label": [each.names[label] for each in photos for label in each.labels],
        }
        schema = pyarrow.schema([*(pyarrow.field(name, pyarrow.string()) for name in facts), *fields])
        table = pyarrow.Table.from_arrays([*map(pyarrow.array, facts.values()), *columns], schema=schema)
        try:
            with atomic_write(self._path) as temporary:
                pyarrow.parquet.write_table(table, temporary)
        except OSError as error:
            raise UserError(f"can't write {str(self._path)!r}: {error.strerror}: name another file") from None

    def _read(self) -> None:
        try:
            table = pyarrow.parquet.read_table(self._path)
            digests = np.array(table.column("image_sha256").to_pylist())
            columns = [field for field in table.schema if field.metadata and _KEY in field.metadata]
            found = {
                field.name: table.column(field.name).combine_chunks().flatten().to_numpy().reshape(len(digests), -1)
                for field in columns
            }
        except (OSError, KeyError, ValueError, AttributeError, pyarrow.ArrowException) as error:
            raise UserError(
                f"{str(self._path)!r} holds no features of this project, or is damaged ({first_line(error)}): "
                "remove it, or name another file"
            ) from None
        order = np.argsort(digests)
        if not np.array_equal(digests[order], np.sort(self._digests)):
            raise UserError(f"{str(self._path)!r} holds the features of other photos: remove it, or name another file")
        rows = order[np.searchsorted(digests[order], self._digests)]
        self._columns = {field.name: (field.metadata, found[field.name][rows]) for field in columns}
