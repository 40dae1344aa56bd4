"""What a model said of labelled photos, photo by photo: the file that every figure can be checked from."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dogbreeds.errors import UserError

_NOT_BREEDS = ("image_id", "image_sha256", "label")


@dataclass(frozen=True)
class Predictions:
    """The calibrated probabilities of N photos, one row each in the file, which has one column for each of C breeds."""

    ids: tuple[str, ...]
    """What names each photo to a person: its path in the data set, or the data set's own id."""
    digests: tuple[str, ...]
    """The SHA-256 of each photo's file, in hexadecimal: what is the same photo, whatever its name."""
    labels: np.ndarray
    """`(N,)` int64: the index of each photo's breed in `names`."""
    names: tuple[str, ...]
    """The C breeds, in the order of the model's logits."""
    probabilities: np.ndarray
    """`(N, C)`, calibrated, rows summing to 1."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def predicted(self) -> np.ndarray:
        """`(N,)`: the most probable breed of each photo."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self) -> np.ndarray:
        """`(N,)` bool: whether that is the label."""
        return self.predicted == self.labels

    def uncalibrated(self, temperature: float) -> np.ndarray:
        """`(N, C)`: the softmax of the logits, which are known but for a constant from the calibrated probabilities.

        Args:
            temperature: What the logits were divided by.
        """
        powers = (self.probabilities / self.probabilities.max(axis=1, keepdims=True)) ** temperature
        return powers / powers.sum(axis=1, keepdims=True)

    def select(self, indices: np.ndarray) -> "Predictions":
        """These photos, in this order."""
        return Predictions(
            tuple(self.ids[i] for i in indices),
            tuple(self.digests[i] for i in indices),
            self.labels[indices],
            self.names,
            self.probabilities[indices],
        )

    def save(self, path: Path) -> None:
        """Write a Parquet file: image_id, image_sha256, label, and the breeds' probabilities as float32."""
        import pyarrow  # takes a while to import, which predict must not pay
        import pyarrow.parquet

        columns: dict[str, Any] = {
            "image_id": list(self.ids),
            "image_sha256": list(self.digests),
            "label": [self.names[label] for label in self.labels],
        }
        columns |= {name: self.probabilities[:, i].astype(np.float32) for i, name in enumerate(self.names)}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Predictions":
        """Read what `save` wrote; float32 rows are made to sum to 1 again.

        Raises:
            UserError: The file is missing, damaged, or holds something else.
        """
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(path)
            ids, digests, label_names = (table.column(name).to_pylist() for name in _NOT_BREEDS)
            names = tuple(name for name in table.column_names if name not in _NOT_BREEDS)
            probabilities = np.column_stack([table.column(name).to_numpy() for name in names]).astype(np.float64)
            labels = np.array([names.index(name) for name in label_names], dtype=np.int64)
        except FileNotFoundError:
            raise UserError(f"there is no file {str(path)!r}") from None
        except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{str(path)!r} holds no predictions of this project, or is damaged: {reason}") from None
        sums = probabilities.sum(axis=1, keepdims=True)
        if not len(ids) or not np.isfinite(sums).all() or np.abs(sums - 1).max() > 1e-3:
            raise UserError(f"{str(path)!r} is damaged: its rows are no probabilities")
        return cls(tuple(ids), tuple(digests), labels, names, probabilities / sums)
