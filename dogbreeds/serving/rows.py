"""Photos -> rows of a table -> CSV or Parquet."""

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from PIL import Image

from dogbreeds.addresses import Place
from dogbreeds.answers import Answer
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import batches, read_ahead, read_photo
from dogbreeds.serving.predictor import Predictor

if TYPE_CHECKING:
    import pyarrow

UNREADABLE = "unreadable"
"""Counted in place of a verdict for a file that could not be read."""

ROW_GROUP = 10_000
"""Rows of a Parquet table that are in memory at a time."""

ORIGIN = "dogbreeds"
"""The key of a Parquet file's metadata that says what made the table, as JSON."""

FEATURES = "features"
"""The column of embeddings: what the network's classifier gets, float16. In a row they are bytes, little-endian."""

_FORMULA = re.compile(r"[\t\r\n]|[\s\0\u200b\ufeff]*[=+\-@]")
"""What a spreadsheet would run as a formula (https://owasp.org/www-community/attacks/CSV_Injection): it may skip space,
and what can't be seen, before the sign."""

Row = dict[str, Any]
"""By column; columns without a value are left out."""


@dataclass(frozen=True)
class Summary:
    """What is in a table, in a few numbers."""

    counts: Counter[str]
    """How many files got each verdict, and how many are `UNREADABLE`."""
    num_probably_right: int | None
    """Of the breeds that are named, confident or not, about how many are right; None where the run does not tell, and
    of listed breeds."""
    is_of_listed: bool = False
    """Whether only listed breeds came into question. How many answers are right is fitted for all breeds alone."""

    def to_dict(self) -> dict[str, Any]:
        """For the metadata of the table; see `from_dict`."""
        return {"counts": self.counts, "probably_right": self.num_probably_right}

    @classmethod
    def from_dict(cls, origin: Mapping[str, Any]) -> "Summary":
        """Read the metadata of a table. Older versions wrote counts alone, or an estimate for listed breeds too."""
        is_of_listed = bool(origin.get("only_breeds"))
        return cls(Counter(origin["counts"]), None if is_of_listed else origin.get("probably_right"), is_of_listed)

    def __add__(self, other: "Summary") -> "Summary":
        """That of both tables together."""
        known = [each.num_probably_right for each in (self, other) if each.num_probably_right is not None]
        return Summary(self.counts + other.counts, sum(known) if len(known) == 2 else None, self.is_of_listed)


def columns(top_k: int, embeddings: bool = False) -> list[str]:
    """The columns of a table whose rows name this many breeds, and perhaps hold embeddings."""
    candidates = [f"{name}{suffix}" for suffix in _rank_suffixes(top_k) for name in ("breed", "probability")]
    return ["path", "verdict", *candidates, "group", "error", *([FEATURES] if embeddings else [])]


def _rank_suffixes(top_k: int) -> list[str]:
    """What the column names of each candidate end in."""
    return ["", *(f"_{rank}" for rank in range(2, top_k + 1))]


def answer_columns(answer: Answer | BadImage) -> Row:
    """The columns of a row that say what the answer is, or why there is none; probabilities have 4 decimals.

    A dog of an unknown breed has the breeds that it resembles, without probabilities.
    """
    if isinstance(answer, BadImage):
        return {"error": str(answer)}
    cells: Row = {"verdict": answer.verdict, **({"group": answer.group} if answer.group else {})}
    for suffix, candidate in zip(_rank_suffixes(len(answer.breeds)), answer.breeds, strict=True):
        cells[f"breed{suffix}"] = candidate.breed
        if answer.verdict != "unknown_breed":
            cells[f"probability{suffix}"] = round(candidate.probability, 4)
    return cells


def classify(predictor: Predictor, photos: Mapping[str, Place], *, top_k: int, embeddings: bool = False) -> list[Row]:
    """Classify photos in one forward pass; those that are not on this machine are fetched at the same time.

    Args:
        predictor: The model that answers.
        photos: By the text for the column "path", where each photo is.
        top_k: How many breeds to name, at least 1 and no more than the run knows.
        embeddings: Add `FEATURES`, which the model must give.

    Returns:
        A row for each photo, in order. A photo that can't be read has an "error" in place of an answer.

    Raises:
        UserError: An address can't be reached, or an embedding does not fit into float16.
    """
    open_photo = partial(open_image, at_least=predictor.run.preprocessing.decoded_side)
    fetched = read_ahead(list(photos.values()))
    opened = [source if isinstance(source, BadImage) else read_photo(source, open_photo) for source in fetched]
    images = [image for image in opened if not isinstance(image, BadImage)]
    answered = iter(_answered(predictor, images, top_k, embeddings) if images else ())
    return [
        {"path": path, **(answer_columns(image) if isinstance(image, BadImage) else next(answered))}
        for path, image in zip(photos, opened, strict=True)
    ]


def _answered(predictor: Predictor, images: Sequence[Image.Image], top_k: int, embeddings: bool) -> list[Row]:
    """The columns of photos that could be opened."""
    outputs = predictor.outputs(images)
    found = [answer_columns(each) for each in predictor.answers(outputs, top_k)]
    if embeddings:
        assert outputs.features is not None
        if np.abs(outputs.features).max() > np.finfo(np.float16).max:
            raise UserError(f"the features of {predictor.run.name!r} are too large for float16: leave --embeddings out")
        for row, features in zip(found, outputs.features, strict=True):
            row[FEATURES] = features.astype("<f2").tobytes()
    return found


def write_table(
    path: Path, rows: Iterable[Row], columns: Sequence[str], suffix: str, origin: Mapping[str, Any]
) -> None:
    """Write a table.

    Args:
        path: The file to write.
        rows: Their paths may be no valid text.
        columns: Those to write.
        suffix: ".parquet" or ".csv", whatever the path ends in.
        origin: What made the table, as values for JSON; Parquet keeps it.
    """
    # Neither format can hold a path that is no valid text: its bytes are shown instead.
    shown = ({**row, "path": row["path"].encode("utf-8", "backslashreplace").decode("utf-8")} for row in rows)
    if suffix == ".parquet":
        _write_parquet(path, shown, schema(columns, origin))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            write_csv(file, shown, columns)


def write_csv(file: TextIO, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write a table of answers that no spreadsheet runs as a formula.

    Args:
        file: Opened with ``newline=""``.
        rows: Each with some of the columns: text, or numbers, which are written with 4 decimals.
        columns: The header.
    """
    file.writelines(csv_records(rows, columns))


def csv_records(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    """What `write_csv` writes: first the header, then the record of each row, with its line end."""
    line = io.StringIO(newline="")
    # All text is quoted: by default the module does not quote a name with a carriage return.
    writer = csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for cells in chain([columns], ([_csv_cell(row.get(column, "")) for column in columns] for row in rows)):
        writer.writerow(cells)
        yield line.getvalue()
        line.seek(line.truncate(0))


def _csv_cell(value: str | float) -> str | Decimal:
    if isinstance(value, float):
        return Decimal(f"{value:.4f}")
    # NFKC makes full-width and small signs ordinary ones, which some spreadsheets do as well.
    return "'" + value if _FORMULA.match(unicodedata.normalize("NFKC", value)) else value


def schema(columns: Sequence[str], origin: Mapping[str, Any]) -> "pyarrow.Schema":
    """The schema of a Parquet table with these columns.

    Args:
        columns: Those of the table.
        origin: What made it, for the metadata of the file. With `FEATURES`, its "embeddings" is how many numbers each
            photo has.
    """
    import pyarrow

    types = {name: pyarrow.float32() if name.startswith("probability") else pyarrow.string() for name in columns}
    if FEATURES in types:
        types[FEATURES] = pyarrow.list_(pyarrow.float16(), origin["embeddings"])
    return pyarrow.schema(types, {ORIGIN: json.dumps(origin)})


def _write_parquet(path: Path, rows: Iterable[Row], schema: "pyarrow.Schema") -> None:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for group in batches(rows, ROW_GROUP):
            writer.write_table(_arrow_table(group, schema))


def _arrow_table(rows: Sequence[Row], schema: "pyarrow.Schema") -> "pyarrow.Table":
    import pyarrow

    index = schema.get_field_index(FEATURES)
    if index < 0:
        return pyarrow.Table.from_pylist(rows, schema)
    kind = schema.field(index).type
    nothing = bytes(2 * kind.list_size)
    numbers = np.frombuffer(b"".join(row.get(FEATURES, nothing) for row in rows), "<f2")
    missing = pyarrow.array([FEATURES not in row for row in rows], pyarrow.bool_())
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(numbers), type=kind, mask=missing)
    return pyarrow.Table.from_pylist(rows, schema.remove(index)).add_column(index, schema.field(index), vectors)
