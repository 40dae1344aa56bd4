"""Which photos a run's calibration was fitted on, by their content, for those who judge the run on others."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from dogbreeds.errors import UserError
from dogbreeds.files import write_csv
from dogbreeds.predictions import Predictions
from dogbreeds.run_folder import CALIBRATION_PHOTOS, RunFolder, predictions_file

Use = tuple[str, str, str]
"""The first `DIGEST_DIGITS` of the SHA-256 of a photo, its kind, such as "dogs", and "fit" or "check"."""

DIGEST_DIGITS = 16
_COLUMNS = ("sha256", "kind", "use")


def uses(kind: str, digests: Sequence[str], checks: Sequence[bool]) -> list[Use]:
    """The rows of calibration-photos.csv of one kind of photos, of which some only check."""
    found = sorted(zip(digests, checks, strict=True))
    return [(digest[:DIGEST_DIGITS], kind, "check" if check else "fit") for digest, check in found]


def write_uses(path: Path, rows: Iterable[Use]) -> None:
    """Write calibration-photos.csv."""
    write_csv(path, [_COLUMNS, *rows])


def read_uses(run: RunFolder) -> list[Use]:
    """The rows of a run's calibration-photos.csv; none where it has none.

    Raises:
        UserError: The file is damaged.
    """
    path = run.path / CALIBRATION_PHOTOS
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [(row["sha256"], row["kind"], row["use"]) for row in csv.DictReader(file)]
    except (KeyError, UnicodeDecodeError, csv.Error, OSError):
        raise UserError(
            f"{str(path)!r} is damaged: copy the run folder again, or remove this file and lose the warning about "
            "photos that fitted the run's calibration"
        ) from None


def fitted_on(run: RunFolder) -> set[str]:
    """The first `DIGEST_DIGITS` of the digest of each photo that the calibration of a run was fitted on.

    Raises:
        UserError: The run's list of them is damaged.
    """
    fitted = {digest for digest, _, use in read_uses(run) if use == "fit"}
    validation = run.path / predictions_file("validation")
    if "validation" in run.calibration.fitted_on and validation.is_file():
        fitted |= {digest[:DIGEST_DIGITS] for digest in Predictions.load(validation).digests}
    return fitted


def num_fitted_on(run: RunFolder, digests: Sequence[str]) -> int:
    """How many photos of these digests, SHA-256 in hexadecimal, are `fitted_on`."""
    fitted = fitted_on(run)
    return sum(digest[:DIGEST_DIGITS] in fitted for digest in digests)
