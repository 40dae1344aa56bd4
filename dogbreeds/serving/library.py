"""A folder of photos -> a table with one row for each file, in constant memory; an interrupted run is continued.

Rows are kept in an SQLite database, `<output>.partial`. When every file has its row, the table is written under another
name and renamed: it is complete or absent.
"""

import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dogbreeds.errors import UserError
from dogbreeds.files import atomic_write, check_absent, check_parent, partial_path, temporary_path
from dogbreeds.machine import num_cores, on_all_cores
from dogbreeds.photos import batches
from dogbreeds.run_folder import RunFolder, serving_files
from dogbreeds.serving.journal import Journal, journal_files, open_journal
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.rows import Row, classify, columns, write_table

BATCH_SIZE = 8
"""Photos that one core decodes and classifies at a time; with 16 it was slower."""
BATCHES_PER_CORE = 2
"""Batches in progress or waiting. Rows are kept in order, so with fewer, cores would wait for a slow batch."""

FORMAT = 3
"""Increased when rows of an older version can no longer be continued. 1 and 2 were files of JSON lines."""


def index_library(
    run_dir: str | os.PathLike[str], folder: Path, output: Path, *, top_k: int = 3, progress: bool = True
) -> Counter[str]:
    """Classify every file in a folder and its sub-folders into a table.

    The columns are path (relative, with "/"), verdict, breed, probability, breed_2, probability_2 and so on, group (the
    breed group, where only that is certain) and error (why a file could not be read; the columns between are then
    empty). Probabilities have 4 decimals. In CSV, text that a spreadsheet would run as a formula has an apostrophe
    before it. Hidden files and folders and links to folders are left out. A folder that can't be listed gets a row too.

    An interrupted run continues: files with a row keep it, even if they are gone; new files get one. Memory does not
    depend on the number of files, except for the names in the folder that is being listed.

    Args:
        run_dir: The run folder that answers.
        folder: The photo library.
        output: The table to make, ``.csv`` or ``.parquet``.
        top_k: How many breeds to name, at least 1; no more than the run knows are named.
        progress: Show a progress bar.

    Returns:
        How many files got each verdict, and how many are `dogbreeds.serving.rows.UNREADABLE`.

    Raises:
        UserError: The folder is missing or holds no files; the output exists, can't be written, or has another ending;
            its partial file was made from something else, or another run is writing it; the run folder is damaged.
    """
    _check(folder, output)
    folder, output = folder.resolve(), output.parent.resolve() / output.name
    partial = partial_path(output)
    own_files = {output, temporary_path(output), *journal_files(partial)}

    def files() -> Iterator[str]:
        return (path for path in _walk(folder) if folder / path not in own_files)

    if next(files(), None) is None:
        raise UserError(f"{str(folder)!r} holds no files: name the folder with the photos")
    predictor = Predictor(run_dir, num_threads=1)  # each core classifies a batch of its own
    top_k = min(top_k, len(predictor.run.labels))
    try:
        with open_journal(partial, columns(top_k), _made_from(predictor.run, folder, top_k)) as journal:
            _add_missing_rows(journal, predictor, folder, files, top_k, progress)
            with closing(iter(journal)) as rows, atomic_write(output) as temporary:  # an open query blocks closing
                write_table(temporary, rows, columns(top_k), output.suffix.lower())
            counts = journal.counts()
        for file in journal_files(partial):
            file.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"can't write {str(output)!r} ({getattr(error, 'strerror', None) or error}): solve that and give the same "
            f"command again; what is done is kept in {str(partial)!r}"
        ) from None
    return counts


def _check(folder: Path, output: Path) -> None:
    """Refuse what can't succeed, before any work is done."""
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"{str(output)!r} ends in {output.suffix!r}: give an --output that ends in .csv or .parquet")
    if output.suffix.lower() == ".parquet":
        import pyarrow  # noqa: F401  # serving works without it, so report now if it is missing
    check_parent(output)
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise UserError(f"can't write in the folder {str(output.parent)!r}: give another --output")
    check_absent(output)
    if not folder.is_dir():
        hint = "it is a file; predict answers single photos" if folder.exists() else "name the folder with the photos"
        raise UserError(f"there is no folder {str(folder)!r}: {hint}")


def _walk(folder: Path, inside: str = "") -> Iterator[str]:
    """The path of every file relative to the folder, with "/", sorted by name within each folder.

    Args:
        folder: Where to start.
        inside: The sub-folder to list, empty or ending in "/".
    """
    try:
        with os.scandir(folder / inside) as entries:
            names = sorted(name for entry in entries if (name := _listed_name(entry)))
    except OSError as error:
        if not inside:
            raise UserError(f"the folder {str(folder)!r} can't be read ({error.strerror})") from None
        yield inside.rstrip("/")  # opening it fails for the same reason, so its row has the error
        return
    for name in names:
        if name.endswith("/"):
            yield from _walk(folder, inside + name)
        else:
            yield inside + name


def _listed_name(entry: os.DirEntry[str]) -> str:
    """The entry's name, with "/" after that of a folder; empty if it is left out."""
    if entry.name.startswith("."):
        return ""
    if entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path) or not os.path.exists(entry.path):
        return entry.name  # also a broken link: its row has the error
    return ""  # a link to a folder, which may lead in a circle, or a pipe or device, which may never end


def _made_from(run: RunFolder, folder: Path, top_k: int) -> dict[str, Any]:
    """What determines the rows; where any of it differs, rows must not be mixed."""
    hashes = {name: run.record.sha256[name] for name in serving_files(run.record)}
    return {"format": FORMAT, "folder": str(folder), "top_k": top_k, **hashes, **vars(run.calibration)}


def _add_missing_rows(
    journal: Journal,
    predictor: Predictor,
    folder: Path,
    files: Callable[[], Iterator[str]],
    top_k: int,
    progress: bool,
) -> None:
    """Classify every file that has no row yet."""

    def rows_of(paths: list[str]) -> list[Row]:
        return classify(predictor, {path: folder / path for path in paths}, top_k=top_k)

    num_done = len(journal)
    if num_done:
        print(f"continuing: {num_done:,} files are done", file=sys.stderr)
    total = num_done + sum(1 for path in files() if path not in journal)
    missing = (path for path in files() if path not in journal)
    with tqdm(total=total, initial=num_done, unit="photo", disable=not progress) as bar:
        for rows in on_all_cores(rows_of, batches(missing, BATCH_SIZE), BATCHES_PER_CORE * num_cores()):
            journal.append(rows)
            bar.update(len(rows))
