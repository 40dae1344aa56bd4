"""Photos -> a table with one row for each, in constant memory; the same command continues it.

Rows are kept in an SQLite database, `<output>.partial`. When every photo has its row, the table is written under
another name and renamed: it is complete or absent. On this machine the rows stay, as `<output>.rows`, so that photos
that come later get theirs too.
"""

import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from dogbreeds.addresses import Address, Place, place, reason
from dogbreeds.errors import UserError
from dogbreeds.files import atomic_write, check_absent, check_parent, exists, partial_path, sha256
from dogbreeds.machine import num_cores, on_all_cores, share_freed_memory
from dogbreeds.photo_paths import PhotoPaths, Shard, open_paths
from dogbreeds.photos import batches
from dogbreeds.run_folder import RunFolder, serving_files
from dogbreeds.serving.journal import Journal, journal_files, open_journal
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.rows import UNREADABLE, Row, Summary, classify, columns, write_table
from dogbreeds.serving.shards import check_ending, finished_summary, shard_table, without_tables
from dogbreeds.serving.sidecars import write_sidecars

BATCH_SIZE = 8
"""Photos that one core decodes and classifies at a time; with 16 it was slower."""
BATCHES_PER_CORE = 2
"""Batches in progress or waiting. Rows are kept in order, so with fewer, cores would wait for a slow batch."""

FORMAT = 3
"""Increased when rows of an older version can no longer be continued. 1 and 2 were files of JSON lines."""

Engine = Callable[[RunFolder, Iterable[tuple[str, Place]], int, bool], Iterator[list[Row]]]
"""Classifies photos, each given by the text for the column "path" and where it is, into rows that name so many breeds
and hold embeddings if asked. It may return the rows in another order."""


def rows_on_all_cores(
    run: RunFolder, photos: Iterable[tuple[str, Place]], top_k: int, embeddings: bool
) -> Iterator[list[Row]]:
    """The engine that uses the cores of this machine; rows keep the order of the photos."""
    share_freed_memory()
    predictor = Predictor(run, num_threads=1)  # each core classifies a batch of its own

    def rows_of(batch: list[tuple[str, Place]]) -> list[Row]:
        return classify(predictor, dict(batch), top_k=top_k, embeddings=embeddings)

    return on_all_cores(rows_of, batches(photos, BATCH_SIZE), BATCHES_PER_CORE * num_cores())


def index_library(
    run_dir: str | os.PathLike[str],
    photos: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    top_k: int = 3,
    only_breeds: Sequence[str] = (),
    embeddings: bool = False,
    write_tags: bool = False,
    retry_unreadable: bool = False,
    shard: Shard | None = None,
    engine: Engine = rows_on_all_cores,
    progress: bool = True,
) -> Summary:
    """Classify every photo of a folder and its sub-folders, or of a list, into a table.

    The columns are path (relative to the folder, with "/", or as in the list), verdict, breed, probability, breed_2,
    probability_2 and so on, group (the breed group, where only that is certain) and error (why a file could not be
    read; the columns between are then empty). Probabilities have 4 decimals. In CSV, text that a spreadsheet would run
    as a formula has an apostrophe before it. Hidden files and folders, sidecars and links to folders are left out. A
    folder that can't be listed gets a row too. A path that a list names twice gets one row.

    A run continues the one before it: files with a row keep it, even if they are gone; new files get one. A finished
    table is continued too, on this machine and without `shard`, unless somebody has changed it. Memory does not depend
    on the number of files, except for the names in the folder that is being listed.

    Args:
        run_dir: The run folder that answers.
        photos: The photo library: a folder, or a text or Parquet file of paths; see `dogbreeds.photo_paths`. This and
            the output may be fsspec addresses.
        output: The table to make, ``.csv`` or ``.parquet``.
        top_k: How many breeds to name, at least 1; no more than the run knows are named.
        only_breeds: Those that come into question; empty for all.
        embeddings: Add the column `dogbreeds.serving.rows.FEATURES`; the table must be Parquet.
        write_tags: Write sidecars too; see `dogbreeds.serving.sidecars`. Not with `shard`.
        retry_unreadable: Files that have a row with an error lose it, and those still there are tried again.
        shard: Make the table of this part of the photos only; see `dogbreeds.serving.shards`.
        engine: What classifies the photos.
        progress: Show a progress bar.

    Returns:
        How many files got each verdict, and about how many answers are right.

    Raises:
        UserError: There are no photos; the output is of something else or was changed, can't be written, or has another
            ending; its partial file was made from something else, or another run is writing it; the run folder is
            damaged, or lacks one of the breeds or embeddings; a sidecar can't be written; an address can't be reached,
            or the folder is gone.
    """
    output = place(output)
    table = _checked_table(output, embeddings, shard)
    with open_paths(photos) as found:
        paths = without_tables(found, output)
        _check_photos(paths, shard, write_tags)
        run = RunFolder.open(run_dir).only(only_breeds)
        top_k = min(top_k, len(run.listed or run.labels))
        made_from = _made_from(run, paths, top_k, _num_features(run) if embeddings else None, shard)
        if shard and (summary := finished_summary(table, made_from)) is not None:
            return _done(shard, table, summary, retry_unreadable)
        return _make_table(table, run, paths, shard, made_from, engine, write_tags, retry_unreadable, progress)


def _checked_table(output: Place, embeddings: bool, shard: Shard | None) -> Place:
    """Where the table is made; what can't succeed is refused before any work is done."""
    check_ending(output)
    if embeddings and output.suffix.lower() == ".csv":
        raise UserError(f"--embeddings can't be kept in {os.fspath(output)!r}: give an --output that ends in .parquet")
    table = shard_table(output, shard) if shard else output
    if table.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:  # serving works without it
        instead = "" if shard else ", or give a .csv as --output"
        raise UserError(f"{os.fspath(table)!r} needs the package pyarrow: pip install pyarrow{instead}")
    if isinstance(output, Path):
        check_parent(output)
        if not os.access(output.parent, os.W_OK | os.X_OK):
            raise UserError(f"can't write in the folder {str(output.parent)!r}: give another --output")
    if shard is None and not _has_rows(output):
        check_absent(output)
    return table.parent.resolve() / table.name


def _done(shard: Shard, table: Place, summary: Summary, retry_unreadable: bool) -> Summary:
    """What is in the table of a shard that is finished, whose rows can't be replaced any more."""
    num_unreadable = summary.counts[UNREADABLE]
    if retry_unreadable and num_unreadable:
        raise UserError(
            f"--retry-unreadable can't change the finished {os.fspath(table)!r}, in which {num_unreadable:,} files "
            "could not be read: remove it to make the shard again"
        )
    print(f"shard {shard} is done: {os.fspath(table)!r}", file=sys.stderr)
    return summary


def _check_photos(paths: PhotoPaths, shard: Shard | None, write_tags: bool) -> None:
    """Refuse no photos, and sidecars where they can't be or where a shard that is done would lack them."""
    if next(iter(paths), None) is None:
        what = "names no photos" if paths.is_list else "holds no files"
        raise UserError(f"{paths.named!r} {what}: name the folder with the photos")
    if write_tags and (shard or isinstance(paths.root, Address)):
        where = "with --shard" if shard else f"beside the photos of {paths.named!r}, which are not on this machine"
        raise UserError(f"--write-tags can't write sidecars {where}: leave it out")


def kept_rows(table: Path) -> Path:
    """Where the rows of a finished table stay."""
    return table.with_name(table.name + ".rows")


def index_of_embeddings(table: Path) -> Path:
    """Where `dogbreeds.serving.similar` keeps the index of a table's embeddings."""
    return table.with_name(table.name + ".faiss")


def _has_rows(table: Place) -> bool:
    return isinstance(table, Path) and (exists(kept_rows(table)) or exists(partial_path(table)))


def _num_features(run: RunFolder) -> int:
    """How many numbers an embedding of the run has."""
    features = Predictor(run).outputs([Image.new("RGB", (run.preprocessing.size, run.preprocessing.size))]).features
    if features is None:
        raise UserError(
            f"the model of {run.name!r} gives no features for --embeddings: train it again, or name another run with "
            "--run-dir"
        )
    return features.shape[1]


def _made_from(
    run: RunFolder, paths: PhotoPaths, top_k: int, num_features: int | None, shard: Shard | None
) -> dict[str, Any]:
    """What determines the rows; where any of it differs, rows must not be mixed."""
    hashes = {name: run.record.sha256[name] for name in serving_files(run.record)}
    asked = {"only_breeds": run.listed and list(run.listed), "top_k": top_k, "embeddings": num_features}
    made_from = {"format": FORMAT, **paths.identity, **asked, **hashes, **vars(run.calibration)}
    return {**made_from, "shard": str(shard)} if shard else made_from


def _make_table(
    table: Place,
    run: RunFolder,
    paths: PhotoPaths,
    shard: Shard | None,
    made_from: dict[str, Any],
    engine: Engine,
    write_tags: bool,
    retry_unreadable: bool,
    progress: bool,
) -> Summary:
    """Classify what has no row yet, and write the table when all have one."""
    has_embeddings = made_from["embeddings"] is not None
    partial, names = partial_path(table), columns(made_from["top_k"], has_embeddings)
    try:
        if isinstance(table, Path) and kept_rows(table).exists() and not partial.exists():
            kept_rows(table).rename(partial)
        with open_journal(partial, names, made_from) as journal:

            def rows_of(photos: Iterable[tuple[str, Place]]) -> Iterator[list[Row]]:
                return engine(run, photos, made_from["top_k"], has_embeddings)

            if isinstance(table, Path) and table.exists() and not journal.has_written(sha256(table)):
                raise UserError(
                    f"{str(table)!r} was changed since index wrote it: move it away, or give another --output"
                )
            if retry_unreadable and (num_forgotten := journal.forget_unreadable()):
                print(f"trying again {num_forgotten:,} files that could not be read", file=sys.stderr)
            _add_missing_rows(journal, rows_of, paths, shard, progress)
            if write_tags:
                with closing(iter(journal)) as rows:
                    print(write_sidecars(rows, paths.place), file=sys.stderr)
            # The threshold is for probabilities of all breeds, not for those that listed ones share.
            threshold = None if run.listed else run.calibration.right_threshold
            origin = {**made_from, **journal.summary(threshold).to_dict()}
            with closing(iter(journal)) as rows, atomic_write(table) as temporary:  # an open query blocks closing
                write_table(temporary, rows, names, table.suffix.lower(), origin)
                journal.add_written(sha256(temporary))
        if isinstance(table, Path) and isinstance(partial, Path) and shard is None:
            partial.rename(kept_rows(table))
        for file in journal_files(partial):
            file.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"can't write {os.fspath(table)!r} ({reason(error) if isinstance(error, OSError) else error}): solve that "
            f"and give the same command again; what is done is kept in {os.fspath(partial)!r}"
        ) from None
    return Summary.from_dict(origin)


def _add_missing_rows(
    journal: Journal,
    rows_of: Callable[[Iterable[tuple[str, Place]]], Iterator[list[Row]]],
    paths: PhotoPaths,
    shard: Shard | None,
    progress: bool,
) -> None:
    """Classify every file that has no row yet."""
    num_done = len(journal)
    if num_done:
        num_unreadable = journal.counts()[UNREADABLE]
        again = f"; {num_unreadable:,} could not be read: --retry-unreadable tries them again" if num_unreadable else ""
        print(f"continuing: {num_done:,} files are done{again}", file=sys.stderr)

    def files() -> Iterator[str]:
        return (path for path in paths if shard is None or path in shard)

    total = num_done + sum(1 for path in files() if path not in journal) if progress else None
    in_progress: set[str] = set()  # a list may name a photo again before it has its row
    num_again = 0

    def missing() -> Iterator[tuple[str, Place]]:
        nonlocal num_again
        for path in files():
            if path in in_progress or path in journal:
                num_again += 1
            else:
                in_progress.add(path)
                yield path, paths.place(path)

    with tqdm(total=total, initial=num_done, unit="photo", disable=not progress) as bar:
        for rows in rows_of(missing()):
            if any("error" in row for row in rows):
                _check_still_there(paths)
            journal.append(rows)
            in_progress.difference_update(row["path"] for row in rows)
            bar.update(len(rows))
    assert not in_progress, f"{len(in_progress)} photos got no row"
    if paths.is_list and num_again > num_done:
        num_repeated = num_again - num_done
        print(f"{paths.named!r} names photos again {num_repeated:,} times: each has one row", file=sys.stderr)


def _check_still_there(paths: PhotoPaths) -> None:
    """Stop where the whole folder is gone, as of a network or a disk: its photos would get rows that say they are."""
    if paths.is_list or isinstance(paths.root, Address):  # an address says whether a file or the network fails
        return
    try:
        with os.scandir(paths.root) as entries:
            why = "" if next(entries, None) else "it is empty"  # such as where something was mounted
    except OSError as error:
        why = reason(error)
    if why:
        raise UserError(f"the folder {paths.named!r} is gone ({why}): give the same command again when it is back")
