"""The photos of a table whose embeddings are nearest to those of a photo: lost dogs, duplicates.

The table is one of `index --embeddings`. FAISS (https://arxiv.org/abs/2401.08281) searches it through an index, a file
beside the table that is made once: all photos in lists around centres, of which the lists nearest to a photo are read.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import faiss
import numpy as np
from tqdm import tqdm

from dogbreeds.addresses import Address, Place, reason
from dogbreeds.errors import UserError, report
from dogbreeds.files import atomic_write
from dogbreeds.machine import num_cores
from dogbreeds.run_folder import RunFolder, serving_files
from dogbreeds.serving.library import index_of_embeddings
from dogbreeds.serving.parquet import open_table, origin_of, row_batches
from dogbreeds.serving.rows import FEATURES, UNREADABLE

EXACT_UP_TO = 20_000
"""Of no more photos than these, every one is compared: that takes some milliseconds."""
SAMPLE_PER_LIST = 64
"""Photos for each list that its centre is fitted on; FAISS asks for 39 or more."""
SEARCHED_SHARE = 1 / 32
"""Of the lists, those that are searched; see tests/benchmarks/similar.py."""

FORMAT = 1
"""Increased when an index of an older version must be made anew."""


@dataclass(frozen=True)
class SimilarPhoto:
    """A photo of the table."""

    path: str
    """As in the table."""
    similarity: float
    """The cosine of the angle between the embeddings: 1 for the same photo."""


class SimilarPhotos:
    """The photos of a table, to be found by their embeddings."""

    def __init__(self, table: Place, run: RunFolder, *, progress: bool = True) -> None:
        """Open the index of a table, or make it if there is none or the table has changed since.

        Args:
            table: A Parquet table of `index --embeddings`, on this machine.
            run: The run that will find the embeddings of other photos, the same that the table was made with.
            progress: Show a progress bar while the index is made.

        Raises:
            UserError: The table is missing, damaged, at an address, without embeddings, or of another model; the index
                is damaged or can't be written.
        """
        num_photos = _num_photos(table, run)
        assert isinstance(table, Path)
        self._table = table
        path, stamp = index_of_embeddings(table), _stamp(table)
        if not _is_of(path, stamp):
            _make(path, table, num_photos, stamp, progress)
        try:
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError:  # its message has no words for a person
            raise UserError(f"the index {str(path)!r} is damaged: remove it, and it is made again") from None
        if isinstance(self._index, faiss.IndexIVF):
            self._index.nprobe = max(1, round(SEARCHED_SHARE * self._index.nlist))

    def nearest(self, features: np.ndarray, top_k: int) -> list[list[SimilarPhoto]]:
        """For each embedding `(N, D)`, the `top_k` nearest photos, the nearest first; all where the table has fewer."""
        similarities, rows = self._index.search(_normalized(features), top_k)
        paths = self._paths(set(rows.ravel().tolist()) - {-1})
        return [
            [
                SimilarPhoto(paths[row], similarity)
                for row, similarity in zip(*found, strict=True)
                if row >= 0  # else there are no more
            ]
            for found in zip(rows.tolist(), similarities.tolist(), strict=True)
        ]

    def _paths(self, rows: set[int]) -> dict[int, str]:
        """The paths of rows; of the table, no more is read than the groups that these are in."""
        paths: dict[int, str] = {}
        with open_table(self._table) as file:
            first = 0
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if inside := [row for row in rows if first <= row < end]:
                    column = file.read_row_group(group, ["path"]).column(0)
                    paths |= {row: column[row - first].as_py() for row in inside}
                first = end
        return paths


def _num_photos(table: Place, run: RunFolder) -> int:
    """How many embeddings a table has, after checking that they are of this run's model."""
    named = repr(os.fspath(table))
    if isinstance(table, Address):
        raise UserError(f"--index {named}: copy the table to this machine, where its index can be beside it")
    if not table.is_file():
        raise UserError(f"there is no table {named}: python -m dogbreeds index FOLDER --output {table} --embeddings")
    if table.suffix.lower() != ".parquet":
        raise UserError(f"--index {named}: embeddings are in a table that ends in .parquet")
    origin = origin_of(table)
    if not origin.get("embeddings"):
        raise UserError(f"{named} has no embeddings: make a table with index --embeddings")
    if any(origin.get(name) != run.record.sha256[name] for name in serving_files(run.record)):
        raise UserError(f"{named} holds embeddings of another model than {run.name!r}: name its run with --run-dir")
    num_photos = sum(count for verdict, count in origin["counts"].items() if verdict != UNREADABLE)
    if not num_photos:
        raise UserError(f"{named} holds no photo that could be read")
    return num_photos


def _stamp(table: Path) -> bytes:
    """What tells this table from the same one after a change."""
    found = table.stat()
    return hashlib.sha256(f"{FORMAT} {found.st_size} {found.st_mtime_ns}".encode()).digest()


def _is_of(path: Path, stamp: bytes) -> bool:
    """Whether an index ends in this stamp; FAISS does not read so far."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(stamp)))
            return file.read() == stamp
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"the index {str(path)!r} can't be read ({reason(error)})") from None


def _make(path: Path, table: Path, num_photos: int, stamp: bytes, progress: bool) -> None:
    """Write the index of a table, with the stamp behind it."""
    report(f"making the index {str(path)!r} of {num_photos:,} photos, once")
    faiss.omp_set_num_threads(num_cores())
    index = _empty_index(table, num_photos)
    with tqdm(total=num_photos, unit="photo", disable=not progress) as bar:
        for rows, vectors in _embeddings(table):
            index.add_with_ids(vectors, rows)
            bar.update(len(rows))
    assert index.ntotal == num_photos, f"{index.ntotal} of {num_photos}"
    try:
        with atomic_write(path) as temporary:
            faiss.write_index(index, str(temporary))
            with temporary.open("ab") as file:
                file.write(stamp)
    except (OSError, RuntimeError) as error:
        words = reason(error) if isinstance(error, OSError) else "no space, or no permission"
        raise UserError(f"can't write {str(path)!r} ({words}): make room, or copy the table elsewhere") from None


def _empty_index(table: Path, num_photos: int) -> faiss.Index:
    """An index that knows its centres, if it has some; embeddings are kept as float16."""
    num_lists = isqrt(num_photos)
    step = max(1, num_photos // (SAMPLE_PER_LIST * num_lists))
    sample = np.concatenate(list(_every(step, _embeddings(table))))
    kind = "IDMap,SQfp16" if num_photos <= EXACT_UP_TO else f"IVF{num_lists},SQfp16"
    index = faiss.index_factory(sample.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.train(sample)
    return index


def _every(step: int, embeddings: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """The first of each so many vectors."""
    num_before = 0
    for _, vectors in embeddings:
        yield vectors[-num_before % step :: step].copy()  # a view would keep them all in memory
        num_before += len(vectors)


def _embeddings(table: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The numbers of rows that have an embedding, int64, and those of length 1, float32, a few thousand at a time."""
    first = 0
    for batch in row_batches(table, [FEATURES]):
        (column,) = batch.columns
        has_one = column.is_valid().to_numpy(zero_copy_only=False)
        vectors = column.flatten().to_numpy().reshape(-1, column.type.list_size)  # without those that are null
        yield first + np.flatnonzero(has_one), _normalized(vectors)
        first += len(batch)


def _normalized(vectors: np.ndarray) -> np.ndarray:
    """Vectors `(N, D)` with the length 1, float32; those of zeros stay."""
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
