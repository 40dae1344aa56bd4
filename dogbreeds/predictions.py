"""A model's answers to labelled photos, photo by photo: the file from which every figure can be checked."""

import hashlib
import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dogbreeds import metrics
from dogbreeds.errors import UserError, first_line
from dogbreeds.files import write_csv

_NOT_BREEDS = ("image_id", "image_sha256", "label")
_TEMPERATURE = b"temperature"
"""In the metadata of the file."""


@dataclass(frozen=True)
class Predictions:
    """The calibrated probabilities of N photos, one row each in the file, which has one column for each of C breeds."""

    ids: tuple[str, ...]
    """Each photo's name for people: its path in the data set, or the data set's own id."""
    digests: tuple[str, ...]
    """The SHA-256 of each photo's file, in hexadecimal, which identifies the photo whatever its name."""
    labels: np.ndarray
    """`(N,)` int64: the index of each photo's breed in `names`."""
    names: tuple[str, ...]
    """The C breeds, in the order of the model's logits."""
    probabilities: np.ndarray
    """`(N, C)`, calibrated; each row sums to 1."""
    temperature: float | None = None
    """By which the logits were divided; the run's may be another since. None in files of older versions."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def predicted(self) -> np.ndarray:
        """`(N,)`: the most probable breed of each photo."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self) -> np.ndarray:
        """`(N,)` bool: whether `predicted` is the label."""
        return self.predicted == self.labels

    @property
    def photos_hash(self) -> str:
        """The SHA-256 of the contents and labels of the photos, whatever their order and names."""
        named = zip(self.digests, self.labels, strict=True)
        lines = sorted(f"{digest} {self.names[label]}" for digest, label in named)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def logits(self, temperature: float) -> np.ndarray:
        """The logits `(N, C)` behind the probabilities, less a constant for each photo.

        Args:
            temperature: Of the run, which an older file is taken to be of.
        """
        return np.log(self.probabilities.clip(1e-37)) * (self.temperature or temperature)

    def uncalibrated(self, temperature: float) -> np.ndarray:
        """`(N, C)`: the softmax of the logits, computed back from the calibrated probabilities.

        Args:
            temperature: As for `logits`.
        """
        # Probabilities below 1e-38 are 0 in float32, and so here.
        ratios = self.probabilities / self.probabilities.max(axis=1, keepdims=True)
        powers = ratios ** (self.temperature or temperature)
        return powers / powers.sum(axis=1, keepdims=True)

    def select(self, indices: np.ndarray) -> "Predictions":
        """The photos with these indices, in this order."""
        return Predictions(
            tuple(self.ids[i] for i in indices),
            tuple(self.digests[i] for i in indices),
            self.labels[indices],
            self.names,
            self.probabilities[indices],
            self.temperature,
        )

    def reordered(self, names: tuple[str, ...]) -> "Predictions":
        """The same with the breeds in another order."""
        place = np.array([names.index(name) for name in self.names])
        columns = np.argsort(place)
        probabilities = self.probabilities[:, columns]
        return Predictions(self.ids, self.digests, place[self.labels], names, probabilities, self.temperature)

    def write_tables(self, folder: Path, suffix: str = "") -> None:
        """Write each breed's figures and both confusion matrices as CSV, a row for each true breed.

        Args:
            folder: Where breeds.csv, confusion-counts.csv and confusion-probabilities.csv go.
            suffix: Added to those names: "-test" gives breeds-test.csv.
        """
        breeds = metrics.breed_figures(self.probabilities, self.labels, self.names)
        header = ["breed", "n", "recall", "precision", "mean_probability"]
        header += [f"mistaken_for_{k}{what}" for k in (1, 2, 3) for what in ("", "_count", "_probability")]
        rows: list[list[Any]] = []
        for breed in breeds:
            mistaken = [value for other in breed.mistaken_for for value in astuple(other)]
            row = [breed.breed, breed.n, breed.recall, breed.precision, breed.mean_probability, *mistaken]
            rows.append(row + [""] * (len(header) - len(row)))  # with two breeds there is one other
        write_csv(folder / f"breeds{suffix}.csv", [header, *rows])
        for form, matrix in (
            ("counts", metrics.confusion_counts(self.probabilities, self.labels)),
            ("probabilities", metrics.confusion_probabilities(self.probabilities, self.labels)),
        ):
            cells = [["" if value != value else value for value in row] for row in matrix.tolist()]
            rows = [[name, *row] for name, row in zip(self.names, cells, strict=True)]
            write_csv(folder / f"confusion-{form}{suffix}.csv", [["labelled", *self.names], *rows])

    def save(self, path: Path) -> None:
        """Write a Parquet file: image_id, image_sha256, label, and the breeds' probabilities as float32."""
        import pyarrow  # takes a while to import, which predict does without
        import pyarrow.parquet

        columns: dict[str, Any] = {
            "image_id": list(self.ids),
            "image_sha256": list(self.digests),
            "label": [self.names[label] for label in self.labels],
        }
        columns |= {name: self.probabilities[:, i].astype(np.float32) for i, name in enumerate(self.names)}
        table = pyarrow.table(columns)
        if self.temperature is not None:
            table = table.replace_schema_metadata({_TEMPERATURE: repr(self.temperature)})
        pyarrow.parquet.write_table(table, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Predictions":
        """Read what `save` wrote, with the rounded rows normalised to sum to 1.

        Raises:
            UserError: The file is missing, damaged, or holds something else.
        """
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(path)
            if "image_id" in table.column_names and "image_sha256" not in table.column_names:
                raise UserError(f"{str(path)!r} was written by an older version: evaluate the run again with --data")
            ids, digests, label_names = (table.column(name).to_pylist() for name in _NOT_BREEDS)
            names = tuple(name for name in table.column_names if name not in _NOT_BREEDS)
            probabilities = np.column_stack([table.column(name).to_numpy() for name in names]).astype(np.float64)
            labels = np.array([names.index(name) for name in label_names], dtype=np.int64)
            stored = (table.schema.metadata or {}).get(_TEMPERATURE)
            temperature = None if stored is None else float(stored)
        except FileNotFoundError:
            raise UserError(f"there is no file {str(path)!r}") from None
        except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
            raise UserError(
                f"{str(path)!r} holds no predictions of this project, or is damaged: {first_line(error)}"
            ) from None
        sums = probabilities.sum(axis=1, keepdims=True)
        if not len(ids) or not np.isfinite(sums).all() or np.abs(sums - 1).max() > 1e-3:
            raise UserError(f"{str(path)!r} is damaged: its rows are no probabilities")
        if temperature is not None and not 0 < temperature < np.inf:
            raise UserError(f"{str(path)!r} is damaged: its temperature is {temperature}")
        return cls(tuple(ids), tuple(digests), labels, names, probabilities / sums, temperature)
