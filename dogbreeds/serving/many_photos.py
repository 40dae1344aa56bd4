"""Many uploaded photos -> one row each, a few at a time."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from dogbreeds.answers import Answer
from dogbreeds.images import BadImage, open_image
from dogbreeds.machine import on_all_cores
from dogbreeds.serving.cards import thumbnail
from dogbreeds.serving.library import write_csv
from dogbreeds.serving.predictor import Predictor

MAX_FILES = 500
"""Files that the page takes at a time; `python -m dogbreeds index` takes any number."""
BATCH_SIZE = 8
"""Photos that are answered between two looks at the page."""

NUM_BREEDS = 3
"""Breeds that a row names."""

_PLACES = ["", *(f"_{place}" for place in range(2, NUM_BREEDS + 1))]
_CANDIDATES = (f"{name}{place}" for place in _PLACES for name in ("breed", "probability"))
COLUMNS = ("file", "verdict", *_CANDIDATES, "group", "error")
"""Of the table that is downloaded."""


@dataclass(frozen=True)
class Row:
    """What became of one file."""

    file: str
    """Its name where it came from."""
    thumbnail: str
    """An `<img>`, or nothing where the file could not be read."""
    answer: Answer | None
    error: BadImage | None
    """Why there is no answer."""


def answer_many(predictor: Predictor, files: Sequence[tuple[str, Path]]) -> Iterator[list[Row]]:
    """Answer uploads, `BATCH_SIZE` rows at a time and in their order; each file is deleted once it is read.

    Args:
        predictor: The model that answers.
        files: Of each upload its name and where it lies.
    """
    view = predictor.run.view

    def load(file: tuple[str, Path]) -> tuple[Row, np.ndarray | None]:
        name, path = file
        try:
            photo = open_image(path, at_least=view.decoded_side)
        except BadImage as error:
            return Row(name, "", None, error), None
        finally:
            path.unlink(missing_ok=True)
        return Row(name, thumbnail(photo), None, None), view(photo)

    loaded = on_all_cores(load, files, 2 * BATCH_SIZE)
    while batch := list(islice(loaded, BATCH_SIZE)):
        views = [pixels for _, pixels in batch if pixels is not None]
        answers = iter(predictor.answers(predictor.logits(np.stack(views)), top_k=NUM_BREEDS) if views else [])
        yield [row if pixels is None else Row(row.file, row.thumbnail, next(answers), None) for row, pixels in batch]


def to_csv(rows: Sequence[Row]) -> bytes:
    """The rows as a CSV file in UTF-8, with the mark by which spreadsheets know that, safe against formulas."""
    text = io.StringIO(newline="")
    write_csv(text, (_cells(row) for row in rows), COLUMNS)
    return text.getvalue().encode("utf-8-sig", "backslashreplace")


def _cells(row: Row) -> dict[str, str | float]:
    cells: dict[str, str | float] = {"file": row.file}
    if row.error:
        cells["error"] = str(row.error)
    if row.answer:
        cells["verdict"] = row.answer.verdict
        cells["group"] = row.answer.group or ""
        for place, each in zip(_PLACES, row.answer.breeds, strict=False):
            cells[f"breed{place}"], cells[f"probability{place}"] = each.breed, each.probability
    return cells
