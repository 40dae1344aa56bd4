"""The tables of shards -> one table, which is proved to be whole.

`index --shard 3/64 --output breeds.parquet` writes breeds-00003-of-00064.parquet, whose metadata says what made it.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from dogbreeds.addresses import Address, Place, place, reason
from dogbreeds.errors import UserError, report
from dogbreeds.files import atomic_write, check_absent, check_parent, exists
from dogbreeds.photo_paths import PhotoPaths, Shard, open_paths, path_digest, shard_number
from dogbreeds.serving.journal import difference
from dogbreeds.serving.parquet import open_table, origin_of, row_batches
from dogbreeds.serving.rows import Row, Summary, schema, write_csv

NUM_NAMED = 3
"""Missing paths that a message names."""
DIGEST_BYTES = 16


def shard_table(output: Place, shard: Shard) -> Place:
    """Where the table of a shard is made, beside that which `merge` makes."""
    return output.with_name(f"{output.stem}-{shard.number:05}-of-{shard.count:05}.parquet")


def check_ending(output: Place) -> None:
    """Refuse a table in a format that `index` does not write.

    Raises:
        UserError: It ends in something else than ``.csv`` or ``.parquet``.
    """
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(
            f"{os.fspath(output)!r} ends in {output.suffix!r}: give an --output that ends in .csv or .parquet"
        )


def without_tables(paths: PhotoPaths, output: Place) -> PhotoPaths:
    """The same photos, without the files that `index` makes, where the output is in their folder.

    These are the table, those of all shards, and what is made or kept beside each: other shards may be at work or done,
    and each of them, `merge` and a run without shards must find the same photos. A list is as it is.
    """
    if paths.is_list:
        return paths
    stem, folder = re.escape(output.stem), output.parent.resolve()
    table = rf"{stem}(\.csv|\.parquet|{re.escape(output.suffix)}|-\d{{5}}-of-\d{{5}}\.parquet)"
    own = re.compile(table + r"(\.rows|\.faiss|\.partial(-wal|-journal)?)?(\.tmp)?")

    def photos() -> Iterator[str]:
        for path in paths:
            if not (own.fullmatch(path.rpartition("/")[2]) and paths.place(path).parent == folder):
                yield path

    return replace(paths, paths=photos)


def finished_summary(table: Place, made_from: Mapping[str, Any]) -> Summary | None:
    """What is in the table of a shard that is done; None where it does not exist.

    Raises:
        UserError: The table was made from something else.
    """
    if not exists(table):
        return None
    found = origin_of(table)
    wanted = json.loads(json.dumps(made_from))
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise UserError(
            f"{os.fspath(table)!r} exists already, made with {difference(differing, found, wanted)}: remove it to make "
            "it again"
        )
    return Summary.from_dict(found)


def merge(photos: str | os.PathLike[str], output: str | os.PathLike[str]) -> Summary:
    """Join the tables of all shards, after checking that every photo has a row in them, once.

    Args:
        photos: The folder or list that the shards were given.
        output: The table to make, ``.csv`` or ``.parquet``, as the shards were given it.

    Returns:
        How many files got each verdict, and how many are `dogbreeds.serving.rows.UNREADABLE`.

    Raises:
        UserError: A shard or a row is missing, a row is there twice, or a shard was made from something else; the
            output exists or can't be written.
    """
    output = place(output)
    check_ending(output)
    check_absent(output)
    if isinstance(output, Path):
        check_parent(output)
    shards = _find_shards(output, os.fspath(photos))
    origins = [origin_of(table) for table in shards]
    common = _common_origin(shards, origins)
    if common.get("embeddings") and output.suffix.lower() != ".parquet":
        raise UserError(
            f"{os.fspath(output)!r} can't hold the embeddings of the shards: give one that ends in .parquet"
        )
    with open_paths(photos) as found:
        paths = without_tables(found, output)
        _check_photos(paths, common)
        _check_rows(paths, shards)
    summary = reduce(add, map(Summary.from_dict, origins))
    try:
        with atomic_write(output) as temporary:
            _join(shards, temporary, output.suffix.lower(), {**common, **summary.to_dict()})
    except OSError as error:
        raise UserError(f"can't write {os.fspath(output)!r} ({reason(error)})") from None
    return summary


def _find_shards(output: Place, photos: str) -> list[Place]:
    """The tables of all shards, in order."""
    folder = output.parent
    try:
        names = folder.names() if isinstance(folder, Address) else os.listdir(folder)
    except OSError as error:
        raise UserError(f"the folder {os.fspath(folder)!r} can't be read ({reason(error)})") from None
    pattern = re.compile(re.escape(output.stem) + r"-(\d{5})-of-(\d{5})\.parquet")
    found = {(int(match[1]), int(match[2])) for name in names if (match := pattern.fullmatch(name))}
    counts = sorted({count for _, count in found})
    if len(counts) != 1:
        fault = f"of {' and of '.join(map(str, counts))}: remove those of one" if counts else "none"
        example = shard_table(output, Shard(1, 64)).name
        raise UserError(f"the shards of {os.fspath(output)!r} (such as {example}) are {fault}")
    shards = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    missing = [shard for shard in shards if (shard.number, shard.count) not in found]
    if missing:
        raise UserError(
            f"{len(missing)} of {counts[0]} shards are missing: {_some([str(shard) for shard in missing], 20)}; make "
            f"each with: index {photos} --shard {missing[0]} --output {os.fspath(output)}"
        )
    return [shard_table(output, shard) for shard in shards]


def _common_origin(shards: list[Place], origins: list[dict[str, Any]]) -> dict[str, Any]:
    """What made all shards, which must be the same."""
    own = {"shard", *Summary(Counter(), None).to_dict()}
    first = {name: value for name, value in origins[0].items() if name not in own}
    for number, (table, origin) in enumerate(zip(shards, origins, strict=True), 1):
        if origin.get("shard") != f"{number}/{len(shards)}":
            raise UserError(f"{os.fspath(table)!r} holds another shard, {origin.get('shard')}: remove it")
        names = dict.fromkeys([*first, *origin])
        differing = [name for name in names if name not in own and origin.get(name) != first.get(name)]
        if differing:
            raise UserError(
                f"{os.fspath(table)!r} was made with {difference(differing, origin, first)} as the first shard: remove "
                "it, and make it again with the same model, options and photos"
            )
    return first


def _check_photos(paths: PhotoPaths, origin: Mapping[str, Any]) -> None:
    differing = [name for name, value in paths.identity.items() if origin.get(name) != value]
    if differing:
        raise UserError(
            f"the shards were made with {difference(differing, origin, paths.identity)}: name what they were made from"
        )


def _check_rows(paths: PhotoPaths, shards: list[Place]) -> None:
    """Check that each path has a row, once, and in its shard. A folder may have lost photos since."""
    expected = [bytearray() for _ in shards]
    for path in paths:
        digest = path_digest(path)
        expected[shard_number(digest, len(shards)) - 1] += digest
    missing: set[bytes] = set()
    num_gone = 0
    for number, (table, digests) in enumerate(zip(shards, expected, strict=True), 1):
        wanted = {bytes(digests[i : i + DIGEST_BYTES]) for i in range(0, len(digests), DIGEST_BYTES)}
        found: set[bytes] = set()
        for path in _paths(table):
            digest = path_digest(path)
            if digest in found:
                raise UserError(f"{os.fspath(table)!r} has two rows for {path!r}: remove it, and make it again")
            if shard_number(digest, len(shards)) != number or (paths.is_list and digest not in wanted):
                raise UserError(f"{os.fspath(table)!r} has a row for {path!r}, which is none of its photos: remove it")
            found.add(digest)
        missing |= wanted - found
        num_gone += len(found - wanted)
    if missing:
        _say_missing(paths, missing, shards)
    if num_gone:
        report(f"note: {num_gone:,} photos of {paths.named!r} that have a row are gone since")


def _say_missing(paths: PhotoPaths, missing: set[bytes], shards: list[Place]) -> None:
    named, numbers = [], set()
    for path in paths:
        digest = path_digest(path)
        if digest in missing:
            missing.remove(digest)
            named.append(path)
            numbers.add(shard_number(digest, len(shards)))
    tables = _some([os.fspath(shards[number - 1]) for number in sorted(numbers)], NUM_NAMED)
    raise UserError(
        f"{len(named):,} photos have no row, such as {_some([repr(path) for path in named], NUM_NAMED)}: remove "
        f"{tables}, and make each again"
    )


def _some(words: list[str], most: int) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most:,} more" if len(words) > most else "")


def _join(shards: list[Place], target: Path, suffix: str, origin: Mapping[str, Any]) -> None:
    """Write the rows of all shards to one file."""
    from pyarrow.parquet import ParquetWriter

    with open_table(shards[0]) as file:
        names = file.schema_arrow.names
    if suffix == ".csv":
        with target.open("w", newline="", encoding="utf-8") as csv_file:
            write_csv(csv_file, _rows(shards), names)
        return
    joined = schema(names, origin)
    with ParquetWriter(target, joined) as writer:
        for table in shards:
            for batch in row_batches(table):
                writer.write_batch(batch.cast(joined))


def _rows(shards: list[Place]) -> Iterator[Row]:
    for table in shards:
        for batch in row_batches(table):
            for row in batch.to_pylist():
                yield {name: value for name, value in row.items() if value is not None}


def _paths(table: Place) -> Iterator[str]:
    for batch in row_batches(table, ["path"]):
        yield from batch.column(0).to_pylist()
