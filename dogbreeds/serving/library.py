"""A folder of photos -> a table with one row for each file, in flat memory; an interrupted run is continued.

Answers go as JSON lines to `<output>.partial`, whose first line says what they were made from. When every file has its
line, the table is written from them under another name and renamed, so the table is whole or absent.
"""

import csv
import hashlib
import json
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

import numpy as np
from tqdm import tqdm

from dogbreeds.errors import UserError
from dogbreeds.files import check_absent, partial_path
from dogbreeds.images import BadImage, open_image
from dogbreeds.machine import num_cores, on_all_cores
from dogbreeds.run_folder import RunFolder, serving_files
from dogbreeds.serving.predictor import Predictor

BATCH_SIZE = 8
"""Photos that one core decodes and classifies at a time; with 16 it was slower."""
BATCHES_PER_CORE = 2
"""Batches at work or waiting, so that no core stands still behind a slow one: rows are kept in order."""
ROW_GROUP = 10_000
"""Rows of a Parquet table that are in memory at a time."""

UNREADABLE = "unreadable"
"""What is counted instead of a verdict where a file could not be read."""

FORMAT = 2
"""Raised when older rows could no longer be continued."""

_Row = dict[str, Any]
_Item = TypeVar("_Item")


def index_library(
    run_dir: str | os.PathLike[str], folder: Path, output: Path, *, top_k: int = 3, progress: bool = True
) -> Counter[str]:
    """Classify every file in a folder and its sub-folders into a table.

    The columns are path (relative, with "/"), verdict, breed, probability, breed_2, probability_2 and so on, group:
    the breed group where that is sure though the breed is not, and error: why a file could not be read, where the
    columns between are empty. Probabilities have 4 decimals. In CSV, text that
    a spreadsheet would run as a formula has an apostrophe before it. Hidden files and folders and links to folders are
    left out. A folder that can't be listed gets a row too.

    A run that was interrupted goes on where it was: files with a row keep it, even if they are gone; new ones get one.
    Memory does not grow with the number of files, but for the names of the folder that is being listed and, when a run
    is continued, 8 bytes for each file that is done.

    Args:
        run_dir: The run folder that answers.
        folder: The photo library.
        output: The table to make, ``.csv`` or ``.parquet``.
        top_k: How many breeds to name, at least 1; no more than the run knows are named.
        progress: Show a progress bar.

    Returns:
        How many files got each verdict, and how many are `UNREADABLE`.

    Raises:
        UserError: The folder is missing or holds no files; the output exists, can't be written, or is of another kind;
            its partial file was made from something else, or another run is writing it; the run folder is damaged.
    """
    _check(folder, output)
    folder, output = folder.resolve(), output.parent.resolve() / output.name
    partial = partial_path(output)
    temporary = partial_path(partial)
    ours = {p.relative_to(folder).as_posix() for p in (output, partial, temporary) if p.is_relative_to(folder)}

    def files() -> Iterator[str]:
        return (path for path in _walk(folder) if path not in ours)

    if next(files(), None) is None:
        raise UserError(f"{str(folder)!r} holds no files: name the folder with the photos")
    predictor = Predictor(run_dir, num_threads=1)  # each core has a batch of its own
    top_k = min(top_k, len(predictor.run.labels))
    try:
        with _Rows.continued(partial, _header(predictor.run, folder, top_k)) as rows:
            if len(rows):
                print(f"continuing: {len(rows):,} files are done", file=sys.stderr)
            total = len(rows) + sum(1 for path in files() if path not in rows)
            remaining = (path for path in files() if path not in rows)
            with tqdm(total=total, initial=len(rows), unit="photo", disable=not progress) as bar:
                for batch in on_all_cores(
                    lambda paths: _classify(predictor, folder, paths, top_k),
                    _batches(remaining, BATCH_SIZE),
                    BATCHES_PER_CORE * num_cores(),
                ):
                    rows.append(batch)
                    bar.update(len(batch))
            _write_table(temporary, _read_rows(partial), top_k, output.suffix.lower())
            temporary.replace(output)
        partial.unlink()
    except OSError as error:
        raise UserError(
            f"can't write {str(output)!r} ({error.strerror or error}): mend that and give the same command again; "
            f"what is done is kept in {str(partial)!r}"
        ) from None
    return rows.counts


def _check(folder: Path, output: Path) -> None:
    """Refuse what can't succeed, before any work is done."""
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"{str(output)!r} ends in {output.suffix!r}: give an --output that ends in .csv or .parquet")
    if output.suffix.lower() == ".parquet":
        import pyarrow  # noqa: F401  # serving does without, so a missing one is told now
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {str(output.parent)!r} for the --output: make it, or give another")
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
        yield inside.rstrip("/")  # to open it will fail for the same reason, and so the table has it
        return
    for name in names:
        if name.endswith("/"):
            yield from _walk(folder, inside + name)
        else:
            yield inside + name


def _listed_name(entry: os.DirEntry[str]) -> str:
    """The entry's name, of a folder with "/" behind it; empty if it is left out."""
    if entry.name.startswith("."):
        return ""
    if entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path) or not os.path.exists(entry.path):
        return entry.name  # a broken link too: its row says so
    return ""  # a link to a folder, which may lead in a circle, or a pipe or device, which may never end


def _header(run: RunFolder, folder: Path, top_k: int) -> dict[str, Any]:
    """What the rows are made from; where any of it differs, rows must not be mixed."""
    hashes = {name: run.record.sha256[name] for name in serving_files(run.record)}
    return {"format": FORMAT, "folder": str(folder), "top_k": top_k, **hashes, **run.calibration.to_dict()}


class _Rows:
    """The rows that are done, in a file of JSON lines that starts with a header."""

    def __init__(self, file: BinaryIO, header: dict[str, Any], path: Path) -> None:
        """Read the rows that are there, and drop a last line that was cut short.

        Args:
            file: Open to read and append.
            header: What the rows shall be made from.
            path: The file's name, for a person.
        """
        self.counts: Counter[str] = Counter()
        """Rows of each verdict, and those that are `UNREADABLE`."""
        self._file = file
        self._done = np.empty(0, np.uint64)
        first, header_line = file.readline(), _json_line(header)
        if first != header_line and header_line.startswith(first):  # new, or cut short in its first line
            file.truncate(0)
            self._write([header_line])
            return
        _check_header(first, header, path)
        end, done = len(first), array("Q")
        for line in file:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if row is None:  # as a kill or a power cut leaves it; the files from here on are done again
                break
            end += len(line)
            done.append(_key(row["path"]))
            self.counts[row.get("verdict", UNREADABLE)] += 1
        file.truncate(end)
        self._done = np.sort(np.array(done, np.uint64))

    @classmethod
    @contextmanager
    def continued(cls, path: Path, header: dict[str, Any]) -> Iterator["_Rows"]:
        """Open the rows of a run that was interrupted, or begin new ones.

        Raises:
            UserError: The file there was made from something else, or another run is writing it.
        """
        with path.open("a+b") as file:
            _lock(file, path)
            file.seek(0)
            yield cls(file, header, path)

    def __len__(self) -> int:
        return self.counts.total()

    def __contains__(self, path: str) -> bool:
        """Whether the file had its row before this run."""
        key = np.uint64(_key(path))
        place = np.searchsorted(self._done, key)
        return bool(place < len(self._done) and self._done[place] == key)

    def append(self, rows: list[_Row]) -> None:
        """Add rows, with one write so that little is lost whenever the process is killed."""
        self._write([_json_line(row) for row in rows])
        self.counts.update(row.get("verdict", UNREADABLE) for row in rows)

    def _write(self, lines: list[bytes]) -> None:
        self._file.write(b"".join(lines))
        self._file.flush()


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep a second run out; however this process ends, the system then opens the lock."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another run is writing {str(path)!r}: wait for it, or give another --output") from None
    except OSError:  # a network drive without locks
        pass


def _json_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"  # ASCII: names that are no valid text come back as they were


def _key(path: str) -> int:
    """64 bits in place of the name: among a million files, two agree with a chance of 1 in 30 million."""
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _check_header(line: bytes, header: dict[str, Any], path: Path) -> None:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or "format" not in found:
        raise UserError(f"{str(path)!r} is no unfinished table: move it away, or give another --output")
    differing = [name for name in header if found.get(name) != header[name]]
    if differing:
        first, others = differing[0], differing[1:]
        raise UserError(
            f"{str(path)!r} was begun with {first} {found.get(first)!r}, not {header[first]!r}"
            + (f" (also another {', '.join(others)})" if others else "")
            + ": delete it to begin anew, or give the original options to continue it"
        )


def _classify(predictor: Predictor, folder: Path, paths: list[str], top_k: int) -> list[_Row]:
    """A row for each file; columns without a value are left out."""
    run = predictor.run
    rows: list[_Row] = [{"path": path} for path in paths]
    views = []
    for row in rows:
        try:
            views.append(run.preprocessing(open_image(folder / row["path"], at_least=run.preprocessing.decoded_side)))
        except BadImage as error:
            row["error"] = str(error)
    if not views:
        return rows
    answered = [row for row in rows if "error" not in row]
    for row, answer in zip(answered, predictor.answers(predictor.logits(np.stack(views)), top_k=top_k), strict=True):
        row["verdict"] = answer.verdict
        if answer.group:
            row["group"] = answer.group
        for place, candidate in zip(places(top_k), answer.breeds, strict=True):
            row[f"breed{place}"] = candidate.breed
            row[f"probability{place}"] = round(candidate.probability, 4)
    return rows


def places(top_k: int) -> list[str]:
    """What the columns of each candidate end in."""
    return ["", *(f"_{place}" for place in range(2, top_k + 1))]


def columns(top_k: int) -> list[str]:
    """The columns of a table whose rows name this many breeds."""
    candidates = [f"{name}{place}" for place in places(top_k) for name in ("breed", "probability")]
    return ["path", "verdict", *candidates, "group", "error"]


def _read_rows(partial: Path) -> Iterator[_Row]:
    with partial.open("rb") as file:
        file.readline()  # the header
        for line in file:
            row = json.loads(line)
            # A name that is no valid text is shown with its bytes: neither format can hold it.
            row["path"] = row["path"].encode("utf-8", "backslashreplace").decode("utf-8")
            yield row


def _write_table(path: Path, rows: Iterator[_Row], top_k: int, suffix: str) -> None:
    """Write the table so that it is on the disk when this returns, or not there when this fails."""
    write = _write_parquet if suffix == ".parquet" else _write_csv
    try:
        write(path, rows, columns(top_k))
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    except BaseException:  # Ctrl-C too
        path.unlink(missing_ok=True)
        raise


def _write_csv(path: Path, rows: Iterator[_Row], columns: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        write_csv(file, rows, columns)


def write_csv(file: TextIO, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write a table of answers that no spreadsheet runs as a formula.

    Args:
        file: Opened with ``newline=""``.
        rows: Each with some of the columns: text, or numbers with 4 decimals.
        columns: The header.
    """
    # All text is quoted: left to itself, the module leaves a name with a carriage return without.
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_csv_cell(row.get(column, "")) for column in columns)


def _csv_cell(value: str | float) -> str | Decimal:
    if isinstance(value, float):
        return Decimal(f"{value:.4f}")
    # A spreadsheet would run it as a formula (https://owasp.org/www-community/attacks/CSV_Injection).
    return "'" + value if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _write_parquet(path: Path, rows: Iterator[_Row], columns: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {name: pyarrow.float32() if name.startswith("probability") else pyarrow.string() for name in columns}
    schema = pyarrow.schema(types)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for group in _batches(rows, ROW_GROUP):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
