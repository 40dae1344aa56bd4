"""The rows of an unfinished table, in an SQLite database that survives a kill or a power cut."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from dogbreeds.errors import UserError
from dogbreeds.serving.rows import UNREADABLE, Row


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

    def append(self, rows: list[Row]) -> None:
        """Add rows in one transaction: a process that is killed loses no row of an earlier call."""
        insert = f"INSERT INTO rows ({_names(self._columns)}) VALUES ({', '.join('?' * len(self._columns))})"
        with _transaction(self._connection):
            for row in rows:  # a path is stored as bytes, for it may be no valid text
                self._connection.execute(insert, (os.fsencode(row["path"]), *map(row.get, self._columns[1:])))


@contextmanager
def open_journal(path: Path, columns: Sequence[str], made_from: dict[str, Any]) -> Iterator[Journal]:
    """Open the rows of an interrupted run, or begin new ones.

    Args:
        path: The database.
        columns: Those of the table, "path" and "verdict" among them.
        made_from: What determines the rows, as values for JSON. Rows of other values are not continued.

    Raises:
        UserError: The file is no such database, its rows were made from something else, or another run is writing it.
        sqlite3.Error: The file can't be written.
    """
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # from the first statement until it is closed
            with _transaction(connection):
                _create_or_check(connection, path, columns, made_from)
            # With a write-ahead log, a commit need not wait for the disk, and still a power cut damages nothing.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                message = f"another run is writing {str(path)!r}: wait for it, or give another --output"
                raise UserError(message) from None
            if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise _no_journal(path) from None
            raise
        yield Journal(connection, columns)


def journal_files(path: Path) -> list[Path]:
    """The database and the files that SQLite may have beside it, there or not."""
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-journal"))]


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back
        yield


def _create_or_check(
    connection: sqlite3.Connection, path: Path, columns: Sequence[str], made_from: dict[str, Any]
) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT)")
        values = [(name, json.dumps(value)) for name, value in made_from.items()]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", values)
        others = _names(columns[1:])
        connection.execute(f"CREATE TABLE rows (number INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, {others})")
        return
    if tables != {"meta", "rows"}:
        raise _no_journal(path)
    found = {name: json.loads(value) for name, value in connection.execute("SELECT name, value FROM meta")}
    differing = [name for name in made_from if found.get(name) != made_from[name]]
    if differing:
        first, others = differing[0], ", ".join(differing[1:])
        raise UserError(
            f"{str(path)!r} was begun with {first} {found.get(first)!r}, not {made_from[first]!r}"
            + (f" (also another {others})" if others else "")
            + ": delete it to start again, or give the original options to continue it"
        )


def _no_journal(path: Path) -> UserError:
    with path.open("rb") as file:
        if file.read(10) == b'{"format":':  # the JSON lines of formats 1 and 2
            return UserError(
                f"{str(path)!r} was begun by an older version of dogbreeds: delete it to start again, or continue it "
                "with that version"
            )
    return UserError(f"{str(path)!r} is no unfinished table: move it away, or give another --output")


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)  # "group" is a keyword
