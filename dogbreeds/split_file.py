"""splits.parquet of a run folder: which photos a run was trained, validated and tested on, by their content.

A run that starts from another run has a further split, of the photos that only the other was trained on; and a run
that got breeds after its training, one of the photos that they were added from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dogbreeds.errors import UserError, first_line

SPLITS = "splits.parquet"

TRAINED_BEFORE = "trained before"
"""The split of photos that a run was not trained on itself, but the run that it started from."""

ADDED = "added"
"""The split of photos that `dogbreeds.serving.add_breed` added breeds from."""

_COLUMNS = ("digest", "split", "label")


def save_splits(path: Path, digests: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]]) -> None:
    """Write a Parquet file with a row for each photo, 32 bytes for its digest and about one for the rest.

    Args:
        path: The file.
        digests: For each split (train, validation, test and others) the SHA-256 of each photo's file, in hexadecimal.
        labels: For each split the breed of each photo.
    """
    import pyarrow  # takes a while to import, which predict does without
    import pyarrow.parquet

    assert digests.keys() == labels.keys()
    rows = [
        (bytes.fromhex(digest), split, label)
        for split in digests
        for digest, label in zip(digests[split], labels[split], strict=True)
    ]
    types = (pyarrow.binary(32), pyarrow.string(), pyarrow.string())
    columns = {name: pyarrow.array([row[i] for row in rows], types[i]) for i, name in enumerate(_COLUMNS)}
    # A dictionary of digests, all different, would double the file.
    pyarrow.parquet.write_table(pyarrow.table(columns), path, use_dictionary=["split", "label"])


def load_splits(path: Path) -> dict[str, dict[str, str]] | None:
    """Read what `save_splits` wrote.

    Returns:
        For each split the breed of each photo, by the photo's digest in hexadecimal; None where there is no such file,
        as in runs of older versions.

    Raises:
        UserError: The file is damaged, or holds something else.
    """
    if not path.exists():
        return None
    import pyarrow
    import pyarrow.parquet

    splits: dict[str, dict[str, str]] = {}
    try:
        table = pyarrow.parquet.read_table(path)
        for digest, split, label in zip(*(table.column(name).to_pylist() for name in _COLUMNS), strict=True):
            splits.setdefault(split, {})[digest.hex()] = label
    except (OSError, KeyError, AttributeError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{str(path)!r} is damaged ({first_line(error)}): copy the run folder again, or remove this file and lose "
            "the warning about photos that the run was trained on"
        ) from None
    return splits


def load_trained_on(path: Path) -> dict[str, str] | None:
    """The photos that a run has learned from, also those of the run that it started from.

    Returns:
        The breed of each photo, by its digest; None where there is no such file.

    Raises:
        UserError: The file is damaged, or holds something else.
    """
    splits = load_splits(path)
    if splits is None:
        return None
    return {**splits.get("train", {}), **splits.get(TRAINED_BEFORE, {}), **splits.get(ADDED, {})}
