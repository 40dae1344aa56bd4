"""Which photos there are: those in a folder, on this machine or at an fsspec address, or those that a list names."""

import csv
import hashlib
import os
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from dogbreeds.addresses import Address, Place, place, reason
from dogbreeds.errors import UserError, first_line
from dogbreeds.files import sha256

LISTS = (".txt", ".csv", ".parquet")
"""The endings of a list of paths: text with one on each line, or CSV or Parquet with a column "path"."""

LIST_BATCH = 10_000
"""Rows of a Parquet list that are in memory at a time."""

SIDECAR = ".xmp"
"""The ending of what programs write beside photos about them."""
SIDE_FILES = ("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r")
"""What Windows, Picasa and macOS put into folders of photos, in lower case; their other files are hidden."""

_TEXT_TYPES = ("string", "large_string", "string_view", "binary", "large_binary")
"""Of Arrow; a name that is no valid text is binary."""


@dataclass(frozen=True)
class PhotoPaths:
    """The paths of photos, read anew at each iteration."""

    named: str
    """As the person named the folder or the list."""
    root: Place
    """Where relative paths start: the folder, or the folder of the list."""
    is_list: bool
    identity: dict[str, Any]
    """What tells these photos from others: the folder, or the SHA-256 of the list."""
    paths: Callable[[], Iterator[str]]
    labels: Callable[[], Iterator[str]] | None = None
    """The column "label" of a list."""

    def __iter__(self) -> Iterator[str]:
        """The paths; those in a folder are relative, with "/", and sorted by name within each folder."""
        return self.paths()

    def place(self, path: str) -> Place:
        """Where the photo of a path is. A list may hold addresses and absolute paths."""
        named = place(path) if self.is_list else Path(path)
        return named if isinstance(named, Address) or named.is_absolute() else self.root / path

    def file(self, path: str) -> Path:
        """Where the photo of a path is, for what reads photos of this machine alone.

        Raises:
            UserError: It is elsewhere.
        """
        where = self.place(path)
        if isinstance(where, Address):
            raise UserError(f"{path!r} in the list {self.named!r} is not on this machine: copy the photo here")
        return where

    def labelled(self) -> dict[str, str]:
        """The label of each path in a list: the column "label", or the photo's folder. A path may be named twice.

        Raises:
            UserError: A path has no label, or two.
        """
        labels = self.labels() if self.labels else (PurePosixPath(path).parent.name for path in self)
        label_of: dict[str, str] = {}
        for path, label in zip(self, labels, strict=True):
            if label_of.setdefault(path, label) != label:
                raise UserError(f"{self.named!r} gives {path!r} two labels, {label_of[path]!r} and {label!r}: keep one")
        if unlabelled := next((path for path, label in label_of.items() if not label), None):
            raise UserError(f'{unlabelled!r} in {self.named!r} is in no folder: name its breed in a column "label"')
        return label_of


@dataclass(frozen=True)
class Shard:
    """A part of the photos; which photo is in which part depends on its path alone."""

    number: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "3/64".

        Raises:
            UserError: It is no such text, or there is no such part.
        """
        found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise UserError(f"--shard {text!r}: must be a number and how many there are, such as 1/64 to 64/64")
        return cls(number, count)

    def __contains__(self, path: str) -> bool:
        return shard_number(path_digest(path), self.count) == self.number

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def path_digest(path: str) -> bytes:
    """16 bytes that stand for a path, as it is written in a table; they stay the same in later versions."""
    return hashlib.blake2b(path.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def valid_text(path: str) -> str:
    """A path as text that can be written: the bytes of a file's name that are no UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def shard_number(digest: bytes, count: int) -> int:
    """Which of this many shards the path of this digest is in, from 1."""
    return int.from_bytes(digest[:8], "big") % count + 1


@contextmanager
def open_paths(named: str | os.PathLike[str]) -> Iterator[PhotoPaths]:
    """Find a folder or a list.

    Args:
        named: A folder or a list in one of the forms of `LISTS`, on this machine or at an address.

    Raises:
        UserError: There is no such folder or list, or it can't be read.
    """
    if not os.fspath(named):  # as of a shell's variable that is not set; it would be the current folder
        raise UserError("the name of the folder is empty: name the folder with the photos")
    where = place(named)
    shown = os.fspath(where)
    try:
        is_folder = where.is_dir()
        exists = is_folder or where.exists()
    except OSError as error:
        raise UserError(f"{shown!r} can't be read ({reason(error)})") from None
    if is_folder:
        root = where.resolve()
        yield PhotoPaths(shown, root, False, {"folder": os.fspath(root)}, lambda: walk(root))
        return
    if where.suffix.lower() not in LISTS:
        hint = "it is a file; predict answers single photos" if exists else "name the folder with the photos"
        raise UserError(f"there is no folder {shown!r}: {hint}")
    if not exists:
        raise UserError(f"there is no list {shown!r}: name a text, CSV or Parquet file of paths")
    with _on_this_machine(where) as path:
        parent = where.parent.resolve()
        try:
            identity = {"list_sha256": sha256(path)}
        except OSError as error:
            raise UserError(f"the list {shown!r} can't be read ({reason(error)})") from None
        columns = _columns(path, where.suffix.lower(), shown)
        if "path" not in columns:
            raise UserError(f'the list {shown!r} has no column "path" with text')
        yield PhotoPaths(shown, parent, True, identity, columns["path"], columns.get("label"))


@contextmanager
def _on_this_machine(where: Place) -> Iterator[Path]:
    """A list, copied here if it is elsewhere: it is read several times."""
    if isinstance(where, Path):
        yield where
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / where.name
        try:
            where.download(copy)
        except OSError as error:
            raise UserError(f"the list {where!r} can't be read ({reason(error)})") from None
        yield copy


def _columns(path: Path, ending: str, shown: str) -> dict[str, Callable[[], Iterator[str]]]:
    """The columns of a list, each to be read row by row."""
    if ending == ".txt":
        return {"path": lambda: _lines(path)}
    return _csv_columns(path, shown) if ending == ".csv" else _text_columns(path, shown)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text list that are not empty; some editors begin it with a byte order mark."""
    with path.open("rb") as file:
        file.seek(len(BOM_UTF8) if file.read(len(BOM_UTF8)) == BOM_UTF8 else 0)
        for line in file:
            if name := line.rstrip(b"\r\n"):
                yield os.fsdecode(name)


def _csv_columns(path: Path, shown: str) -> dict[str, Callable[[], Iterator[str]]]:
    """The columns of a CSV file in UTF-8; spreadsheets begin it with a byte order mark."""

    @contextmanager
    def rows() -> Iterator["csv.DictReader[str]"]:
        try:
            with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
                yield csv.DictReader(file)
        except (csv.Error, OSError) as error:
            raise UserError(f"the list {shown!r} can't be read ({first_line(error)})") from None

    def column(name: str) -> Iterator[str]:
        with rows() as reader:
            for number, row in enumerate(reader, 1):
                if not row[name]:
                    raise UserError(f"the list {shown!r} has no {name} in row {number:,}: remove the row")
                yield row[name]

    with rows() as reader:
        return {name: partial(column, name) for name in reader.fieldnames or ()}


def _text_columns(path: Path, shown: str) -> dict[str, Callable[[], Iterator[str]]]:
    """The columns of a Parquet file that hold text, each to be read row by row.

    Raises:
        UserError: The file can't be read, or its labels are no text: the photos' folders must not stand in for them.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    def column(name: str) -> Iterator[str]:
        # Without these options, pyarrow reads all rows of a group, of which there may be a million.
        with ParquetFile(path, pre_buffer=False, buffer_size=1_000_000) as file:
            num_read = 0
            for batch in file.iter_batches(LIST_BATCH, columns=[name]):
                for number, text in enumerate(batch.column(0).to_pylist(), num_read + 1):
                    if not text:
                        raise UserError(f"the list {shown!r} has no {name} in row {number:,}: remove the row")
                    yield os.fsdecode(text)
                num_read += len(batch)

    try:
        with ParquetFile(path) as file:
            types = {field.name: field.type for field in file.schema_arrow}
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"the list {shown!r} can't be read ({first_line(error)})") from None
    # A categorical column of pandas is a dictionary of its texts.
    kinds = {name: str(getattr(kind, "value_type", kind)) for name, kind in types.items()}
    if kinds.get("label", "string") not in _TEXT_TYPES:
        raise UserError(f"the labels in the list {shown!r} are no text but {kinds['label']}: write the breeds' names")
    return {name: partial(column, name) for name, kind in kinds.items() if kind in _TEXT_TYPES}


def walk(folder: Place) -> Iterator[str]:
    """The path of every file relative to the folder, with "/", sorted by name within each folder.

    A sub-folder that can't be listed is among them: opening it fails for the same reason.

    Args:
        folder: Where to start.

    Raises:
        UserError: The folder can't be listed.
    """
    left = [""]  # the next one last; "" and what ends in "/" are folders
    while left:
        path = left.pop()
        if path and not path.endswith("/"):
            yield path
            continue
        try:
            names = sorted(_names(folder, path), reverse=True)
        except OSError as error:
            if not path:
                raise UserError(f"the folder {os.fspath(folder)!r} can't be read ({reason(error)})") from None
            yield path.rstrip("/")
        else:
            left += [path + name for name in names]


def _names(folder: Place, inside: str) -> list[str]:
    """The names in a folder that are not left out, with "/" after those of folders."""
    if isinstance(folder, Address):
        return [name for name in (folder / inside).names() if not is_left_out(name)]
    with os.scandir(folder / inside) as entries:
        return [name for entry in entries if (name := _listed_name(entry))]


def is_left_out(name: str) -> bool:
    """Whether a file is no photo by its name: hidden, a sidecar, or one of `SIDE_FILES`."""
    return name.startswith(".") or name.lower().endswith(SIDECAR) or name.lower() in SIDE_FILES


def _listed_name(entry: os.DirEntry[str]) -> str:
    """The entry's name, with "/" after that of a folder; empty if it is left out."""
    if is_left_out(entry.name):
        return ""
    if entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path) or not os.path.exists(entry.path):
        return entry.name  # also a broken link: its row has the error
    return ""  # a link to a folder, which may lead in a circle, or a pipe or device, which may never end
