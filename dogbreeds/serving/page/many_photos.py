"""Many uploaded photos -> one row each, a few at a time."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dogbreeds.answers import Answer
from dogbreeds.images import BadImage, open_image
from dogbreeds.machine import on_all_cores
from dogbreeds.serving.page.cards import thumbnail
from dogbreeds.serving.page.texts import ENGLISH
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.rows import answer_cells, columns, write_csv

MAX_FILES = 500
"""Files that the page takes at a time; `python -m dogbreeds index` takes any number."""
BATCH_SIZE = 8
"""Photos that are answered between two looks at the page."""

NUM_BREEDS = 3
"""Breeds that a row names."""


@dataclass(frozen=True)
class Row:
    """What became of one file."""

    file: str
    """Its name where it came from, without the folder, which browsers don't tell."""
    thumbnail: str
    """An `<img>`, or nothing where the file could not be read."""
    answer: Answer | None
    error: BadImage | None
    """Why there is no answer."""


def answer_many(predictor: Predictor, files: Sequence[tuple[str, Path]]) -> Iterator[list[Row]]:
    """Answer uploads, `BATCH_SIZE` rows at a time and in their order; all are deleted, even where nobody waits.

    Args:
        predictor: The model that answers.
        files: Of each upload its name and where it lies.
    """
    view = predictor.run.preprocessing

    def load(file: tuple[str, Path]) -> tuple[Row, np.ndarray | None]:
        name, path = file
        try:
            photo = open_image(path, at_least=view.decoded_side)
        except BadImage as error:
            return Row(name, "", None, error), None
        return Row(name, thumbnail(photo), None, None), view(photo)

    with _taken_away(files) as mine:
        loaded = on_all_cores(load, mine, 2 * BATCH_SIZE)
        while batch := list(islice(loaded, BATCH_SIZE)):
            views = [pixels for _, pixels in batch if pixels is not None]
            answers = iter(predictor.answers(predictor.logits(np.stack(views)), top_k=NUM_BREEDS) if views else [])
            yield [
                row if pixels is None else Row(row.file, row.thumbnail, next(answers), None) for row, pixels in batch
            ]


@contextmanager
def _taken_away(files: Sequence[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    """The files in a folder of their own, and nowhere else, until they are deleted.

    gradio keeps files of the same content and name in one place, whoever sent them, so they may not be deleted there
    one by one.
    """
    with TemporaryDirectory(dir=files[0][1].parent.parent) as folder:
        mine = [(name, Path(folder) / str(number)) for number, (name, _) in enumerate(files)]
        for (_, sent), (_, path) in zip(files, mine, strict=True):
            with suppress(FileNotFoundError):  # told when it is opened
                os.link(sent, path)
        for _, sent in files:
            sent.unlink(missing_ok=True)
        yield mine


def to_csv(rows: Sequence[Row]) -> bytes:
    """The rows as a CSV file in UTF-8, with the mark by which spreadsheets know that, safe against formulas."""
    text = io.StringIO(newline="")
    write_csv(text, (_cells(row) for row in rows), ["file", *columns(NUM_BREEDS)[1:]])
    return text.getvalue().encode("utf-8-sig", "backslashreplace")


def _cells(row: Row) -> dict[str, str | float]:
    cells: dict[str, str | float] = {"file": row.file}
    if row.error:
        cells["error"] = ENGLISH.problem(row.error)
    if row.answer:
        cells |= answer_cells(row.answer)
    return cells
