"""Writing files and folders so that each is whole or absent, whenever the process ends.

At an fsspec address, they are made on this machine and uploaded when they are whole.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

from dogbreeds.addresses import Address, Place, reason
from dogbreeds.errors import UserError, first_line

MAX_JSON_BYTES = 16 * 2**20
"""Of a JSON file that is read: more than a run folder needs, and parsed within half a gigabyte whatever it holds."""


def cache_folder() -> Path:
    """Where files are kept that can be made again, of this project: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dogbreeds"


@overload
def partial_path(path: Path) -> Path: ...


@overload
def partial_path(path: Address) -> Address: ...


def partial_path(path: Place) -> Place:
    """Where the folder or file that will become `path` is made."""
    return path.with_name(path.name + ".partial")


def temporary_path(path: Path) -> Path:
    """Where `atomic_write` writes the file that will become `path`."""
    return path.with_name(path.name + ".tmp")


@contextmanager
def atomic_write(path: Place) -> Iterator[Path]:
    """Write a file under a temporary name beside it, which replaces `path` when the block ends.

    The content is on the disk before the file gets its name. If the block raises, `path` stays as it was. Processes
    that may write the same file at once need a lock.

    Yields:
        The temporary path, to be written and closed within the block.
    """
    if isinstance(path, Address):
        with TemporaryDirectory() as folder:
            yield Path(folder) / path.name
            path.upload(Path(folder) / path.name)
        return
    temporary = temporary_path(path)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_or_absent(path: Place) -> Iterator[Path]:
    """Fill a new folder under a temporary name beside it, which becomes `path` when the block ends.

    If the block raises, the folder is removed. At an address, the files are uploaded one after the other.

    Yields:
        The temporary folder.

    Raises:
        UserError: `path`, or an unfinished one, exists already, or can't be made.
    """
    check_absent(path)
    if isinstance(path, Address):
        with TemporaryDirectory() as folder:
            yield Path(folder)
            for file in sorted(file for file in Path(folder).rglob("*") if file.is_file()):
                (path / file.relative_to(folder).as_posix()).upload(file)
        return
    partial = partial_path(path)
    make_folder(partial)
    try:
        yield partial
        if partial.exists():  # `run_folder.commit` renames it itself
            partial.rename(path)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise


def make_folder(path: Path) -> None:
    """Make a folder that does not exist yet.

    Raises:
        UserError: It exists already, or can't be made.
    """
    check_absent(path)
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't make the folder {str(path)!r}: {error.strerror}") from None


def exists(path: Place) -> bool:
    """Whether a file or folder is there.

    Raises:
        UserError: It can't be told: the name is too long, or the place may not be looked into.
    """
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"{os.fspath(path)!r} can't be read ({reason(error)})") from None


def check_absent(path: Place | None, *, option: str = "--output") -> None:
    """Refuse an output path that exists, before any work is done.

    Args:
        path: Where results will be written; None if nowhere.
        option: The option that named it.

    Raises:
        UserError: It exists already, or that can't be told.
    """
    if path and exists(path):
        raise UserError(f"{str(path)!r} exists already: give another {option}, or remove it")


def check_parent(path: Path | None, *, option: str = "--output") -> None:
    """Refuse an output path in a folder that does not exist.

    Args:
        path: Where results will be written; None if nowhere.
        option: The option that named it.

    Raises:
        UserError: There is no such folder.
    """
    if path and not (exists(path.parent) and path.parent.is_dir()):
        raise UserError(f"there is no folder {str(path.parent)!r} for the {option}: make it, or give another")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, or replace it."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: The file is missing or damaged, or so large that it is something else.
    """
    if not path.exists():
        raise UserError(f"{path.name} is missing in {str(path.parent)!r}")
    try:
        if not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:  # a pipe, which never ends, or a folder
            raise ValueError(f"it is no file of at most {MAX_JSON_BYTES / 2**20:.0f} MB")
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise UserError(f"{str(path)!r} is damaged: its values are nested too deep") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is damaged: {first_line(error)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{str(path)!r} is damaged: it holds no JSON object")
    return value


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV, in UTF-8.

    Args:
        path: The file.
        rows: The first one is the header.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
