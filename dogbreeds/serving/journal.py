"""The rows of an unfinished table, in an SQLite database that survives a kill or a power cut.

For a table at an fsspec address, the database is a file on this machine that is copied there every minute.
"""

import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dogbreeds.addresses import Address, Place
from dogbreeds.calibration import NAMING
from dogbreeds.errors import UserError
from dogbreeds.serving.rows import UNREADABLE, Row, Summary

COPY_SECONDS = 60
"""How often a journal is copied to its address: a killed run classifies the photos of these seconds again."""


class Journal:
    """Rows in the order in which they were added, each path once."""

    def __init__(self, connection: sqlite3.Connection, columns: Sequence[str]) -> None:
        """Use `open_journal` instead.

        Args:
            connection: To a database with the table `rows`.
            columns: Of that table, without its row number; the first is "path".
        """
        self._connection = connection
        self._columns = columns

    def __len__(self) -> int:
        return self.counts().total()

    def __contains__(self, path: str) -> bool:
        found = self._connection.execute("SELECT 1 FROM rows WHERE path = ?", (os.fsencode(path),))
        return found.fetchone() is not None

    def __iter__(self) -> Generator[Row, None, None]:
        """Every row, read from the disk one after the other."""
        for path, *values in self._connection.execute(f"SELECT {_names(self._columns)} FROM rows ORDER BY number"):
            cells = zip(self._columns[1:], values, strict=True)
            yield {"path": os.fsdecode(path), **{name: value for name, value in cells if value is not None}}

    def counts(self) -> Counter[str]:
        """The number of rows with each verdict, and of those that are `UNREADABLE`."""
        query = "SELECT coalesce(verdict, ?), count(*) FROM rows GROUP BY 1"
        return Counter(dict(self._connection.execute(query, (UNREADABLE,))))

    def summary(self, right_threshold: float | None) -> Summary:
        """The `counts`, and how many answers reach the threshold of `dogbreeds.calibration.Calibration`."""
        if right_threshold is None:
            return Summary(self.counts(), None)
        query = f"SELECT count(*) FROM rows WHERE probability >= ? AND verdict IN ({', '.join('?' * len(NAMING))})"
        (num_right,) = self._connection.execute(query, (right_threshold, *NAMING)).fetchone()
        return Summary(self.counts(), num_right)

    def append(self, rows: list[Row]) -> None:
        """Add rows in one transaction: a process that is killed loses no row of an earlier call."""
        insert = f"INSERT INTO rows ({_names(self._columns)}) VALUES ({', '.join('?' * len(self._columns))})"
        with _transaction(self._connection):
            for row in rows:  # a path is stored as bytes, for it may be no valid text
                self._connection.execute(insert, (os.fsencode(row["path"]), *map(row.get, self._columns[1:])))

    def forget_unreadable(self) -> int:
        """Remove the rows of files that could not be read, as if they had not been tried; how many these were."""
        with _transaction(self._connection):
            return self._connection.execute("DELETE FROM rows WHERE verdict IS NULL").rowcount

    def has_written(self, sha256: str) -> bool:
        """Whether a table with this SHA-256 was made from these rows, or from the first of them."""
        return self._connection.execute("SELECT 1 FROM written WHERE sha256 = ?", (sha256,)).fetchone() is not None

    def add_written(self, sha256: str) -> None:
        """Remember a table, before it gets its name: whenever the process ends, its table is known."""
        with _transaction(self._connection):
            self._connection.execute("INSERT OR IGNORE INTO written VALUES (?)", (sha256,))


class CopiedJournal(Journal):
    """A journal that is copied to an address now and then, so that another machine can continue it."""

    def __init__(self, connection: sqlite3.Connection, columns: Sequence[str], source: Path, address: Address) -> None:
        """Use `open_journal` instead."""
        super().__init__(connection, columns)
        self._source = source
        self._address = address
        self.copy()

    def append(self, rows: list[Row]) -> None:
        """As `Journal.append`; a process that is killed loses the rows of at most `COPY_SECONDS`."""
        super().append(rows)
        if time.monotonic() > self._copied + COPY_SECONDS:
            self.copy()

    def copy(self) -> None:
        """Copy all rows to the address.

        Raises:
            OSError: It can't be written.
            UserError: It can't be reached.
        """
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._address.upload(self._source)
        self._copied = time.monotonic()


@contextmanager
def open_journal(path: Place, columns: Sequence[str], made_from: dict[str, Any]) -> Iterator[Journal]:
    """Open the rows of an interrupted run, or begin new ones.

    Args:
        path: The database, or the address of its copy.
        columns: Those of the table, "path" and "verdict" among them.
        made_from: What determines the rows, as values for JSON. Rows of other values are not continued.

    Raises:
        UserError: The file is no such database, its rows were made from something else, or another run is writing it.
        sqlite3.Error: The file can't be written.
        OSError: The address can't be written.
    """
    if isinstance(path, Path):
        with _connect(path, path, columns, made_from) as connection:
            yield Journal(connection, columns)
        return
    with TemporaryDirectory() as folder:
        source = Path(folder) / path.name
        if path.exists():
            path.download(source)
        with _connect(source, path, columns, made_from) as connection:
            journal = CopiedJournal(connection, columns, source, path)
            try:
                yield journal
            except BaseException:  # Ctrl-C too
                with suppress(OSError, UserError):  # the first error says more
                    journal.copy()
                raise


@contextmanager
def _connect(
    path: Path, named: Place, columns: Sequence[str], made_from: dict[str, Any]
) -> Iterator[sqlite3.Connection]:
    """Open a database, or make it.

    Args:
        path: The file.
        named: What messages call it.
        columns: Those of the table.
        made_from: What determines the rows.
    """
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # from the first statement until it is closed
            with _transaction(connection):
                _create_or_check(connection, path, named, columns, made_from)
            # With a write-ahead log, a commit need not wait for the disk, and still a power cut damages nothing.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -512")  # kB, also for sorting; the system keeps more of the file
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                message = f"another run is writing {str(named)!r}: wait for it, or give another --output"
                raise UserError(message) from None
            if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise _no_journal(path, named) from None
            raise
        yield connection
        # Closing does so too, but says nothing where the disk is full.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def journal_files(path: Place) -> list[Place]:
    """The database and the files that SQLite may have beside it, there or not."""
    if isinstance(path, Address):
        return [path]
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-journal"))]


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back
        yield


def _create_or_check(
    connection: sqlite3.Connection, path: Path, named: Place, columns: Sequence[str], made_from: dict[str, Any]
) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT)")
        values = [(name, json.dumps(value)) for name, value in made_from.items()]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", values)
        others = _names(columns[1:])
        connection.execute(f"CREATE TABLE rows (number INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, {others})")
        connection.execute("CREATE TABLE written (sha256 TEXT PRIMARY KEY)")
        return
    if tables != {"meta", "rows", "written"}:
        raise _no_journal(path, named)
    found = {name: json.loads(value) for name, value in connection.execute("SELECT name, value FROM meta")}
    differing = [name for name in made_from if found.get(name) != made_from[name]]
    if differing:
        raise UserError(
            f"{str(named)!r} was begun with {difference(differing, found, made_from)}: delete it to start again, or "
            "give the original options to continue it"
        )


def difference(names: Sequence[str], found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """A few words on what two tables were made from.

    Args:
        names: What differs; at least one.
        found: What one table was made from.
        wanted: What the other was.
    """
    first, others = names[0], ", ".join(names[1:])
    words = f"{first} {found.get(first)!r}, not {wanted.get(first)!r}"
    if first == "list_sha256":
        words = f"another list, or the list has changed since (its SHA-256 was {found.get(first)}, now {wanted[first]})"
    return words + (f" (also another {others})" if others else "")


def _no_journal(path: Path, named: Place) -> UserError:
    with path.open("rb") as file:
        if file.read(10) == b'{"format":':  # the JSON lines of formats 1 and 2
            return UserError(
                f"{str(named)!r} was begun by an older version of dogbreeds: delete it to start again, or continue it "
                "with that version"
            )
    return UserError(f"{str(named)!r} is no unfinished table: move it away, or give another --output")


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)  # "group" is a keyword
