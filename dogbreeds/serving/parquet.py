"""A Parquet table that `index` made: what made it, and its rows."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from dogbreeds.addresses import Address, Place
from dogbreeds.errors import UserError, first_line
from dogbreeds.serving.rows import ORIGIN

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 10_000
"""Rows that are in memory at a time."""


def origin_of(table: Place) -> dict[str, Any]:
    """What made a table, as `dogbreeds.serving.rows.schema` keeps it.

    Raises:
        UserError: It is missing, damaged, or of another program.
    """
    with open_table(table) as file:
        metadata = file.schema_arrow.metadata or {}
    if ORIGIN.encode() not in metadata:
        raise UserError(f"{os.fspath(table)!r} is no table of index: move it away")
    return json.loads(metadata[ORIGIN.encode()])


def row_batches(table: Place, columns: list[str] | None = None) -> Iterator["RecordBatch"]:
    """The rows of a table, a few at a time, perhaps with these columns alone.

    Raises:
        UserError: It is missing or damaged.
    """
    with open_table(table) as file:
        yield from file.iter_batches(BATCH_ROWS, columns=columns)


@contextmanager
def open_table(table: Place) -> Iterator["ParquetFile"]:
    """A table, to read its rows.

    Raises:
        UserError: It is missing or damaged.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ExitStack() as stack:
            source = stack.enter_context(table.open()) if isinstance(table, Address) else table
            yield stack.enter_context(ParquetFile(source, pre_buffer=False, buffer_size=1_000_000))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{os.fspath(table)!r} is damaged ({first_line(error)}): remove it, and make it again"
        ) from None
